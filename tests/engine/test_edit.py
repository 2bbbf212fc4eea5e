"""Edits of a file: the formula on random networks, what stays as it was, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from caveat_worker.engine.acting.edit import (
    METADATA,
    Edit,
    ScaledChannels,
    ScaledDirections,
    applied,
    check_edit,
    edited,
)
from caveat_worker.engine.autodiff.load import load
from caveat_worker.engine.base.errors import InvalidInput

ABOUT = {"concept": "planted"}


@dataclass(frozen=True)
class Net:
    """A network with one layer to edit, and an input for it."""

    proto: onnx.ModelProto
    x: np.ndarray[Any, Any]
    shape: tuple[int, ...]
    """Of the layer `h`, without the batch."""
    channel: int = 1
    """The axis of [n, …] that holds its channels."""


def dense(dtype: int = TensorProto.FLOAT, opset: int = 20) -> Net:
    """x → h = x W → y = tanh(h) V, where a second branch reads h too."""
    rng, numpy_type = np.random.default_rng(1), helper.tensor_dtype_to_np_dtype(dtype)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="first"),
        helper.make_node("Tanh", ["h"], ["t"]),
        helper.make_node("Add", ["t", "h"], ["s"]),
        helper.make_node("MatMul", ["s", "v"], ["y"]),
    ]
    weights = {"w": rng.normal(size=(5, 7)), "v": rng.normal(size=(7, 3))}
    return Net(
        _model(nodes, weights, ["n", 5], ["n", 3], dtype, opset), rng.normal(size=(4, 5)).astype(numpy_type), (7,)
    )


def convolutional(opset: int = 20) -> Net:
    """x → h = conv(x) → mean over positions of relu(h)."""
    rng = np.random.default_rng(2)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"], pads=[1, 1, 1, 1], name="conv"),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["y"]),
    ]
    weights = {"w": rng.normal(size=(6, 3, 3, 3))}
    proto = _model(nodes, weights, ["n", 3, 8, 8], ["n", 6], TensorProto.FLOAT, opset)
    return Net(proto, rng.normal(size=(4, 3, 8, 8)).astype(np.float32), (6, 8, 8))


def tokens() -> Net:
    """x [n, tokens, features] → h → y."""
    rng = np.random.default_rng(3)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Tanh", ["h"], ["t"]),
        helper.make_node("ReduceMean", ["t", "axes"], ["y"], keepdims=0),
    ]
    weights = {"w": rng.normal(size=(4, 5)), "axes": np.array([1])}
    proto = _model(nodes, weights, ["n", 6, 4], ["n", 5], TensorProto.FLOAT, 20)
    return Net(proto, rng.normal(size=(4, 6, 4)).astype(np.float32), (6, 5), channel=2)


def signal() -> Net:
    """x [n, channels, length] → h, a convolution → y."""
    rng = np.random.default_rng(4)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"], pads=[1, 1]),
        helper.make_node("Tanh", ["h"], ["t"]),
        helper.make_node("ReduceMean", ["t", "axes"], ["y"], keepdims=0),
    ]
    weights = {"w": rng.normal(size=(5, 4, 3)), "axes": np.array([2])}
    proto = _model(nodes, weights, ["n", 4, 6], ["n", 5], TensorProto.FLOAT, 20)
    return Net(proto, rng.normal(size=(4, 4, 6)).astype(np.float32), (5, 6))


def _model(nodes: Any, weights: Any, x: Any, y: Any, dtype: int, opset: int) -> onnx.ModelProto:
    numpy_type = helper.tensor_dtype_to_np_dtype(dtype)
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", dtype, x)],
        [helper.make_tensor_value_info("y", dtype, y)],
        [
            numpy_helper.from_array(one if one.dtype == np.int64 else one.astype(numpy_type), name)
            for name, one in weights.items()
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def outputs_of(proto: onnx.ModelProto, x: np.ndarray[Any, Any], *names: str) -> list[Any]:
    """What plain ONNX Runtime gives for some tensors."""
    shown = onnx.ModelProto()
    shown.CopyFrom(proto)
    known = {one.name for one in shown.graph.output}
    shown.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names if name not in known)
    session = onnxruntime.InferenceSession(shown.SerializeToString(), providers=["CPUExecutionProvider"])
    found: list[Any] = session.run(list(names), {"x": x})
    return found


def directions(count: int, *shape: int, factor: float = 0.0, seed: int = 5) -> ScaledDirections:
    rng = np.random.default_rng(seed)
    return ScaledDirections(rng.normal(size=(count, *shape)), rng.normal(size=count), factor)


CASES = {
    "dense": (dense(), directions(1, 7)),
    "two directions, halved": (dense(), directions(2, 7, factor=0.5)),
    "doubled": (dense(), directions(1, 7, factor=2.0)),
    "double precision": (dense(TensorProto.DOUBLE), directions(1, 7)),
    "half precision": (dense(TensorProto.FLOAT16), directions(1, 7)),
    "an old opset": (dense(opset=9), directions(1, 7)),
    "each position": (convolutional(), directions(1, 6)),
    "the whole layer": (convolutional(), directions(2, 6, 8, 8)),
    "an old opset with positions": (convolutional(opset=11), directions(1, 6)),
    "each token": (tokens(), directions(1, 5)),
    "all tokens": (tokens(), directions(1, 6, 5)),
    "channels": (convolutional(), ScaledChannels((1, 4), 0.0)),
    "each moment of a signal": (signal(), directions(2, 5)),
    "channels of a signal": (signal(), ScaledChannels((0, 4), 0.5)),
    "features of tokens": (tokens(), ScaledChannels((2,), 0.25)),
}


@pytest.mark.parametrize("name", CASES)
def test_the_edited_file_computes_the_formula_and_nothing_else(name: str) -> None:
    net, edit = CASES[name]
    model = load(net.proto.SerializeToString())
    result = edited(net.proto, model, "h", edit, ABOUT)
    assert result is not None
    onnx.checker.check_model(result, full_check=True)
    narrow = net.x.dtype == np.float16
    before, after = (outputs_of(one, net.x, "h")[0].astype(np.float64) for one in (net.proto, result))
    assert before.dtype == after.dtype
    np.testing.assert_allclose(
        after, slow_twin(before, edit, net.channel), rtol=5e-3 if narrow else 1e-4, atol=2e-2 if narrow else 1e-5
    )
    assert check_edit(model, load(result.SerializeToString()), "h", edit) < 1e-3
    assert [one.value for one in result.metadata_props if one.key == METADATA] == ['{"concept": "planted"}']
    assert {one.domain for one in result.opset_import} == {""}
    kept = [one for one in result.graph.node if not one.name.startswith("h/edit")]
    assert [one.op_type for one in kept] == [one.op_type for one in net.proto.graph.node]


def slow_twin(h: np.ndarray[Any, Any], edit: Edit, channel: int) -> np.ndarray[Any, Any]:
    """The edit of each example by itself, by a projection matrix of everything that is scaled."""
    if isinstance(edit, ScaledChannels):
        result = h.copy()
        for one in edit.channels:
            np.moveaxis(result, channel, 0)[one] *= edit.factor
        return result
    flat = edit.vectors.reshape(len(edit.vectors), -1)
    inverse = np.linalg.pinv(flat)  # [d, k]
    if flat.shape[1] == h[0].size:
        rows = h.reshape(len(h), -1)
        moved = rows - (1 - edit.factor) * (rows @ flat.T - edit.origins) @ inverse.T
        return moved.reshape(h.shape)
    last = np.moveaxis(h, channel, -1)
    moved = last - (1 - edit.factor) * (last @ flat.T - edit.origins) @ inverse.T
    return np.moveaxis(moved, -1, channel)


def test_a_removed_direction_is_where_the_reference_is() -> None:
    net, edit = CASES["dense"]
    result = edited(net.proto, load(net.proto.SerializeToString()), "h", edit, ABOUT)
    assert result is not None
    (after,) = outputs_of(result, net.x, "h")
    np.testing.assert_allclose(after @ edit.vectors[0], np.full(4, edit.origins[0]), rtol=1e-4)


def test_every_reader_gets_the_edited_layer_also_an_output_of_the_graph() -> None:
    net, edit = CASES["dense"]
    net.proto.graph.output.append(helper.make_tensor_value_info("h", TensorProto.FLOAT, ["n", 7]))
    try:
        result = edited(net.proto, load(net.proto.SerializeToString()), "h", edit, ABOUT)
        assert result is not None
        h, y = outputs_of(result, net.x, "h", "y")
        weights = {one.name: numpy_helper.to_array(one) for one in net.proto.graph.initializer}
        np.testing.assert_allclose(y, (np.tanh(h) + h) @ weights["v"], rtol=1e-4, atol=1e-5)
    finally:
        net.proto.graph.output.pop()


def test_a_factor_of_one_changes_nothing() -> None:
    net, _ = CASES["dense"]
    assert edited(net.proto, load(net.proto.SerializeToString()), "h", directions(1, 7, factor=1.0), ABOUT) is None


def test_a_second_edit_stands_beside_the_first() -> None:
    net, edit = CASES["dense"]
    once = edited(net.proto, load(net.proto.SerializeToString()), "h", edit, ABOUT)
    assert once is not None
    other = directions(1, 7, seed=8)
    twice = edited(once, load(once.SerializeToString()), "h", other, {"concept": "another"})
    assert twice is not None
    onnx.checker.check_model(twice, full_check=True)
    (h,), (after,) = outputs_of(net.proto, net.x, "h"), outputs_of(twice, net.x, "h")
    expected = applied(applied(h.astype(np.float64), edit, 1), other, 1)
    np.testing.assert_allclose(after, expected, rtol=1e-4, atol=1e-5)
    assert len(twice.metadata_props[0].value.splitlines()) == 2


def test_an_edit_that_is_not_its_formula_is_found() -> None:
    net, edit = CASES["dense"]
    model = load(net.proto.SerializeToString())
    wrong = edited(net.proto, model, "h", directions(1, 7, seed=99), ABOUT)
    assert wrong is not None
    with pytest.raises(InvalidInput, match="differs from its formula"):
        check_edit(model, load(wrong.SerializeToString()), "h", edit)


def quantised() -> onnx.ModelProto:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
        helper.make_node("Relu", ["d"], ["h"]),
        helper.make_node("Identity", ["h"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [
            numpy_helper.from_array(np.array(0.1, np.float32), "scale"),
            numpy_helper.from_array(np.array(0, np.int8), "zero"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=8)


def in_a_function() -> onnx.ModelProto:
    body = helper.make_function(
        "own", "Twice", ["a"], ["b"],
        [helper.make_node("Relu", ["a"], ["h"]), helper.make_node("Add", ["h", "h"], ["b"])],
        [helper.make_opsetid("", 20)],
    )  # fmt: skip
    graph = helper.make_graph(
        [helper.make_node("Twice", ["x"], ["y"], domain="own", name="call")],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, opset_imports=opsets, functions=[body], ir_version=8)


@pytest.mark.parametrize(
    ("proto", "tensor", "edit", "words"),
    [
        (quantised(), "h", directions(1, 3), "The model is quantised"),
        (dense().proto, "x", directions(1, 5), "'x' is an input of the model"),
        (convolutional().proto, "h", ScaledChannels((6,), 0.0), "no channel 6"),
        (dense().proto, "h", ScaledChannels((0, 70), 0.0), "no channel 70"),
    ],
)
def test_what_cannot_be_edited_is_refused_in_a_sentence(
    proto: onnx.ModelProto, tensor: str, edit: Edit, words: str
) -> None:
    with pytest.raises(InvalidInput, match=words):
        edited(proto, load(proto.SerializeToString()), tensor, edit, ABOUT)


def test_a_tensor_inside_a_function_is_refused() -> None:
    proto = in_a_function()
    model = load(proto.SerializeToString())
    inside = next(node.outputs[0].name for node in model.ir.graph if node.op_type == "Relu")
    with pytest.raises(InvalidInput, match="inside a function or a branch"):
        edited(proto, model, str(inside), directions(1, 3), ABOUT)
