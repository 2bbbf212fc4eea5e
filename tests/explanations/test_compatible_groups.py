"""Compatible groups: planted ones that a factorisation of their layer alone cannot tell apart, and what flows."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from onnx import helper
from scipy.optimize import linear_sum_assignment

from caveat_worker.engine.autodiff.layers import choose_layers
from caveat_worker.engine.explanations import explanation
from caveat_worker.engine.explanations.atoms import by_position
from caveat_worker.engine.explanations.attributed import Attributed
from caveat_worker.engine.explanations.factors import signed_factors
from tests.engine.nets import Net
from tests.explanations.models import opened
from tests.explanations.networks import example, middle

SIDE, CHANNELS, COUNT = 6, 8, 4
LEFT = np.tile(np.arange(SIDE) < SIDE // 2, (SIDE, 1))
LOWER, UPPER = "identity_0", "seen_above"


def compatible(runs: Any, x: Any, **options: Any) -> Attributed:
    one = explanation("compatible_groups")
    return one.run(runs, x, one.entry.options(**options))


@cache
def planted(seed: int) -> tuple[Any, Any, np.ndarray]:
    """Runs around two features that are everywhere, whose left and right halves serve upper channels of their own.

    Of its own layer, a factorisation sees two groups. With the layer above there are four [4, positions, channels].
    """
    rng = np.random.default_rng(seed)
    features = np.kron(np.eye(2), np.ones(4)) * rng.uniform(0.5, 2, (2, CHANNELS))
    where = rng.uniform(0.2, 1.5, (2, SIDE, SIDE)) * (rng.random((2, SIDE, SIDE)) < 0.7)
    x = np.einsum("kyx,kc->cyx", where, features)[None] + 0.02 * rng.random((1, CHANNELS, SIDE, SIDE))
    net, halves = Net(0), []
    lower = net.op("Identity", "x")
    for half in (LEFT, ~LEFT):
        weights = np.kron(np.eye(2), rng.uniform(0.5, 1.5, (2, 4)))[:, :, None, None]
        halves.append(net.op("Mul", net.op("Conv", lower, net.constant(weights)), net.constant(half[None, None])))
    joined = net.op("Concat", *halves, axis=1)
    net.nodes.append(helper.make_node("Relu", [joined], [UPPER]))
    mean = net.op("Flatten", net.op("GlobalAveragePool", UPPER))
    weights = np.array([1.0, 1, -2, -2, 3, 3, -0.5, -0.5])[:, None] * [[0, 1]]
    model = opened(net.model(("n", CHANNELS, SIDE, SIDE), net.op("Gemm", mean, net.constant(weights))), index=1)
    runs, x = model.around({"x": x.astype(np.float32)})
    blocks = [
        np.einsum("p,c->pc", (where[feature] * half).ravel(), features[feature])
        for half in (LEFT, ~LEFT)
        for feature in (0, 1)
    ]
    return runs, x, np.stack(blocks)


def alike(shares: np.ndarray, mixes: np.ndarray, blocks: np.ndarray) -> float:
    """The mean cosine of groups [n, k] and [k, d] with the planted ones that they are nearest to, one to one."""
    found = np.einsum("pk,kc->kpc", shares, mixes).reshape(len(mixes), -1)
    true = blocks.reshape(len(blocks), -1)
    lengths = np.linalg.norm(found, axis=1)[:, None] * np.linalg.norm(true, axis=1)
    cosines = np.abs(found @ true.T) / np.maximum(lengths, 1e-12)
    return float(cosines[linear_sum_assignment(-cosines)].mean())


def found_and_alone(seed: int) -> tuple[float, float]:
    """How near compatible groups are to the planted ones, and how near those of the layer alone are."""
    runs, x, blocks = planted(seed)
    parts = compatible(runs, x, layer=LOWER, upper=UPPER, count=COUNT).parts
    a, gradient = (by_position(one)[0].astype(float) for one in (runs.activations(x, LOWER), runs.gradient(x, LOWER)))
    mixes = parts["directions"][0]
    shares = parts["maps"][0].reshape(COUNT, -1).T / (gradient @ mixes.T)
    alone = signed_factors(a, COUNT)
    return alike(shares, mixes, blocks), alike(alone.shares, alone.mixes, blocks)


@pytest.mark.parametrize("seed", range(10))
def test_planted_groups_are_found_that_the_layer_alone_does_not_tell_apart(seed: int) -> None:
    together, alone = found_and_alone(seed)
    assert together > 0.95
    assert alone < 0.8


def test_each_planted_group_flows_into_one_group_above_and_all_its_effect_does() -> None:
    runs, x, blocks = planted(0)
    found = compatible(runs, x, layer=LOWER, upper=UPPER, count=COUNT)
    assert found.withheld is None
    flow = np.abs(found.parts["pairs"][0])
    assert (flow.max(0) > 0.97 * flow.sum(0)).all()
    assert sorted(flow.argmax(0)) == [0, 1, 2, 3], "each has a group above of its own"
    assert found.parts["pairs"][0].sum(0) == pytest.approx(found.values[0], rel=1e-4)
    gradient = runs.gradient(x, LOWER)[0].reshape(CHANNELS, -1).T
    expected = sorted((blocks * gradient).sum((1, 2)))
    assert sorted(found.values[0]) == pytest.approx(expected, rel=0.1)
    assert list(np.abs(found.values[0])) == sorted(np.abs(found.values[0]), reverse=True)
    above = found.parts["upper_maps"][0]
    assert list(np.abs(above.sum((1, 2)))) == sorted(np.abs(above.sum((1, 2))), reverse=True)
    halves = [np.abs(one[:, : SIDE // 2]).sum() / np.abs(one).sum() for one in above]
    assert all(share < 0.02 or share > 0.98 for share in halves)
    assert "Of seen_above: group A: " in found.notes[2]
    assert int(found.notes[1].partition("%")[0]) >= 97


@pytest.mark.parametrize("family", ["vgg", "norm", "mobile", "residual", "transformer"])
def test_effects_and_what_is_left_over_are_the_linear_attribution(family: str) -> None:
    runs, x = example(family, 0)
    chosen = choose_layers(runs.opened.model, runs.opened.target)
    layer = middle(runs)
    upper = next((one for one in chosen[chosen.index(layer) + 1 :] if runs.activations(x, one).ndim > 2), None)
    if upper is None:
        layer, upper = chosen[0], layer
    found = compatible(runs, x, layer=layer, upper=upper, count=3)
    whole = (runs.activations(x, layer).astype(float) * runs.gradient(x, layer)).sum()
    assert found.rest is not None
    assert found.values.sum() + found.rest[0] == pytest.approx(whole, rel=1e-12, abs=1e-12)
    assert found.parts["maps"][0].reshape(3, -1).sum(1) == pytest.approx(found.values[0], rel=1e-9, abs=1e-12)
    one = explanation("compatible_groups")
    assert found.passes == one.cost(one.entry.options(layer=layer, upper=upper, count=3), {})


def test_what_goes_around_the_later_layer_is_said() -> None:
    """A sum of a layer and of what is behind it: the flow has the latter part only."""
    net = Net(0)
    lower = net.op("Identity", "x")
    net.nodes.append(helper.make_node("Relu", [lower], [UPPER]))
    mean = net.op("Flatten", net.op("GlobalAveragePool", net.op("Add", UPPER, lower)))
    weights = np.ones((CHANNELS, 1)) * [[0, 1]]
    model = opened(net.model(("n", CHANNELS, SIDE, SIDE), net.op("Gemm", mean, net.constant(weights))), index=1)
    x = np.random.default_rng(0).uniform(0, 1, (1, CHANNELS, SIDE, SIDE)).astype(np.float32)
    runs, x = model.around({"x": x})
    found = compatible(runs, x, layer=LOWER, upper=UPPER, count=3)
    assert found.parts["pairs"][0].sum() == pytest.approx(found.values[0].sum() / 2, rel=1e-5)
    assert "50% of what they do passes no group of it." in found.notes[1]


def test_groups_of_a_target_that_does_not_change_are_withheld() -> None:
    net = Net(0)
    net.nodes.append(helper.make_node("Relu", [net.op("Identity", "x")], [UPPER]))
    mean = net.op("Flatten", net.op("GlobalAveragePool", UPPER))
    scores = net.op("Relu", net.op("Gemm", mean, net.constant(-np.ones((CHANNELS, 2)))))
    runs, x = opened(net.model(("n", CHANNELS, SIDE, SIDE), scores), index=1).around(
        {"x": np.ones((1, CHANNELS, SIDE, SIDE), np.float32)}
    )
    found = compatible(runs, x, layer=LOWER, upper=UPPER, count=2)
    assert "gradient is zero everywhere" in str(found.withheld)
