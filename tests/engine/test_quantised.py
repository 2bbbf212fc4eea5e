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

from caveat_worker.engine.autodiff.differentiate import differentiate, expose
from caveat_worker.engine.autodiff.gradient_check import check_gradients
from caveat_worker.engine.autodiff.layers import list_layers
from caveat_worker.engine.autodiff.load import load
from caveat_worker.engine.autodiff.rules import VJP, Rule
from caveat_worker.engine.autodiff.straight_through import without_rounding
from caveat_worker.engine.autodiff.target import Target
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


def test_no_gradient_passes_around_an_operator_of_integers(tmp_path: Path) -> None:
    """A residual connection carries only a part of the gradient, so a layer before it is refused."""
    model = load(quantised(tmp_path, nets.resnet, quant_format=QuantFormat.QOperator))
    assert any(node.op_type == "QLinearConv" for node in model.ir.graph)
    (first, *_) = list_layers(model, TARGET)
    assert "it reads integers that a QGemm computes" in (first.reason or "")


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
