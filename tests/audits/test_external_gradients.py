"""An audit by a supplied gradient graph: of a model that has a rule, and of one that has none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import parser

from caveat_spec.audit import Scalar
from caveat_worker import inspection
from caveat_worker.engine.autodiff.load import load
from caveat_worker.engine.autodiff.target import Target
from caveat_worker.engine.base.errors import InvalidInput
from tests.audits.conftest import Bench
from tests.engine.test_external_gradients import own, scaled

FIRST = Target("first", index=0)


def supply(bench: Bench, proto: onnx.ModelProto) -> None:
    onnx.save(proto, bench.folder / "gradient.onnx")
    bench.document["gradient"] = "gradient.onnx"


def test_a_supplied_gradient_gives_the_same_figures_and_is_named(bench: Bench) -> None:
    alone = bench.run()
    supply(bench, own(load(bench.folder / "model.onnx"), "hidden1", target=FIRST))
    supplied = bench.run()
    assert supplied.audit.gradient is not None
    assert any("supplied with the model" in warning for warning in supplied.warnings)
    assert [row.effect.value for row in supplied.associations] == pytest.approx(
        [row.effect.value for row in alone.associations], 1e-4
    )
    assert supplied.verdict.outcome == alone.verdict.outcome
    assert all(check.relative_error < 1e-3 for check in supplied.plan.gradient_checks)


def test_layers_are_those_of_the_graph_where_none_are_named(bench: Bench) -> None:
    supply(bench, own(load(bench.folder / "model.onnx"), "z1", target=FIRST))
    bench.document["layers"] = "auto"
    assert [layer.tensor for layer in bench.run().plan.layers] == ["z1"]
    bench.document["layers"] = ["hidden1"]
    with pytest.raises(InvalidInput, match=r"nothing for layer 'hidden1'; it has z1"):
        bench.run()


def test_a_wrong_gradient_is_refused_on_the_audits_own_examples(bench: Bench) -> None:
    supply(bench, scaled(own(load(bench.folder / "model.onnx"), "hidden1", target=FIRST), 0.9))
    with pytest.raises(InvalidInput, match="wrong") as caught:
        bench.run()
    assert (caught.value.code, caught.value.pointer) == ("supplied-gradient-wrong", "/gradient")


DETERMINANT = """
    <ir_version: 9, opset_import: ["" : 18]>
    net (float[n, 4] x) => (float[n, 2] logits) {
        hidden = Tanh(x)
        square = Reshape(hidden, shape)
        determinant = Det(square)
        column = Unsqueeze(determinant, one)
        logits = Gemm(column, w)
    }
"""
"""The determinant has no rule; by its four numbers it is (d, -c, -b, a)."""
BY_HAND = """
    <ir_version: 9, opset_import: ["" : 18]>
    gradient (float[n, 4] x) => (float[n, 4] "gradient/first/hidden") {
        h = Tanh(x)
        turned = Gather <axis = 1> (h, order)
        "gradient/first/hidden" = Mul(turned, signs)
    }
"""


def test_a_model_without_a_rule_can_be_audited(bench: Bench) -> None:
    model = onnx.parser.parse_model(DETERMINANT)
    for name, array in {
        "shape": np.asarray([-1, 2, 2]),
        "one": np.asarray([1]),
        "w": np.asarray([[2.0, -1.0]], np.float32),
    }.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    onnx.save(model, bench.folder / "model.onnx")
    bench.document["layers"] = ["hidden"]
    with pytest.raises(InvalidInput, match="Det"):
        bench.run()

    gradient = parser.parse_model(BY_HAND.replace('"gradient/first/hidden"', "out"))
    gradient.graph.node[-1].output[0] = gradient.graph.output[0].name = "gradient/first/hidden"
    for name, array in {
        "order": np.asarray([3, 2, 1, 0]),
        "signs": np.asarray([2, -2, -2, 2], np.float32),
    }.items():
        gradient.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    supply(bench, gradient)
    report = bench.run()
    assert report.plan.gradient_checks[0].relative_error < 1e-3

    inspected = inspection.inspect_model(
        bench.folder / "model.onnx", None, 0, Path("gradient.onnx"), {"first": Scalar(index=0)}
    )
    assert [layer.auditable for layer in inspected.layers if layer.tensor == "hidden"] == [True]
    assert inspected.gradient_checks[0].layer == "hidden"


def test_a_model_is_registered_with_its_gradient_or_not_at_all(bench: Bench) -> None:
    path = bench.folder / "model.onnx"
    supply(bench, scaled(own(load(path), "hidden1", target=FIRST), -1.0))
    with pytest.raises(InvalidInput, match=r"cosine of -1\.000") as caught:
        inspection.inspect_model(path, None, 0, Path("gradient.onnx"), {"first": Scalar(index=0)})
    assert caught.value.pointer == "/gradient/blob"
    with pytest.raises(InvalidInput, match="2 classes") as caught:
        inspection.inspect_model(path, None, 0, Path("gradient.onnx"), {"first": Scalar(index=5)})
    assert caught.value.pointer == "/gradient/targets/first/index"
