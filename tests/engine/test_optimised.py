"""Models that ONNX Runtime's optimiser has rewritten: fused operators, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from caveat_worker.engine.autodiff.differentiate import differentiate
from caveat_worker.engine.autodiff.gradient_check import check_gradients
from caveat_worker.engine.autodiff.layers import list_layers
from caveat_worker.engine.autodiff.load import load
from caveat_worker.engine.autodiff.target import Target
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.onnx.session import open_session
from tests.engine import nets

MS = "com.microsoft"
TARGET = Target("t", index=1)


def normalised(net: nets.Net, x: str, root: bool = False) -> str:
    """Layer normalisation by means, or by the root mean square, as exporters before opset 17 write it."""
    centred = x if root else net.op("Sub", x, net.op("ReduceMean", x, axes=[-1]))
    squares = net.op("ReduceMean", net.op("Pow", centred, net.constant(2.0)), axes=[-1])
    deviation = net.op("Sqrt", net.op("Add", squares, net.constant(1e-5)))
    scaled = net.op("Mul", net.op("Div", centred, deviation), net.constant(np.linspace(0.5, 1.5, 8)))
    return str(scaled if root else net.op("Add", scaled, net.weight(8)))


def gelu(net: nets.Net, x: str) -> str:
    erf = net.op("Erf", net.op("Div", x, net.constant(np.sqrt(2))))
    return str(net.op("Mul", net.op("Mul", x, net.op("Add", erf, net.constant(1.0))), net.constant(0.5)))


def encoder(opset: int = 12) -> bytes:
    """Two blocks of a text encoder at an old opset: what the optimiser fuses to LayerNormalization and Gelu."""
    net = nets.Net(6, opset=opset)
    x = "x"
    for root in (False, True):
        normal = normalised(net, x, root)
        key = net.op("Transpose", net.op("MatMul", normal, net.weight(8, 8)), perm=[0, 2, 1])
        scores = net.op("Mul", net.op("MatMul", normal, key), net.constant(0.3))
        x = net.op("Add", x, net.op("MatMul", net.op("Softmax", scores, axis=-1), normal))
        hidden = net.op("Add", net.op("MatMul", normalised(net, x), net.weight(8, 16)), net.weight(16))
        x = net.op("Add", x, net.op("MatMul", gelu(net, hidden), net.weight(16, 8)))
    return net.model(("n", 4, 8), net.op("MatMul", net.op("ReduceMean", x, axes=[1], keepdims=0), net.weight(8, 3)))


def optimised(folder: Path, content: bytes, level: Any) -> bytes:
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 4
    ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return (folder / "optimised.onnx").read_bytes()


EXTENDED = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
LEVELS = {"basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC, "extended": EXTENDED}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("make", [*nets.CONVOLUTIONAL.values(), encoder], ids=lambda make: make.__name__)
def test_an_optimised_model_has_the_gradient_of_the_model_before(
    tmp_path: Path, make: Callable[[], bytes], level: str
) -> None:
    before, after = load(make()), load(optimised(tmp_path, make(), LEVELS[level]))
    feeds = nets.noise(before, 3)
    one, other = (
        open_session(differentiate(model, ["x"], [TARGET])).run(feeds)["gradient/t/x"] for model in (before, after)
    )
    np.testing.assert_allclose(other, one, rtol=1e-3, atol=1e-5 * np.abs(one).max())


def test_what_the_encoder_is_fused_to(tmp_path: Path) -> None:
    """LayerNormalization is an operator of ai.onnx from opset 17 on, and the optimiser writes it at 12."""
    proto = onnx.ModelProto.FromString(optimised(tmp_path, encoder(), EXTENDED))
    assert {"LayerNormalization", "SimplifiedLayerNormalization", "BiasGelu"} <= {n.op_type for n in proto.graph.node}
    assert proto.opset_import[0].version == 12


def test_every_layer_of_an_optimised_encoder_passes_the_gradient_check(tmp_path: Path) -> None:
    model = load(optimised(tmp_path, encoder(), EXTENDED))
    layers = [layer.tensor for layer in list_layers(model, TARGET) if layer.auditable]
    assert len(layers) > 10
    assert all(check.ok for check in check_gradients(model, layers, [TARGET], nets.noise(model, 4), seed=0))


def test_a_layout_of_one_processor_is_refused(tmp_path: Path) -> None:
    content = optimised(tmp_path, nets.resnet(), ort.GraphOptimizationLevel.ORT_ENABLE_ALL)
    if b"com.microsoft.nchwc" not in content:
        pytest.skip("this processor has no such layout")
    with pytest.raises(InvalidInput, match="memory layout of one processor") as caught:
        load(content)
    assert "ORT_ENABLE_EXTENDED" in caught.value.remedy


def test_the_lengths_of_texts_go_from_the_fused_embedding_to_fused_attention() -> None:
    """As the optimiser of transformers writes BERT: no shapes between, and a mask that is each text's length."""
    net = nets.Net(7)
    mask = net.op("Cast", net.op("Greater", "x", net.constant(0, np.int32)), to=onnx.TensorProto.INT32)
    tables = net.weight(9, 8), net.weight(6, 8)
    normal, lengths = net.op(
        "EmbedLayerNormalization", "x", "", *tables, "", net.weight(8), net.weight(8), mask, outputs=2, domain=MS
    )
    mixed = net.op("Attention", normal, net.weight(8, 24), net.weight(24), lengths, num_heads=2, domain=MS)
    hidden = net.op("SkipLayerNormalization", mixed, normal, net.weight(8), net.weight(8), domain=MS)
    first = net.op("Gather", hidden, net.constant(0, np.int64), axis=1)
    content = net.model(("n", "m"), net.dense(first, 8, 3), dtype=onnx.TensorProto.INT32)
    ids = np.asarray([[3, 1, 8, 2], [5, 7, 0, 0], [4, 0, 0, 0]], np.int32)
    model = load(content)
    layers = [layer.tensor for layer in list_layers(model, TARGET) if layer.auditable]
    assert {normal, mixed, hidden, first} <= set(layers)
    (expected,) = ort.InferenceSession(content, providers=["CPUExecutionProvider"]).run(None, {"x": ids})
    found = open_session(differentiate(model, [normal], [TARGET])).run({"x": ids})
    np.testing.assert_allclose(found["value/t"].ravel(), expected[:, 1], rtol=1e-4, atol=1e-5)
    hidden_keys = np.abs(found[f"gradient/t/{normal}"]).max(-1) == 0
    np.testing.assert_array_equal(hidden_keys, ids == 0)
    assert all(check.ok for check in check_gradients(model, layers, [TARGET], {"x": ids}, seed=0))
