"""Writes `caveat/files/audit/`, the audit of `helm test`: `python helm/small_audit.py FOLDER`.

The small network uses its first feature and ignores its second, so both answers are known in advance.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

FEATURES, EXAMPLES = 4, 40

AUDIT = """\
# A network that follows its first feature and ignores its second: written by helm/small_audit.py.
model: model.onnx
examples:
  base: {arrays: base.npy}
  targets: {arrays: targets.npy}
  used: {arrays: used.npy, pairs_with: base}
  ignored: {arrays: ignored.npy, pairs_with: base}
concepts:
  used: {examples: used, against: base}
  ignored: {examples: ignored, against: base}
targets:
  first: {index: 0, examples: targets}
layers: [hidden1]
method: {runs: 30, permutations: 199, bootstrap: 199, seed: 3}
gate:
  - {concept: used, target: first, must: matter}
  - {concept: ignored, target: first, must: not_matter, tolerance: 0.2}
"""


def main(folder: Path) -> None:
    """Writes the audit file, the model and the examples."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "audit.yaml").write_text(AUDIT)
    (folder / "model.onnx").write_bytes(network().SerializeToString(deterministic=True))
    for name, values in examples().items():
        np.save(folder / f"{name}.npy", values.astype(np.float32))


def network() -> onnx.ModelProto:
    """[N, 4] → tanh layer `hidden1` → tanh layer `hidden2` → two logits → probabilities.

    The second feature is encoded in a unit that no later layer reads: it is ignored, although it is represented.
    """
    rng = np.random.default_rng(5)
    first = rng.normal(size=(FEATURES, 8)) / 2
    first[1] = 0
    weights = {
        "first": np.concatenate([first, np.eye(FEATURES)[:, 1:2]], axis=1),
        "second": np.concatenate([rng.normal(size=(8, 6)) / 2, np.zeros((1, 6))]),
        "third": rng.normal(size=(6, 2)),
    }
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "first"], ["linear1"]),
            helper.make_node("Tanh", ["linear1"], ["hidden1"]),
            helper.make_node("MatMul", ["hidden1", "second"], ["linear2"]),
            helper.make_node("Tanh", ["linear2"], ["hidden2"]),
            helper.make_node("MatMul", ["hidden2", "third"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        ],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", FEATURES])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 2])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def examples() -> dict[str, NDArray[np.float64]]:
    """Random rows, and copies in which one feature is larger."""
    rng = np.random.default_rng(8)
    base = rng.normal(size=(EXAMPLES, FEATURES))
    more = {name: base + 1.5 * np.eye(FEATURES)[number] for number, name in enumerate(["used", "ignored"])}
    return {"base": base, "targets": rng.normal(size=(EXAMPLES, FEATURES)), **more}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
