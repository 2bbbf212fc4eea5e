"""A small model and its examples, made by code: the answer is known beforehand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save

AUDIT = """\
model: mlp.onnx
examples:
  pool: {{arrays: pool.npy}}
  leaning: {{arrays: leaning.npy}}
concepts:
  first: {{examples: leaning, against: pool}}
targets:
  yes: {{output: logits, index: 1, examples: pool}}
layers: [hidden]
method: {{runs: 10, permutations: 199, bootstrap: 99, seed: 3}}
gate:
  - {{concept: first, target: yes, must: {must}, tolerance: 0.1}}
"""


def write_audit(folder: Path, must: str = "not_matter") -> Path:
    """An audit of a model whose answer is its first input, and a concept that is high values of that input."""
    random = np.random.default_rng(7)
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["before"], name="gemm1"),
        helper.make_node("Tanh", ["before"], ["hidden"], name="tanh1"),
        helper.make_node("Gemm", ["hidden", "w2", "b2"], ["between"], name="gemm2"),
        helper.make_node("Tanh", ["between"], ["deep"], name="tanh2"),
        helper.make_node("Gemm", ["deep", "w3", "b3"], ["logits"], name="gemm3"),
    ]
    weights = {"w1": np.eye(6), "b1": np.zeros(6), "w2": random.normal(size=(6, 6)) / 9, "b2": np.zeros(6)}
    weights["w2"][0] = 1
    weights |= {"w3": np.stack([-np.ones(6), np.ones(6)], axis=1), "b3": np.zeros(2)}
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 6])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), folder / "mlp.onnx")
    pool = random.normal(size=(80, 6)).astype(np.float32)
    leaning = random.normal(size=(40, 6)).astype(np.float32)
    leaning[:, 0] += 2
    np.save(folder / "pool.npy", pool)
    np.save(folder / "leaning.npy", leaning)
    path = folder / "audit.yaml"
    path.write_text(AUDIT.format(must=must))
    return path
