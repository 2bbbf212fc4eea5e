"""Graphs as packages ship them: branches with weights, detectors of any size, loops, batches that only seem to mix."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from caveat_worker.engine.autodiff.differentiate import expose
from caveat_worker.engine.autodiff.layers import list_layers
from caveat_worker.engine.autodiff.load import load
from caveat_worker.engine.autodiff.target import Target
from caveat_worker.engine.onnx.session import open_session
from tests.engine import nets

WIDE = 20  # so that 20 x 20 weights are large enough to be shared with the runtime


def packed(nodes: list[onnx.NodeProto], shape: tuple[Any, ...], output: str, weights: dict[str, Any]) -> bytes:
    """A model of opset 18 that reads x, with these nodes and weights."""
    graph = helper.make_graph(
        nodes,
        "packed",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [None, None])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()


def branch(op: str, output: str) -> onnx.GraphProto:
    node = helper.make_node(op, ["x", "w"] if op == "MatMul" else ["x"], [output])
    return helper.make_graph([node], op, [], [helper.make_tensor_value_info(output, TensorProto.FLOAT, [None, None])])


def test_weights_that_only_a_branch_reads() -> None:
    """Silero's voice detectors keep their recurrent weights in the branches of an If."""
    w = np.random.default_rng(0).standard_normal((WIDE, WIDE)).astype(np.float32)
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], keepdims=0),
        helper.make_node("Cast", ["mean"], ["condition"], to=TensorProto.BOOL),
        helper.make_node(
            "If", ["condition"], ["y"], then_branch=branch("MatMul", "a"), else_branch=branch("Identity", "b")
        ),
    ]
    model = load(packed(nodes, ("n", WIDE), "y", {"w": w}))
    x = np.ones((3, WIDE), np.float32)
    np.testing.assert_allclose(open_session(expose(model, ["y"])).run({"x": x})["y"], x @ w, rtol=1e-5)


def loop(name: str, factor: float) -> onnx.NodeProto:
    """A Loop that multiplies x by a constant twice; every body calls its constant 'by'."""
    scalar = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Mul", ["before", "by"], ["after"]), helper.make_node("Identity", ["go"], ["on"])],
        f"{name}_body",
        [scalar("i", TensorProto.INT64, []), scalar("go", TensorProto.BOOL, []), scalar("before", 1, [None, 4])],
        [scalar("on", TensorProto.BOOL, []), scalar("after", 1, [None, 4])],
        [numpy_helper.from_array(np.float32(factor), "by")],
    )
    return helper.make_node("Loop", ["twice", "", "x"], [name], body=body)


def test_loops_whose_bodies_give_their_constants_one_name() -> None:
    """As tf2onnx writes recurrent layers."""
    nodes = [loop("a", 2.0), loop("b", 3.0), helper.make_node("Sub", ["b", "a"], ["y"])]
    model = load(packed(nodes, ("n", 4), "y", {"twice": np.int64(2)}))
    x = np.ones((3, 4), np.float32)
    np.testing.assert_allclose(open_session(expose(model, ["y"])).run({"x": x})["y"], 5 * x)


def detector() -> bytes:
    """Joins features of stride 64 with features of stride 32, which fails for other heights and widths."""
    net = nets.Net()
    fine = net.op("AveragePool", "x", kernel_shape=[32, 32], strides=[32, 32])
    coarse = net.op("AveragePool", fine, kernel_shape=[2, 2], strides=[2, 2])
    up = net.op("Resize", coarse, "", net.constant([1, 1, 2, 2]), mode="nearest")
    joined = net.op("Concat", fine, up, axis=1)
    return net.model(("n", 3, "height", "width"), net.op("Relu", net.conv(joined, 6, 2, k=1)))


def test_a_detector_whose_sizes_have_to_be_multiples_of_its_strides() -> None:
    layers = list_layers(load(detector()), Target("t", index=0, reduce="mean"))
    assert [layer.auditable for layer in layers] == [True] * 6


def test_an_output_with_another_axis_before_the_batch() -> None:
    """Speech models yield [time, batch, classes]: the first row of that is no example."""
    net = nets.Net()
    model = load(net.model(("n", "time", 4), net.op("Transpose", net.op("Tanh", "x"), perm=[1, 0, 2])))
    assert model.warnings == ()


def test_a_common_scale_of_a_batch_is_rounding_and_no_influence() -> None:
    """A dynamically quantised model rounds by the largest number of the whole batch."""
    net = nets.Net()
    integers, scale, zero = net.op("DynamicQuantizeLinear", "x", outputs=3)
    y = net.op("DequantizeLinear", integers, scale, zero)
    assert load(net.model(("n", 4), y)).warnings == ()
