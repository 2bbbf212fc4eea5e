"""Quantised models: straight through the rounding, against clipping, a float twin and the gradient check."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnxruntime import InferenceSession
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

from caveat_worker.engine.autodiff.differentiate import differentiate, expose
from caveat_worker.engine.autodiff.gradient_check import check_gradients
from caveat_worker.engine.autodiff.layers import list_layers
from caveat_worker.engine.autodiff.load import load
from caveat_worker.engine.autodiff.rules import VJP, Rule
from caveat_worker.engine.autodiff.straight_through import WARNING, without_rounding
from caveat_worker.engine.autodiff.target import Target, resolve_target
from caveat_worker.engine.onnx.session import open_session
from tests.engine import nets

TARGET = Target("t", index=1)


def rounded(scale: Any, zero: Any, **attributes: Any) -> bytes:
    """x, rounded to integers and back, times 3."""
    net = nets.Net()
    s, z = net.constant(scale), net.constant(zero, np.asarray(zero).dtype)
    q = net.op("QuantizeLinear", "x", s, z, **attributes)
    return net.model(("n", 3), net.op("Mul", net.op("DequantizeLinear", q, s, z, **attributes), net.constant(3.0)))


@pytest.mark.parametrize(
    ("scale", "zero", "low", "high"),
    [
        (0.1, np.int8(0), -12.8, 12.7),
        (0.1, np.int8(-128), 0.0, 25.5),
        (0.5, np.uint8(10), -5.0, 122.5),
        ([0.1, 0.2, 0.4], np.zeros(3, np.int8), [-12.8, -25.6, -51.2], [12.7, 25.4, 50.8]),
    ],
)
def test_a_gradient_is_1_inside_the_range_and_0_outside(scale: Any, zero: Any, low: Any, high: Any) -> None:
    model = load(rounded(scale, zero, **({"axis": 1} if np.ndim(scale) else {})))
    x = np.random.default_rng(0).uniform(-150, 150, (50, 3)).astype(np.float32)
    found = open_session(differentiate(model, ["x"], [TARGET])).run({"x": x})["gradient/t/x"]
    inside = (x > np.asarray(low)) & (x < np.asarray(high))
    expected = 3.0 * inside * np.array([0, 1, 0])
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert 0 < inside[:, 1].mean() < 1


def test_a_model_without_its_rounding_clips() -> None:
    model = load(rounded(0.5, np.int8(0)))
    x = np.array([[-100, 0.2, 70]], np.float32)
    name = model.outputs[0].name
    exact = open_session(expose(without_rounding(model), [name])).run({"x": x})[name]
    np.testing.assert_allclose(exact, [[3 * -64, 0.6, 3 * 63.5]], rtol=1e-6)


class Noise(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, feeds: list[dict[str, NDArray[Any]]]) -> None:
        self.feeds = iter(feeds)

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        return next(self.feeds, None)


def quantised(folder: Path, make: Any, **options: Any) -> bytes:
    """A network quantised by ONNX Runtime in its default way, calibrated on noise."""
    (folder / "float.onnx").write_bytes(make())
    feeds = [nets.noise(load(make()), 8, seed) for seed in range(2)]
    options = {"quant_format": QuantFormat.QDQ} | options
    quantize_static(folder / "float.onnx", folder / "int8.onnx", Noise(feeds), **options)
    return (folder / "int8.onnx").read_bytes()


def gradients(model: Any, layer: str) -> NDArray[Any]:
    feeds = nets.noise(model, 6, seed=9)
    return open_session(differentiate(model, [layer], [TARGET])).run(feeds)[f"gradient/t/{layer}"].ravel()


@pytest.mark.parametrize("per_channel", [False, True])
def test_gradients_are_close_to_those_of_the_float_twin(tmp_path: Path, per_channel: bool) -> None:
    model = load(quantised(tmp_path, nets.resnet, per_channel=per_channel))
    twin = load(nets.resnet())
    ours, theirs = gradients(model, "x"), gradients(twin, "x")
    assert ours @ theirs / np.linalg.norm(ours) / np.linalg.norm(theirs) > 0.9
    assert "straight through" in model.warnings[0]


def test_every_layer_passes_the_gradient_check(tmp_path: Path) -> None:
    model = load(quantised(tmp_path, nets.resnet))
    layers = [layer.tensor for layer in list_layers(model, TARGET) if layer.auditable]
    assert len(layers) > 20
    checks = check_gradients(model, layers[::4], [TARGET], nets.noise(model, 4), seed=0)
    assert [check.layer for check in checks if not check.ok] == []


def test_a_wrong_rule_behind_the_rounding_is_caught(tmp_path: Path) -> None:
    model = load(quantised(tmp_path, nets.resnet))
    wrong = dict(VJP) | {("", "Add"): Rule(("", "Add"), lambda g, y, a, b: (g, 1.5 * g), elementwise=True)}
    first = next(layer.tensor for layer in list_layers(model, TARGET) if layer.auditable)
    (check,) = check_gradients(model, [first], [TARGET], nets.noise(model, 4), seed=0, rules=wrong)
    assert not check.ok


def dynamically(folder: Path, make: Any, **options: Any) -> bytes:
    """A network quantised by ONNX Runtime by the range of each tensor as it comes."""
    (folder / "float.onnx").write_bytes(make())
    quantize_dynamic(folder / "float.onnx", folder / "int8.onnx", weight_type=QuantType.QInt8, **options)
    return (folder / "int8.onnx").read_bytes()


DYNAMIC: dict[str, tuple[Any, Target, dict[str, Any], str]] = {
    "products": (nets.mlp, Target("t"), {}, "MatMulInteger"),
    "products of each channel": (nets.mlp, Target("t"), {"per_channel": True}, "MatMulInteger"),
    "convolutions": (nets.resnet, TARGET, {"op_types_to_quantize": ["Conv", "MatMul"]}, "ConvInteger"),
}


@pytest.mark.parametrize("case", DYNAMIC)
def test_layers_of_a_dynamically_quantised_model(tmp_path: Path, case: str) -> None:
    make, target, options, kind = DYNAMIC[case]
    model, twin = load(dynamically(tmp_path, make, **options)), load(make())
    assert {node.op_type for node in model.ir.graph} >= {"DynamicQuantizeLinear", kind}
    assert "straight through" in model.warnings[0]
    layers = [layer.tensor for layer in list_layers(model, target) if layer.auditable]
    assert {layer.tensor for layer in list_layers(twin, target)} - {f"{one}_quantized" for one in layers} <= set(layers)
    feeds = nets.noise(model, 6, seed=9)
    checks = check_gradients(model, layers, [target], feeds, seed=0)
    assert [check.layer for check in checks if not check.ok] == []
    ours, theirs = (
        open_session(differentiate(one, ["x"], [target])).run(feeds)["gradient/t/x"].ravel() for one in (model, twin)
    )
    assert ours @ theirs / np.linalg.norm(ours) / np.linalg.norm(theirs) > 0.9
    assert 0.9 < np.linalg.norm(ours) / np.linalg.norm(theirs) < 1.1


def test_integers_that_another_operator_moves_are_refused_by_name() -> None:
    net = nets.Net()
    quantised, scale, zero = net.op("DynamicQuantizeLinear", "x", outputs=3)
    moved = net.op("Transpose", net.op("Transpose", quantised, perm=[1, 0]), perm=[1, 0])
    product = net.op("MatMulInteger", moved, net.constant(np.eye(3), np.int8), zero)
    number = net.op("Mul", net.op("Cast", product, to=onnx.TensorProto.FLOAT), scale)
    hidden = net.op("Tanh", "x")
    model = load(net.model(("n", 3), net.op("Add", number, net.op("Tanh", hidden))))
    (state,) = list_layers(model, TARGET, ["x"])
    assert "DynamicQuantizeLinear" in (state.reason or "")
    assert "only their scale" in (state.reason or "")


def test_a_scale_alone_has_no_gradient() -> None:
    """Only where its integers are used too is the scale a constant: their gradient has what the scale's would add."""
    net = nets.Net()
    _, scale, _ = net.op("DynamicQuantizeLinear", "x", outputs=3)
    model = load(net.model(("n", 3), net.op("Mul", "x", scale)))
    (state,) = list_layers(model, TARGET, ["x"])
    assert "only their scale" in (state.reason or "")


FUSED = {
    "DynamicQuantizeMatMul": ("x", "weight", "scale", "zero", "bias"),
    "MatMulIntegerToFloat": ("quantised", "weight", "x scale", "scale", "x zero", "zero", "bias"),
}


@pytest.mark.parametrize("optional", [True, False])
@pytest.mark.parametrize("kind", FUSED)
def test_products_that_the_optimiser_fuses_are_those_of_its_kernels(kind: str, optional: bool) -> None:
    net, weight = nets.Net(), np.random.default_rng(3).integers(-100, 100, (6, 4))
    named = {
        "x": "x",
        "weight": net.constant(weight, np.int8),
        "scale": net.constant(0.02),
        "zero": net.constant(3, np.int8) if optional else "",
        "bias": net.weight(4) if optional else "",
    }
    if "quantised" in FUSED[kind]:
        named |= dict(
            zip(("quantised", "x scale", "x zero"), net.op("DynamicQuantizeLinear", "x", outputs=3), strict=True)
        )
    content = net.model(("n", 6), net.op(kind, *(named[one] for one in FUSED[kind]), domain="com.microsoft"))
    model = load(content)
    assert {node.op_type for node in model.ir.graph} >= {"DynamicQuantizeLinear", "MatMulInteger"}
    feeds = nets.noise(model, 5)
    name = model.outputs[0].name
    (expected,) = InferenceSession(content, providers=["CPUExecutionProvider"]).run(None, feeds)
    np.testing.assert_allclose(open_session(expose(model, [name])).run(feeds)[name], expected, rtol=1e-4, atol=1e-4)
    assert all(check.ok for check in check_gradients(model, ["x"], [TARGET], feeds, seed=0))
    gradient = open_session(differentiate(model, ["x"], [TARGET])).run(feeds)["gradient/t/x"]
    np.testing.assert_allclose(gradient, np.tile(0.02 * (weight[:, 1] - 3 * optional), (5, 1)), rtol=1e-5)


MS = "com.microsoft"


@pytest.mark.parametrize("masked", [True, False])
def test_attention_of_integers_is_its_kernel_and_has_a_gradient(masked: bool) -> None:
    """As `quantize_dynamic` makes it of a text model in which attention was fused."""
    net, rng = nets.Net(), np.random.default_rng(3)
    q, scale, zero = net.op("DynamicQuantizeLinear", "x", outputs=3)
    weight = net.constant(rng.integers(-100, 100, (6, 18)), np.int8)
    shown = net.constant([[1, 1, 1, 0]], np.int32) if masked else ""
    operands = (q, weight, net.weight(18), scale, net.constant(0.02), shown, zero, net.constant(3, np.int8))
    mixed = net.op("QAttention", *operands, num_heads=2, domain=MS)
    content = net.model((1, 4, 6), net.op("Reshape", mixed, net.constant([-1, 24], np.int64)))
    model = load(content)
    assert {node.op_type for node in model.ir.graph} >= {"DynamicQuantizeLinear", "MatMulInteger", "Softmax"}
    feeds, name = nets.noise(model, 1), model.outputs[0].name
    (expected,) = InferenceSession(content, providers=["CPUExecutionProvider"]).run(None, feeds)
    np.testing.assert_allclose(open_session(expose(model, [name])).run(feeds)[name], expected, rtol=1e-4, atol=1e-4)
    (check,) = check_gradients(model, ["x"], [TARGET], feeds, seed=0)
    assert check.ok, check.explain(0.02)


def recurrent(direction: str) -> bytes:
    """A layer, an LSTM over its steps [n, 5, 8] and a head."""
    net, ways = nets.Net(), 1 + (direction == "bidirectional")
    hidden = net.op("Tanh", net.op("MatMul", "x", net.weight(8, 8)))
    steps = net.op("Transpose", hidden, perm=[1, 0, 2])
    weights = [net.weight(ways, 24, 8), net.weight(ways, 24, 6), net.weight(ways, 48)]
    states, *_ = net.op("LSTM", steps, *weights, outputs=3, hidden_size=6, direction=direction)
    mean = net.op("ReduceMean", net.op("Transpose", states, perm=[2, 0, 1, 3]), net.constant([1], np.int64), keepdims=0)
    flat = net.op("Reshape", mean, net.constant([-1, 6 * ways], np.int64))
    return net.model(("n", 5, 8), net.op("MatMul", flat, net.weight(6 * ways, 3)))


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_a_cell_that_rounds_has_the_gradient_of_its_float_twin(
    tmp_path: Path, direction: str, per_channel: bool
) -> None:
    """But for its rounding; processors without products of four bytes also lose what does not fit two of them."""
    content = dynamically(tmp_path, lambda: recurrent(direction), per_channel=per_channel)
    model, twin = load(content), load(recurrent(direction))
    assert "DynamicQuantizeLSTM" in {node.op_type for node in model.ir.graph}
    assert "straight through" in model.warnings[0]
    feeds, name = nets.noise(model, 6, seed=9), model.outputs[0].name
    (expected,) = InferenceSession(content, providers=["CPUExecutionProvider"]).run(None, feeds)
    np.testing.assert_array_equal(open_session(expose(model, [name])).run(feeds)[name], expected)
    checks = check_gradients(model, ["x", "tanh_1"], [TARGET], feeds, seed=0)
    assert all(check.ok for check in checks), [check.explain(0.02) for check in checks]
    ours, theirs = (
        open_session(differentiate(one, ["x"], [TARGET])).run(feeds)["gradient/t/x"].ravel() for one in (model, twin)
    )
    assert ours @ theirs / np.linalg.norm(ours) / np.linalg.norm(theirs) > 0.97


@pytest.mark.parametrize("segments", [True, False])
def test_embeddings_of_integers_are_their_kernel(segments: bool) -> None:
    """The layers behind them can be audited; ids themselves have no gradient."""
    net, rng = nets.Net(), np.random.default_rng(5)
    tables = [net.constant(rng.integers(0, 255, (size, 8)), np.uint8) for size in (9, 6, 2)]
    normal = [net.constant(rng.integers(0, 255, 8), np.uint8) for _ in range(2)]
    scales = [net.constant(scale) for scale in (0.02, 0.01, 0.03, 0.01, 0.005)]
    zeros = [net.constant(zero, np.uint8) for zero in (120, 128, 130, 3, 125)]
    kinds = net.constant([[0, 0, 1, 1]], np.int32) if segments else ""
    if not segments:
        tables[2] = scales[2] = zeros[2] = ""
    shown = net.constant([[1, 1, 1, 0]], np.int32)
    operands = ("x", kinds, *tables, *normal, shown, *scales, *zeros)
    total, _ = net.op("QEmbedLayerNormalization", *operands, outputs=2, domain=MS)
    scores = net.op(
        "MatMul", net.op("Tanh", net.op("Reshape", total, net.constant([-1, 32], np.int64))), net.weight(32, 3)
    )
    content = net.model((1, 4), scores, dtype=onnx.TensorProto.INT32)
    model = load(content)
    assert "QEmbedLayerNormalization" not in {node.op_type for node in model.ir.graph}
    feeds, name = {"x": np.array([[8, 0, 3, 5]], np.int32)}, model.outputs[0].name
    (expected,) = InferenceSession(content, providers=["CPUExecutionProvider"]).run(None, feeds)
    np.testing.assert_allclose(open_session(expose(model, [name])).run(feeds)[name], expected, rtol=1e-4, atol=1e-5)
    layers = [state.tensor for state in list_layers(model, TARGET) if state.auditable]
    assert any("LayerNormalization" in layer or layer == total for layer in layers)


READ, WRITTEN = (0.05, 120), (0.04, 130)
"""Scale and zero point of what an operator of integers reads, and of what it writes."""


def of_integers(kind: str, *, several: bool = False, **attributes: Any) -> bytes:
    """x [n, 2, 6, 6] rounded to integers, an operator from integers to integers, and its result as numbers."""
    net, rng = nets.Net(), np.random.default_rng(4)

    def pair(scale: Any, zero: Any, dtype: Any = np.uint8) -> tuple[str, str]:
        return net.constant(scale), net.constant(zero, dtype)

    read, written = pair(*READ), pair(*WRITTEN)
    q = net.op("QuantizeLinear", "x", *read)
    weights = pair([0.02, 0.03, 0.04], [0, 0, 0], np.int8) if several else pair(0.02, 0, np.int8)

    def weight(*shape: int) -> str:
        return net.constant(rng.integers(-90, 90, shape), np.int8)

    bias = net.constant(rng.integers(-900, 900, 3), np.int32)
    flat = net.op("Flatten", q) if kind in {"QGemm", "QLinearMatMul"} else q
    operands: dict[str, tuple[str, ...]] = {
        "QLinearConv": (q, *read, weight(3, 2, 3, 3), *weights, *written, bias),
        "QLinearMatMul": (flat, *read, weight(72, 3), *weights, *written),
        "QGemm": (flat, *read, weight(*((3, 72) if attributes.get("transB") else (72, 3))), *weights, bias, *written),
        "QLinearAdd": (q, *read, q, *read, *written),
        "QLinearMul": (q, *read, net.constant(rng.integers(0, 99, (6,)), np.uint8), *written, *written),
        "QLinearConcat": (*written, q, *read, net.op("Transpose", q, perm=[0, 1, 3, 2]), *read),
        "QLinearWhere": (net.op("Greater", "x", net.constant(0.3)), q, *read, q, *another(net), *written),
    }
    domain = "" if kind in {"QLinearConv", "QLinearMatMul"} else MS
    found = net.op(kind, *operands.get(kind, (q, *read, *written)), domain=domain, **attributes)
    number = net.op("Flatten", net.op("DequantizeLinear", found, *written))
    return net.model(("n", 2, 6, 6), net.op("Mul", number, net.constant(1.0)))


def another(net: nets.Net) -> tuple[str, str]:
    """Another reading of the same integers."""
    return net.constant(0.1), net.constant(120, np.uint8)


OF_INTEGERS: dict[str, tuple[str, dict[str, Any]]] = {
    "a convolution": ("QLinearConv", {"pads": [1, 1, 1, 1]}),
    "a convolution by channels": ("QLinearConv", {"strides": [2, 2], "several": True}),
    "a product": ("QLinearMatMul", {}),
    "a product by columns": ("QLinearMatMul", {"several": True}),
    "a layer": ("QGemm", {"alpha": 0.5}),
    "a layer by columns": ("QGemm", {"transB": 1, "several": True}),
    "a sum": ("QLinearAdd", {}),
    "a product of elements": ("QLinearMul", {}),
    "a mean of windows": ("QLinearAveragePool", {"kernel_shape": [2, 2], "strides": [2, 2]}),
    "a mean of positions": ("QLinearGlobalAveragePool", {}),
    "a sigmoid": ("QLinearSigmoid", {}),
    "a leaky ReLU": ("QLinearLeakyRelu", {"alpha": 0.2}),
    "a softmax": ("QLinearSoftmax", {"axis": -1, "opset": 18}),
    "parts": ("QLinearConcat", {"axis": 1}),
    "a choice": ("QLinearWhere", {}),
}


@pytest.mark.parametrize("case", OF_INTEGERS)
def test_an_operator_of_integers_is_its_kernel_and_has_a_gradient(case: str) -> None:
    kind, options = OF_INTEGERS[case]
    content = of_integers(kind, **options)
    model = load(content)
    assert kind not in {node.op_type for node in model.ir.graph}
    feeds = nets.noise(model, 5)
    name = model.outputs[0].name
    (expected,) = InferenceSession(content, providers=["CPUExecutionProvider"]).run(None, feeds)
    found = open_session(expose(model, [name])).run(feeds)[name]
    np.testing.assert_allclose(found, expected, atol=1.01 * WRITTEN[0])  # one integer, where the kernel rounds half up
    assert np.ptp(expected) > 10 * WRITTEN[0]
    (check,) = check_gradients(model, ["x"], [Target("t", index=3 % expected.shape[1])], feeds, seed=0)
    assert check.ok, check.explain(0.02)


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        ("QLinearSoftmax", {"axis": 1, "opset": 11}),
        ("QLinearGlobalAveragePool", {"channels_last": 1}),
    ],
)
def test_a_form_that_has_no_formula_stays(kind: str, problem: dict[str, Any]) -> None:
    assert kind in {node.op_type for node in load(of_integers(kind, **problem)).ir.graph}


def in_blocks(bits: int, block: int, symmetric: bool, accuracy: int) -> bytes:
    """Two products with weights in blocks of few bits, the first of which do not fill their last block."""
    net = nets.Net(opset=21)
    hidden = net.op("Relu", net.op("MatMul", "x", net.weight(40, 48)))
    plain = net.model(("n", 40), net.op("MatMul", hidden, net.weight(48, 5)))
    quantiser = MatMulNBitsQuantizer(onnx.ModelProto.FromString(plain), bits, block, symmetric, accuracy)
    quantiser.process()
    assert [node.op_type for node in quantiser.model.model.graph.node].count("MatMulNBits") == 2
    return quantiser.model.model.SerializeToString()


@pytest.mark.parametrize("accuracy", [1, 4])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("bits", "block"), [(4, 32), (4, 16), (8, 32)])
def test_weights_in_blocks_of_few_bits_are_numbers(bits: int, block: int, symmetric: bool, accuracy: int) -> None:
    """For an accuracy of 4 what they multiply is rounded to bytes by the largest of each block."""
    content = in_blocks(bits, block, symmetric, accuracy)
    model, name = load(content), "matmul_2"
    feeds = nets.noise(model, 5)
    (expected,) = InferenceSession(content, providers=["CPUExecutionProvider"]).run(None, feeds)
    np.testing.assert_allclose(open_session(expose(model, [name])).run(feeds)[name], expected, rtol=1e-4, atol=1e-5)
    states = {state.tensor: state for state in list_layers(model, TARGET) if state.auditable}
    assert {node.output[0] for node in onnx.ModelProto.FromString(content).graph.node} <= {*states}
    assert all(check.ok for check in check_gradients(model, ["x", *states], [TARGET], feeds, seed=0))
    assert (WARNING in model.warnings) == (accuracy == 4)


def test_a_byte_that_is_the_largest_of_its_block_passes_the_gradient_on() -> None:
    """Where each block has one number but zeros, that number is the largest: its gradient is that of the weights."""
    rounded, plain = (load(in_blocks(4, 16, True, accuracy)) for accuracy in (4, 1))
    feeds = {"x": np.zeros((1, 40), np.float32)}
    feeds["x"][0, ::16] = 1.0, -2.0, 3.0
    found, expected = (
        open_session(differentiate(model, ["x"], [TARGET])).run(feeds)["gradient/t/x"] for model in (rounded, plain)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert np.abs(expected).min() > 0


@pytest.mark.parametrize(
    "types",
    [(QuantType.QUInt8, QuantType.QInt4), (QuantType.QUInt16, QuantType.QInt8), (QuantType.QInt16, QuantType.QInt16)],
    ids=str,
)
def test_types_of_4_and_of_16_bits_are_rounded_alike(tmp_path: Path, types: tuple[QuantType, QuantType]) -> None:
    """For 4 bits the quantiser writes roundings of the runtime's own domain, whose shapes onnx does not infer."""
    activations, weights = types
    model = load(quantised(tmp_path, nets.resnet, activation_type=activations, weight_type=weights))
    assert (MS in {node.domain for node in model.ir.graph}) == (weights is QuantType.QInt4)
    states = list_layers(model, TARGET)
    assert len(states) > 30
    assert all(state.auditable for state in states)
    checks = check_gradients(model, [state.tensor for state in states][::6], [TARGET], nets.noise(model, 4), seed=0)
    assert [check.layer for check in checks if not check.ok] == []


MOVED: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "MaxPool": ((), {"kernel_shape": [2, 2], "strides": [2, 2]}),
    "Transpose": ((), {"perm": [0, 2, 3, 1]}),
    "Reshape": (([0, 36, 2],), {}),
    "Slice": (([1], [5], [3]), {}),
    "Gather": (([1, 0, 1],), {"axis": 1}),
    "Pad": (([0, 0, 1, 0, 0, 0, 0, 2], np.uint8(125)), {}),
    "Pad with the integer 0": (([0, 0, 1, 0, 0, 0, 0, 2],), {}),
    "Resize": (("", np.array([1, 1, 2, 2], np.float32)), {"mode": "nearest"}),
    "Split": (([1, 1],), {"axis": 1, "outputs": 2}),
}


@pytest.mark.parametrize("kind", MOVED)
def test_a_gradient_passes_integers_that_are_moved(kind: str) -> None:
    """Between two operators of integers, as pooled and flattened pictures are."""
    inputs, attributes = MOVED[kind]
    net = nets.Net()
    scale, zero = net.constant(READ[0]), net.constant(READ[1], np.uint8)
    given = [
        "" if isinstance(one, str) else net.constant(one, np.int64 if isinstance(one, list) else one.dtype)
        for one in inputs
    ]
    moved = net.op(kind.split()[0], net.op("QuantizeLinear", "x", scale, zero), *given, **attributes)
    first = moved[0] if isinstance(moved, list) else moved
    rest = moved[1] if isinstance(moved, list) else first
    total = net.op("QLinearMul", first, scale, zero, rest, scale, zero, scale, zero, domain=MS)
    content = net.model(("n", 2, 6, 6), net.op("Flatten", net.op("DequantizeLinear", total, scale, zero)))
    model = load(content)
    feeds = nets.noise(model, 5)
    name = model.outputs[0].name
    (expected,) = InferenceSession(content, providers=["CPUExecutionProvider"]).run(None, feeds)
    found = open_session(expose(model, [name])).run(feeds)[name]
    np.testing.assert_allclose(found, expected, atol=1.01 * READ[0])
    (check,) = check_gradients(model, ["x"], [TARGET], feeds, seed=0)
    assert check.ok, check.explain(0.02)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("form", [QuantFormat.QOperator, QuantFormat.QDQ])
@pytest.mark.parametrize("make", nets.CONVOLUTIONAL.values(), ids=lambda make: make.__name__)
def test_values_are_those_that_are_served(tmp_path: Path, make: Any, form: QuantFormat, per_channel: bool) -> None:
    """To the last bit: the runtime finds the same kernels of integers in the graph that is audited as in the file.

    A bias that was kept as a number, in place of its integers, once led it to others.
    """
    content = quantised(tmp_path, make, quant_format=form, per_channel=per_channel)
    model = load(content)
    feeds = nets.noise(model, 6, seed=5)
    name = model.outputs[0].name
    (expected,) = InferenceSession(content, providers=["CPUExecutionProvider"]).run(None, feeds)
    np.testing.assert_array_equal(open_session(expose(model, [name])).run(feeds)[name], expected)


def products() -> bytes:
    """Products with weights, one after the other, as a text model has them."""
    net = nets.Net()
    first = net.op("Tanh", net.op("MatMul", "x", net.weight(64, 64)))
    second = net.op("Tanh", net.op("MatMul", first, net.weight(64, 64)))
    return net.model(("n", 64), net.op("MatMul", second, net.weight(64, 3)))


@pytest.mark.parametrize("form", [QuantFormat.QOperator, QuantFormat.QDQ])
def test_a_model_without_its_rounding_has_weights_that_are_numbers(tmp_path: Path, form: QuantFormat) -> None:
    """For a product of numbers with weights of integers, ONNX Runtime rounds the numbers."""
    model = load(quantised(tmp_path, products, quant_format=form))
    assert any(node.op_type == "DequantizeLinear" for node in model.ir.graph)
    assert not any(node.op_type == "DequantizeLinear" for node in without_rounding(model).ir.graph)
    layers = [state.tensor for state in list_layers(model, TARGET) if state.auditable]
    checks = check_gradients(model, ["x", *layers], [TARGET], nets.noise(model, 4), seed=0)
    assert max(check.residual for check in checks) < 0.02
    assert all(check.ok for check in checks)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("block", [0, 2])
def test_weights_are_the_numbers_that_the_runtime_reads(axis: int, block: int) -> None:
    net, rng = nets.Net(opset=21), np.random.default_rng(2)
    shape = [4, 6]
    count = -(-shape[axis] // block) if block else shape[axis]
    scales = [count if place == axis else size for place, size in enumerate(shape)] if block else [count]
    weight = net.op(
        "DequantizeLinear",
        net.constant(rng.integers(-90, 90, shape), np.int8),
        net.constant(rng.uniform(0.01, 0.1, scales)),
        net.constant(rng.integers(-9, 9, scales), np.int8),
        axis=axis,
        block_size=block,
    )
    content = net.model(("n", 4), net.op("MatMul", "x", weight))
    model, x = load(content), np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    (name,) = (one.name for one in model.outputs)
    expected = open_session(expose(model, [name]), optimise=False).run({"x": x})[name]
    numbers = without_rounding(model)
    assert [node.op_type for node in numbers.ir.graph] == ["MatMul"]
    np.testing.assert_allclose(
        open_session(expose(numbers, [name])).run({"x": x})[name], expected, rtol=1e-4, atol=1e-5
    )


def classifier() -> bytes:
    """A small network that ends with a softmax."""
    net = nets.Net()
    hidden = net.op("Relu", net.op("Gemm", "x", net.weight(20, 6), net.weight(6), transB=0))
    return net.model(("n", 20), net.op("Softmax", net.op("Gemm", hidden, net.weight(6, 3), net.weight(3)), axis=-1))


@pytest.mark.parametrize("form", [QuantFormat.QOperator, QuantFormat.QDQ])
def test_the_scores_before_a_rounded_softmax_are_the_target(tmp_path: Path, form: QuantFormat) -> None:
    model = load(quantised(tmp_path, classifier, quant_format=form))
    found = resolve_target(model, Target("t", index=1))
    assert found.link == "softmax"
    assert found.tensor == "gemm_2_DequantizeLinear_Output"
    unsquashed = load(quantised(tmp_path, nets.resnet, quant_format=form))
    assert resolve_target(unsquashed, TARGET).tensor == unsquashed.outputs[0].name


def test_layers_of_integers_are_called_as_the_quantiser_calls_them(tmp_path: Path) -> None:
    of_integers, of_pairs = (
        {
            layer.tensor
            for layer in list_layers(load(quantised(tmp_path, nets.resnet, quant_format=form)), TARGET)
            if layer.auditable
        }
        for form in (QuantFormat.QOperator, QuantFormat.QDQ)
    )
    assert len(of_integers) > 30
    assert {"gemm_22_QuantizeLinear_Input", "flatten_21_DequantizeLinear_Output"} <= of_integers & of_pairs


def test_every_layer_of_integers_passes_the_gradient_check(tmp_path: Path) -> None:
    model = load(quantised(tmp_path, nets.resnet, quant_format=QuantFormat.QOperator))
    states = list_layers(model, TARGET)
    assert all(state.auditable for state in states)
    checks = check_gradients(model, [state.tensor for state in states][::4], [TARGET], nets.noise(model, 4), seed=0)
    assert [check.layer for check in checks if not check.ok] == []
    twin = load(nets.resnet())
    ours, theirs = gradients(model, "x"), gradients(twin, "x")
    assert ours @ theirs / np.linalg.norm(ours) / np.linalg.norm(theirs) > 0.9


def test_weights_rounded_to_float16_are_read_as_float32(tmp_path: Path) -> None:
    """Inputs and outputs of half precision too: examples are cast, and layers have gradients of float32."""
    proto = onnx.ModelProto.FromString(nets.mlp())
    for tensor in proto.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        tensor.CopyFrom(onnx.numpy_helper.from_array(array.astype(np.float16), tensor.name))
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    model = load(proto.SerializeToString())
    assert [one.dtype for one in (*model.inputs, *model.outputs)] == ["float32", "float32"]
    layers = [layer.tensor for layer in list_layers(model, Target("t")) if layer.auditable]
    assert all(check.ok for check in check_gradients(model, layers, [Target("t")], nets.noise(model, 4), seed=0))
