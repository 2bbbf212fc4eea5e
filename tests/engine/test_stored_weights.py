"""Large matrices stay in the model's file: the runtime reads them there, and widens halves one at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from bench.decoder import write_decoder
from caveat_worker.engine.autodiff.differentiate import differentiate
from caveat_worker.engine.autodiff.load import load
from caveat_worker.engine.autodiff.model import Model
from caveat_worker.engine.autodiff.target import Target
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.onnx import stored_weights
from caveat_worker.engine.onnx.graph import Graph
from caveat_worker.engine.onnx.session import open_session
from caveat_worker.engine.onnx.stored_weights import Stored

IDS = np.random.default_rng(0).integers(200, size=(4, 9))
TARGET = Target("next", index=3, reduce="mean")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treats matrices of a few kilobytes as large."""
    monkeypatch.setattr(stored_weights, "LEAST", 1 << 12)
    monkeypatch.setattr(stored_weights, "LEAST_TOGETHER", 1 << 12)


def decoder(folder: Path) -> Model:
    write_decoder(folder / "model.onnx", blocks=2, width=64, words=200, head=16)
    return load(folder / "model.onnx", folder=folder)


def stored(model: Model) -> dict[str, Stored]:
    values = model.ir.graph.initializers.items()
    return {name: one.const_value for name, one in values if isinstance(one.const_value, Stored)}


def gradients(model: Model) -> dict[str, NDArray[np.float32]]:
    graph = differentiate(model, ["block1", "last.normal"], [TARGET], also=["block1", "logits"])
    return open_session(graph, threads=1).run({"input_ids": IDS})


def test_a_decoder_of_halves_gives_the_numbers_of_its_widened_copy(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    copied = decoder(tmp_path)
    assert not stored(copied)
    request.getfixturevalue("small")
    kept = decoder(tmp_path)
    assert {name: one.array.dtype for name, one in stored(kept).items()} == dict.fromkeys(
        [
            "words",
            "head",
            *(f"block{n}.{one}.weight" for n in (1, 2) for one in ("q", "k", "v", "out", "wide", "narrow")),
        ],
        np.float16,
    )
    expected = gradients(copied)
    for name, found in gradients(kept).items():
        np.testing.assert_allclose(found, expected[name], atol=2e-6 * np.abs(expected[name]).max(), err_msg=name)


@pytest.mark.usefixtures("small")
def test_the_runtime_reads_the_file_and_no_copy(tmp_path: Path) -> None:
    model = decoder(tmp_path)
    session = open_session(differentiate(model, ["block1"], [TARGET]), threads=1)
    assert session.inputs == ("input_ids",)
    for name, weight in stored(model).items():
        assert not weight.array.flags.writeable
        assert session.stored[name].data_ptr() == weight.array.ctypes.data


@pytest.mark.usefixtures("small")
def test_texts_are_fed_beside_a_matrix() -> None:
    table = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    words = {"keys_strings": ["one", "two"], "values_int64s": [5, 63], "default_int64": 0}
    nodes = [
        helper.make_node("LabelEncoder", ["x"], ["number"], domain="ai.onnx.ml", **words),
        helper.make_node("Gather", ["weight", "number"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "texts",
        [helper.make_tensor_value_info("x", TensorProto.STRING, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 64])],
        [numpy_helper.from_array(table, "weight")],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    model = load(helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString())
    assert list(stored(model)) == ["weight"]
    found = open_session(Graph(model.ir), threads=1).run({"x": np.array(["two", "one", "none"], object)})
    np.testing.assert_array_equal(found["y"], table[[63, 5, 0]])


@pytest.mark.usefixtures("small")
def test_a_matrix_that_something_else_reads_becomes_an_array() -> None:
    weight = np.random.default_rng(0).normal(size=(300, 300)).astype(np.float16)  # too large to be folded
    nodes = [
        helper.make_node("MatMul", ["x", "weight"], ["product"]),
        helper.make_node("ReduceMean", ["weight"], ["mean"]),
        helper.make_node("Add", ["product", "mean"], ["y"]),
    ]
    model = load(written(nodes, weight))
    assert not stored(model)
    x = np.ones((2, 300), np.float32)
    found = open_session(differentiate(model, ["product"], [Target("t", index=1)], also=["y"]), threads=1).run({"x": x})
    np.testing.assert_allclose(found["y"], x @ weight.astype(np.float32) + weight.mean(dtype=np.float32), rtol=1e-3)


@pytest.mark.usefixtures("small")
def test_a_branch_reads_a_copy() -> None:
    """A feed that only a branch reads would be of half precision there."""
    weight = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float16)

    def branch(name: str) -> onnx.GraphProto:
        output = helper.make_tensor_value_info(name, TensorProto.FLOAT16, None)
        return helper.make_graph([helper.make_node("MatMul", ["x", "weight"], [name])], name, [], [output])

    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Cast", ["sum"], ["condition"], to=TensorProto.BOOL),
        helper.make_node("If", ["condition"], ["y"], then_branch=branch("a"), else_branch=branch("b")),
    ]
    model = load(written(nodes, weight))
    x = np.ones((2, 64), np.float32)
    graph = differentiate(model, ["x"], [Target("t", output="y", index=1)])
    found = open_session(graph, threads=1).run({"x": x})
    np.testing.assert_allclose(found["gradient/t/x"], np.tile(weight[:, 1].astype(np.float32), (2, 1)), rtol=1e-6)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_halves_that_are_not_numbers_are_refused_and_infinite_ones_are_not(kind: int) -> None:
    weight = np.ones((64, 64), helper.tensor_dtype_to_np_dtype(kind))
    weight[63, 7] = -np.inf
    nodes = [helper.make_node("MatMul", ["x", "weight"], ["y"])]
    with pytest.raises(InvalidInput, match="contain NaN"):
        load(written(nodes, np.where(np.isinf(weight), np.nan, weight).astype(weight.dtype), kind))
    if kind == TensorProto.FLOAT16:  # ONNX Runtime multiplies no bfloat16 on a CPU
        load(written(nodes, weight, kind))


def written(nodes: list[onnx.NodeProto], weight: NDArray[np.generic], kind: int = TensorProto.FLOAT16) -> bytes:
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", kind, ["n", len(weight)])],
        [helper.make_tensor_value_info("y", kind, ["n", len(weight)])],
        [numpy_helper.from_array(weight, "weight")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()
