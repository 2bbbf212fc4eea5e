"""Where in a picture an effect arises."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.audits.conftest import Bench

SIZE = 8


@pytest.fixture
def pictures(tmp_path: Path) -> Bench:
    """[N, 1, 8, 8] → convolution and tanh `hidden` → two logits that read every position; the concept is a corner."""
    rng = np.random.default_rng(1)
    weights = {
        "kernels": rng.normal(size=(3, 1, 3, 3)).astype(np.float32) / 3,
        "head": rng.normal(size=(3 * SIZE * SIZE, 6)).astype(np.float32) / 6,
        "last": rng.normal(size=(6, 2)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "kernels"], ["z"], pads=[1, 1, 1, 1]),
        helper.make_node("Tanh", ["z"], ["hidden"]),
        helper.make_node("Flatten", ["hidden"], ["flat"]),
        helper.make_node("MatMul", ["flat", "head"], ["y"]),
        helper.make_node("Tanh", ["y"], ["t"]),
        helper.make_node("MatMul", ["t", "last"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "pictures",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, SIZE, SIZE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 2])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "model.onnx"
    )
    base = rng.normal(size=(40, 1, SIZE, SIZE)) / 4
    marked = base.copy()
    marked[:, :, :2, :2] += 2
    document = {
        "model": "model.onnx",
        "examples": {
            "base": {"arrays": "base.npy"},
            "marked": {"arrays": "marked.npy", "pairs_with": "base"},
        },
        "concepts": {"mark": {"examples": "marked", "against": "base"}},
        "targets": {"first": {"index": 0, "examples": "base"}},
        "layers": ["hidden"],
        "method": {"runs": 20, "permutations": 99, "bootstrap": 99, "spatial_map": True},
    }
    bench = Bench(tmp_path, document)
    bench.save("base.npy", base)
    bench.save("marked.npy", marked)
    return bench


def test_the_effect_of_a_corner_arises_in_the_corner(pictures: Bench) -> None:
    pictures.document["layers"] = ["hidden", "hidden@mean"]
    whole, mean = pictures.run().associations
    assert mean.spatial_map is None
    assert whole.spatial_map is not None
    assert whole.spatial_map.shape == [SIZE, SIZE]
    parts = np.array(whole.spatial_map.parts).reshape(SIZE, SIZE)
    assert parts.sum() == pytest.approx(whole.effect.value, rel=1e-4)
    reached = np.abs(parts[:3, :3]).sum()  # a mark of 2 x 2, seen by kernels of 3 x 3
    assert reached > 0.8 * np.abs(parts).sum()


def test_positions_are_there_only_where_they_are_asked_for(pictures: Bench) -> None:
    del pictures.document["method"]["spatial_map"]
    assert pictures.run().associations[0].spatial_map is None
