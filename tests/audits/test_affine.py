"""Affine models: the effect is exact and decides, and only the TCAV score says nothing."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from caveat_spec.report import Report
from caveat_worker.inspection import inspect_model
from tests.audits.conftest import Bench
from tests.engine import trees

WEIGHTS = np.array([[1.5], [0.0], [-0.5], [0.25]], np.float32)


@pytest.fixture
def regression(bench: Bench) -> Bench:
    """The small audit, of a logistic regression that has no weight on the second feature."""
    nodes = [
        helper.make_node("MatMul", ["x", "weights"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["probability"]),
    ]
    output = helper.make_tensor_value_info("probability", onnx.TensorProto.FLOAT, [None, 1])
    model = trees.model(nodes, [output], initializer=[numpy_helper.from_array(WEIGHTS, "weights")])
    onnx.save(model, bench.folder / "model.onnx")
    bench.document["layers"] = "auto"
    bench.document["targets"] = {"first": {"examples": "targets"}}
    return bench


def unpaired(bench: Bench) -> Bench:
    for name in ("used", "ignored"):
        del bench.document["examples"][name]["pairs_with"]
    return bench


def effect(report: Report, concept: str) -> float:
    (found,) = [test for test in report.associations if test.concept == concept]
    return found.effect.value


def test_a_model_without_a_layer_in_between_is_audited_at_its_input(regression: Bench) -> None:
    report = regression.run()
    (layer,) = report.plan.layers
    assert (layer.tensor, layer.operator, layer.features, layer.chosen) == ("x", "Input", 4, True)
    assert effect(report, "used") == pytest.approx(1.5 * 1.5, rel=1e-4)
    assert [line.finding for line in report.verdict.lines] == ["influential", "not_influential"]


def test_a_look_at_a_model_shows_the_input_that_is_picked(regression: Bench) -> None:
    seen = inspect_model(regression.folder / "model.onnx")
    assert [(layer.tensor, layer.operator) for layer in seen.layers if layer.auto] == [("x", "Input")]


def test_a_linear_regression_gives_a_number_that_decides_nothing(bench: Bench) -> None:
    node = helper.make_node(
        "LinearRegressor", ["x"], ["y"], domain=trees.ML, coefficients=WEIGHTS.ravel().tolist(), intercepts=[1.0]
    )
    output = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [None, 1])
    onnx.save(trees.model([node], [output]), bench.folder / "model.onnx")
    bench.document |= {"layers": "auto", "targets": {"first": {"examples": "targets"}}}
    report = bench.run()
    assert effect(report, "used") == pytest.approx(1.5 * 1.5, rel=1e-4)
    assert (report.plan.targets[0].unit, report.interventions[0].decisions) == ("unit", None)


def test_the_effect_decides_without_pairs_too(regression: Bench) -> None:
    report = unpaired(regression).run()
    used = report.verdict.lines[0]
    assert (used.finding, used.outcome) == ("influential", "fail")
    assert report.interventions == []


def test_the_score_carries_a_caution_that_blocks_nothing(regression: Bench) -> None:
    report = unpaired(regression).run()
    flags = [flag for test in report.associations for flag in test.flags if flag.code == "degenerate"]
    assert flags
    assert not any(flag.blocking for flag in flags)
    assert "the effect is as good as exact" in flags[0].sentence
    assert all(test.score is not None and test.score.value in (0, 1) for test in report.associations)


def test_the_same_change_for_every_pair_is_beyond_chance(regression: Bench) -> None:
    """Its resamples do not vary at all, which must not read as a p-value of 1."""
    regression.document["concepts"]["used"]["against"] = "base"
    base = np.load(regression.folder / "base.npy")
    shifted = np.round(base, 1)
    regression.save("base.npy", shifted)
    regression.save("used.npy", shifted + np.array([1, 0, 0, 0]))
    report = regression.run()
    (used,) = [test for test in report.associations if test.concept == "used"]
    assert used.effect.deciding_p < 0.05
