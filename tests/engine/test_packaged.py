"""Graphs as packages ship them: branches with weights, detectors of any size, loops, batches that only seem to mix."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import InferenceSession

from caveat_worker.engine.autodiff.differentiate import differentiate, expose
from caveat_worker.engine.autodiff.gradient_check import check_gradients
from caveat_worker.engine.autodiff.layers import list_layers
from caveat_worker.engine.autodiff.load import load
from caveat_worker.engine.autodiff.target import Target, resolve_target
from caveat_worker.engine.base.errors import InvalidInput
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
    """Speech models yield [time, batch, classes]: the first row of that is no example, and it is transposed."""
    net = nets.Net()
    model = load(net.model(("n", "time", 4), net.op("Transpose", net.op("Tanh", "x"), perm=[1, 0, 2])))
    assert model.warnings == ("Output 'transpose_1' has examples along axis 1; it is transposed.",)
    assert model.outputs[0].shape == ("n", "time", 4)


def test_a_common_scale_of_a_batch_is_rounding_and_no_influence() -> None:
    """A dynamically quantised model rounds by the largest number of the whole batch."""
    net = nets.Net()
    integers, scale, zero = net.op("DynamicQuantizeLinear", "x", outputs=3)
    y = net.op("DequantizeLinear", integers, scale, zero)
    assert load(net.model(("n", 4), y)).warnings == ()


def recurrent(**state: Any) -> bytes:
    """One step of a recurrent cell at a rate: y and the next state from x, a state and the rate."""
    shapes: dict[str, list[Any]] = {"x": ["batch", 4], "state": [1, "batch", 4], "rate": []} | state
    nodes = [
        helper.make_node("Squeeze", ["state", "zero"], ["flat"]),
        helper.make_node("MatMul", ["x", "w"], ["seen"]),
        helper.make_node("Add", ["seen", "flat"], ["total"]),
        helper.make_node("Mul", ["total", "rate"], ["scaled"]),
        helper.make_node("Tanh", ["scaled"], ["y"]),
        helper.make_node("Unsqueeze", ["y", "zero"], ["stateN"]),
    ]
    graph = helper.make_graph(
        nodes,
        "recurrent",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4]),
            helper.make_tensor_value_info("stateN", TensorProto.FLOAT, [1, "batch", 4]),
        ],
        [numpy_helper.from_array(np.eye(4, dtype=np.float32), "w"), numpy_helper.from_array(np.array([0]), "zero")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()


def test_a_recurrent_state_is_zero_and_other_inputs_hold_the_numbers_of_the_audit() -> None:
    model = load(recurrent(), constants={"rate": 2.0})
    assert [one.name for one in model.inputs] == ["x"]
    assert "'state' is a recurrent state" in model.warnings[0]
    x = np.full((3, 4), 0.1, np.float32)
    y = open_session(expose(model, ["y"])).run({"x": x})["y"]
    np.testing.assert_allclose(y, np.tanh(2 * x), rtol=1e-6)
    layers = list_layers(model, Target("t", "y", index=0))
    assert {"seen", "total", "scaled"} <= {layer.tensor for layer in layers if layer.auditable}


def test_a_state_that_an_example_set_feeds_stays_an_input() -> None:
    assert [one.name for one in load(recurrent(), constants={}, fed={"state"}).inputs] == ["x", "state", "rate"]


def decoder(*, named: bool = True, width: int = 4) -> bytes:
    """Attention of tokens [n, tokens, 4] over themselves and over the keys and values of earlier ones, as two heads."""
    net = nets.Net()
    shape = net.constant([0, 0, 2, 2], np.int64)
    q, k, v = (
        net.op("Transpose", net.op("Reshape", net.op("MatMul", "x", net.weight(width, 4)), shape), perm=[0, 2, 1, 3])
        for _ in range(3)
    )
    keys, values = (
        net.op("Concat", f"past_key_values.0.{kind}", one, axis=2) for kind, one in (("key", k), ("value", v))
    )
    weights = net.op("Softmax", net.op("MatMul", q, net.op("Transpose", keys, perm=[0, 1, 3, 2])))
    mixed = net.op("Transpose", net.op("MatMul", weights, values), perm=[0, 2, 1, 3])
    y = net.op("MatMul", net.op("Reshape", mixed, net.constant([0, 0, 4], np.int64)), net.weight(4, 5))
    proto = onnx.ModelProto.FromString(net.model(("n", "tokens", width), y))
    ends = {"present.0.key": keys, "present.0.value": values}
    for name, made in ends.items():
        proto.graph.node.append(helper.make_node("Identity", [made], [name]))
        proto.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2, "total", 2]))
        past = name.replace("present", "past_key_values")
        size = "past" if named else None
        proto.graph.input.append(helper.make_tensor_value_info(past, TensorProto.FLOAT, ["n", 2, size, 2]))
    return bytes(proto.SerializeToString())


@pytest.mark.parametrize("named", [True, False])
def test_a_cache_of_earlier_tokens_is_empty(named: bool) -> None:
    source = decoder(named=named)
    model = load(source, constants={})
    assert [one.name for one in model.inputs] == ["x"]
    assert model.warnings == (
        "Inputs 'past_key_values.0.key' and 1 other hold earlier tokens, and no example feeds any: there are none, as "
        "at the start of a text.",
    )
    x = np.random.default_rng(0).standard_normal((3, 6, 4)).astype(np.float32)
    none = np.zeros((3, 2, 0, 2), np.float32)
    y = model.outputs[0].name
    fed = {"x": x, "past_key_values.0.key": none, "past_key_values.0.value": none}
    (expected,) = InferenceSession(source, providers=["CPUExecutionProvider"]).run([y], fed)
    np.testing.assert_allclose(open_session(expose(model, [y])).run({"x": x})[y], expected, rtol=1e-5, atol=1e-6)
    target = Target("t", y, index=1, reduce="mean")
    layers = [layer.tensor for layer in list_layers(model, target) if layer.auditable]
    assert len(layers) > 10
    assert all(check.ok for check in check_gradients(model, layers, [target], {"x": x}, seed=0))


def test_a_cache_that_an_example_set_feeds_stays_an_input() -> None:
    fed = {"past_key_values.0.key", "past_key_values.0.value"}
    assert {one.name for one in load(decoder(), constants={}, fed=fed).inputs} == {"x", *fed}


def test_a_constant_that_is_no_input_is_refused() -> None:
    with pytest.raises(InvalidInput, match="no input 'sr'") as caught:
        load(recurrent(), constants={"sr": 16000})
    assert caught.value.pointer == "/constants/sr"


def test_a_state_whose_size_nothing_tells_is_refused() -> None:
    with pytest.raises(InvalidInput, match="no other input has its size 'streams'"):
        load(recurrent(state=[1, "streams", 4]), constants={})


def softmax_written_out(style: str) -> bytes:
    """As jax and some exporters of Keras write it."""
    net = nets.Net()
    z = net.op("Add", net.op("MatMul", "x", net.weight(4, 3)), net.weight(3))
    axis, shape = net.constant([-1], np.int64), net.constant([0, 1], np.int64)
    shifted = net.op("Sub", z, net.op("ReduceMax", z, axis))
    if style == "jax":
        largest = net.op("Max", net.constant(-np.inf), net.op("ReduceMax", z, axis, keepdims=0))
        shifted = net.op("Sub", z, net.op("Reshape", largest, shape))
    powers = net.op("Exp", z if style == "plain" else shifted)
    total = net.op("ReduceSum", powers, axis)
    match style:
        case "plain" | "shifted":
            y = net.op("Div", powers, total)
        case "jax":
            y = net.op("Div", powers, net.op("Reshape", net.op("ReduceSum", powers, axis, keepdims=0), shape))
        case "log":
            y = net.op("Sub", shifted, net.op("Log", total))
        case "logsumexp":
            y = net.op("Sub", z, net.op("ReduceLogSumExp", z, axis))
        case "log of softmax":
            y = net.op("Log", net.op("Softmax", z))
        case "exp of log":
            y = net.op("Exp", net.op("Sub", shifted, net.op("Log", total)))
        case _:
            raise ValueError(style)
    return net.model(("n", 4), y)


STYLES = ["plain", "shifted", "jax", "log", "logsumexp", "log of softmax", "exp of log"]


@pytest.mark.parametrize("style", STYLES)
def test_the_logits_before_a_softmax_that_is_written_out(style: str) -> None:
    resolved = resolve_target(load(softmax_written_out(style)), Target("t", index=0))
    assert (resolved.tensor, resolved.link) == ("add_1", "softmax")


@pytest.mark.parametrize("style", STYLES)
def test_a_probability_is_that_of_a_softmax_that_is_written_out(style: str) -> None:
    model, x = load(softmax_written_out(style)), {"x": np.ones((2, 4), np.float32)}
    target = Target("t", index=0, scale="probability")
    value = open_session(differentiate(model, ["add_1"], [target])).run(x)["value/t"]
    output = open_session(expose(model, [model.outputs[0].name])).run(x)[model.outputs[0].name][:, 0]
    np.testing.assert_allclose(value, output if output[0] > 0 else np.exp(output), rtol=1e-5)


def test_a_division_by_a_sum_over_places_is_no_softmax_over_classes() -> None:
    net = nets.Net()
    powers = net.op("Exp", "x")
    y = net.op("Div", powers, net.op("ReduceSum", powers, net.constant([2, 3], np.int64), keepdims=1))
    assert resolve_target(load(net.model(("n", 3, 4, 4), y)), Target("t", index=0, reduce="mean")).link == "none"


def test_scores_without_a_row_for_each_example_are_refused() -> None:
    net = nets.Net()
    model = load(net.model(("n", 4), net.op("Reshape", net.op("Tanh", "x"), net.constant([4, -1], np.int64))))
    with pytest.raises(InvalidInput, match="no row for each example"):
        list_layers(model, Target("t", index=0, reduce="mean"))


def test_scores_that_only_the_output_has_by_example() -> None:
    """A voice detector runs its last layers over a sequence, and yields one probability for each step."""
    net = nets.Net()
    steps = net.op("Transpose", net.op("Unsqueeze", "x", net.constant([0], np.int64)), perm=[0, 2, 1])
    last = net.op("Sigmoid", net.op("Conv", steps, net.weight(1, 4, 1)))
    model = load(net.model(("n", 4), net.op("Reshape", last, net.constant([-1], np.int64))))
    resolved = resolve_target(model, Target("t"))
    assert (resolved.tensor, resolved.link) == (model.outputs[0].name, "probabilities")
    assert any(layer.auditable for layer in list_layers(model, Target("t")))
