"""Groups of channels: planted ones are found, and effects with what is left over are the layer's attribution."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.decomposition import NMF

from caveat_worker.engine.explanations import explanation
from caveat_worker.engine.explanations.attributed import Attributed
from caveat_worker.engine.explanations.factors import factors
from tests.engine.nets import Net
from tests.explanations.models import opened
from tests.explanations.networks import example, middle

SIDE, CHANNELS, SEEN = 6, 9, "identity_0"
MIXES = np.kron(np.eye(3), np.ones(3)) * [1.0, 2, 3, 1, 1, 1, 2, 1, 2]
"""Three groups of three channels each [3, 9]."""
PLACES = np.kron(np.eye(3), np.ones((1, 12))).reshape(3, SIDE, SIDE)
"""Where each group is: two rows of the picture [3, side, side]."""


def groups(runs: Any, x: Any, **options: Any) -> Attributed:
    one = explanation("groups")
    return one.run(runs, x, one.entry.options(**options))


def planted() -> tuple[Any, np.ndarray]:
    """Runs whose first layer holds three groups, of which the second speaks against the target."""
    net = Net(0)
    mean = net.op("Flatten", net.op("GlobalAveragePool", net.op("Identity", "x")))
    weights = np.array([1.0] * 3 + [-3.0] * 3 + [0.5] * 3)[:, None] * [[0, 1]]
    model = opened(net.model(("n", CHANNELS, SIDE, SIDE), net.op("Gemm", mean, net.constant(weights))), index=1)
    return model.around({"x": np.einsum("kc,kyx->cyx", MIXES, PLACES)[None].astype(np.float32)})


def test_planted_groups_are_found_with_their_channels_places_and_effects() -> None:
    runs, x = planted()
    found = groups(runs, x, layer=SEEN, count=3)
    assert found.withheld is None
    effects = MIXES.sum(1) * 12 / SIDE**2 * [1, -3, 0.5]
    order = np.argsort(-np.abs(effects))
    assert found.values[0] == pytest.approx(effects[order], rel=1e-3)
    for row, planted_as in enumerate(order):
        mix = found.parts["directions"][0, row]
        assert mix @ MIXES[planted_as] / np.linalg.norm(mix) / np.linalg.norm(MIXES[planted_as]) > 0.999
        where = np.abs(found.parts["maps"][0, row])
        assert where[PLACES[planted_as] == 0].sum() < 1e-3 * where.sum()
    assert "they miss 0% of their size" in found.notes[0]
    assert {"3", "4", "5"} == set(found.notes[0].partition("group 1: ")[2].partition(";")[0].split(", "))


@pytest.mark.parametrize("by", ["activations", "attributions"])
@pytest.mark.parametrize("family", ["vgg", "norm", "mobile", "residual", "transformer"])
def test_effects_and_what_is_left_over_are_the_linear_attribution(family: str, by: str) -> None:
    runs, x = example(family, 0)
    layer = middle(runs)
    found = groups(runs, x, layer=layer, count=4, by=by)
    whole = (runs.activations(x, layer).astype(float) * runs.gradient(x, layer)).sum()
    assert found.total == pytest.approx([whole], rel=1e-12, abs=1e-12)
    assert found.rest is not None
    assert found.values.sum() + found.rest[0] == pytest.approx(whole, rel=1e-12, abs=1e-12)
    assert found.parts["maps"][0].reshape(4, -1).sum(1) == pytest.approx(found.values[0], rel=1e-9, abs=1e-12)


def test_effects_are_those_of_scikit_learns_factors_one_by_one() -> None:
    runs, x = example("vgg", 0)
    layer = middle(runs)
    a = np.maximum(runs.activations(x, layer)[0], 0).astype(float)
    gradient = runs.gradient(x, layer)[0].astype(float)
    flat = a.reshape(len(a), -1).T
    model = NMF(3, init="nndsvda", max_iter=500, random_state=0)
    u, v = model.fit_transform(flat / flat.max()) * flat.max(), model.components_
    effects = [0.0, 0.0, 0.0]
    for k, p, c in np.ndindex(3, len(u), len(a)):
        effects[k] += u[p, k] * v[k, c] * gradient[c].ravel()[p]
    expected = sorted(effects, key=lambda effect: -abs(effect))
    assert (runs.activations(x, layer) >= 0).all()
    assert groups(runs, x, layer=layer, count=3).values[0] == pytest.approx(expected, rel=1e-6)


def test_negative_activations_are_factorised_beside_the_positive_ones() -> None:
    runs, x = planted()
    x = x * np.where(PLACES[0] > 0, -1, 1).astype(np.float32)
    found = groups(runs, x, layer=SEEN, count=3)
    assert found.withheld is None
    assert sorted(found.values[0]) == pytest.approx(sorted(MIXES.sum(1) / 3 * [-1, -3, 0.5]), rel=1e-3)
    assert "positive and negative parts side by side" in found.notes[0]


def test_groups_that_miss_most_of_the_attribution_are_withheld() -> None:
    """Two groups of a matrix of full rank, whose target reads what they leave over."""
    net = Net(0)
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((CHANNELS * SIDE**2, 2)).astype(np.float32)
    scores = net.op("Gemm", net.op("Flatten", net.op("Identity", "x")), net.constant(weights))
    model = opened(net.model(("n", CHANNELS, SIDE, SIDE), scores), index=1)
    shares = []
    for seed in range(8):
        x = np.abs(np.random.default_rng(seed).standard_normal((1, CHANNELS, SIDE, SIDE))).astype(np.float32) ** 3
        runs, x = model.around({"x": x})
        found = groups(runs, x, layer=SEEN, count=2)
        check = next(one for one in found.checks if one.code == "groups")
        share = abs(found.rest[0]) / np.abs(found.values).sum()  # type: ignore[index]
        assert check.value == pytest.approx(share)
        assert (found.withheld is None) == (share <= 0.5)
        shares.append(share)
    assert max(shares) > 0.5
    assert min(shares) <= 0.5


def test_factors_of_nothing_and_of_one_row_are_no_error() -> None:
    u, v = factors(np.zeros((4, 3)), 2)
    assert not u.any()
    assert not v.any()
    u, v = factors(np.array([[1.0, 2, 3]]), 4)
    assert u @ v == pytest.approx(np.array([[1.0, 2, 3]]))


def test_the_same_example_gives_the_same_bits_beside_another() -> None:
    runs, x = example("vgg", 1)
    both = np.concatenate([x, x[:, :, ::-1]])
    layer = middle(runs)
    together, alone = (groups(runs, each, layer=layer, count=3) for each in (both, x))
    assert together.values[0] == pytest.approx(alone.values[0], rel=1e-6)
