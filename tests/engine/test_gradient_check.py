"""The gradient check passes right gradients in networks full of kinks, and catches wrong ones there."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest

from caveat_worker.engine.autodiff import gradient_check
from caveat_worker.engine.autodiff.differentiate import differentiate
from caveat_worker.engine.autodiff.gradient_check import GradientCheck, check_external_gradients, check_gradients
from caveat_worker.engine.autodiff.layers import choose_layers
from caveat_worker.engine.autodiff.load import load
from caveat_worker.engine.autodiff.model import Model
from caveat_worker.engine.autodiff.rules import VJP, Rule
from caveat_worker.engine.autodiff.segments import Agreement, Segments, best_agreements
from caveat_worker.engine.autodiff.target import Target
from caveat_worker.engine.onnx.session import open_session
from tests.engine import nets
from tests.engine.ordinary import Case, network

TARGET = Target("t", index=0)
TOLERANCE = 0.01
"""What an audit allows by default."""
HARD = (2, 8, 14, 23, 34, 38, 39, 46, 119, 162, 174, 185)
"""Networks that central differences refused, whose layers are wide, or whose gradient is lost in rounding."""


def checked(
    case: Case, model: Model, layers: list[str], rules: dict[tuple[str, str], Rule] | None = None
) -> list[GradientCheck]:
    return list(
        check_gradients(model, layers, [TARGET], {"x": case.x}, seed=0, tolerance=TOLERANCE, rules=rules or VJP)
    )


@pytest.mark.parametrize("number", HARD)
def test_no_layer_of_an_ordinary_network_is_refused(number: int) -> None:
    case = network(number)
    model = load(case.content)
    checks = checked(case, model, [*choose_layers(model, TARGET), "x"])
    assert [check.explain(TOLERANCE) for check in checks if not check.ok] == [], case.name


def test_a_factor_on_one_branch_is_caught_among_kinks() -> None:
    case = network(8)  # residual blocks
    model = load(case.content)
    wrong = Rule(("", "Add"), lambda g, y, a, b: (0.9 * g, g), elementwise=True)
    (check,) = checked(case, model, ["x"], dict(VJP) | {("", "Add"): wrong})
    assert not check.ok
    assert "does not add up to how 't' changes" in check.explain(TOLERANCE)


def test_a_gradient_of_zero_is_caught() -> None:
    case = network(10)
    model = load(case.content)
    wrong = Rule(("", "Relu"), lambda g, y, x: (g * 0.0,))
    (check,) = checked(case, model, ["x"], dict(VJP) | {("", "Relu"): wrong})
    assert not check.ok
    assert check.residual == np.inf


def test_a_gradient_that_is_wrong_at_most_examples_only_is_caught_beside_a_large_one() -> None:
    """One example of a far larger gradient must not hide what the others are off."""
    net = nets.Net()
    model = load(net.model(("n", 6), net.dense(net.op("Mul", "x", net.op("Abs", "x")), 6, 2)))
    x = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32) * np.float32([[100], [1], [1], [1]])
    wrong = Rule(("", "Abs"), lambda g, y, x: (0.8 * g * (y / x),))
    check, *_ = check_gradients(
        model, ["x"], [TARGET], {"x": x}, seed=0, tolerance=TOLERANCE, rules=dict(VJP) | {("", "Abs"): wrong}
    )
    assert not check.ok


def test_a_gradient_that_differs_from_the_one_behind_the_layer_is_named_so() -> None:
    case = network(10)
    model = load(case.content)
    claimed = open_session(differentiate(model, ["relu_1"], [TARGET], also=["relu_1"]), threads=1).run({"x": case.x})
    claimed["gradient/t/relu_1"] = 1.5 * claimed["gradient/t/relu_1"]
    (check,) = check_gradients(model, ["relu_1"], [TARGET], {"x": case.x}, seed=0, claimed=claimed)
    assert not check.ok
    assert "not the same in the whole model" in check.explain(TOLERANCE)


def test_a_probability_that_is_saturated_passes() -> None:
    """Its gradient is smaller than what float32 can show of its changes."""
    net = nets.Net()
    logits = net.op("Mul", net.op("Tanh", net.dense("x", 8, 3)), net.constant(60.0))
    model = load(net.model(("n", 8), net.op("Softmax", logits)))
    probability = dataclasses.replace(TARGET, scale="probability")
    checks = check_gradients(model, ["x"], [probability], nets.noise(model, 4), seed=0, tolerance=TOLERANCE)
    assert checks[0].ok


@pytest.mark.parametrize("number", [2, 6, 37])
def test_an_external_gradient_may_lie_on_ties_and_among_kinks(number: int) -> None:
    case = network(number)
    model = load(case.content)
    layers = [*choose_layers(model, TARGET), "x"]
    own = open_session(differentiate(model, layers, [TARGET]), threads=1).run({"x": case.x})
    for factor, right in ((1, True), (0.9, False)):
        claimed = {name: np.float32(factor) * gradient for name, gradient in own.items()}
        checks = check_external_gradients(model, layers, [TARGET], {"x": case.x}, claimed, seed=0, tolerance=TOLERANCE)
        assert [check.ok for check in checks] == [right] * len(layers)


@pytest.mark.parametrize("hidden", [1, 2])
def test_what_does_not_agree_is_looked_at_once_more_elsewhere(hidden: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One right gradient in some thousand does not show at its first place; a wrong one shows at none."""
    looked_at: list[Segments] = []

    def first_hidden(segments: Segments, targets: Sequence[str], tolerance: float) -> dict[str, Agreement]:
        looked_at.append(segments)
        found = best_agreements(segments, targets, tolerance)
        wrong = {name: dataclasses.replace(one, residual=1.0) for name, one in found.items()}
        return wrong if len(looked_at) <= hidden else found

    monkeypatch.setattr(gradient_check, "best_agreements", first_hidden)
    case = network(0)
    model = load(case.content)
    layer = choose_layers(model, TARGET)[0]
    (check,) = check_gradients(model, [layer], [TARGET], {"x": case.x}, seed=0, tolerance=0.01)
    assert check.ok == (hidden == 1)
    assert len(looked_at) == 2
    assert not np.array_equal(*(one.point for one in looked_at))
