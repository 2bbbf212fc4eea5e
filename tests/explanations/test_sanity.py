"""The two sanity checks: an edge detector is caught by both, and explanations of a trained model pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from caveat_worker.engine.autodiff.redrawn import redrawn_weights, weights_of, with_redrawn_weights
from caveat_worker.engine.explanations import explanation
from caveat_worker.engine.explanations.attributed import Attributed
from caveat_worker.engine.explanations.runs import Runs
from caveat_worker.engine.explanations.sanity import cascade, sanity_of_labels, sanity_of_weights
from tests.engine.ordinary import Ordinary
from tests.explanations.digits import digits, perceptron
from tests.explanations.models import opened
from tests.explanations.networks import FAMILIES, example


def by(name: str) -> Callable[[Runs, Any], Attributed]:
    one = explanation(name)
    return lambda runs, x: one.run(runs, x, one.entry.options())


def edges(runs: Runs, x: Any) -> Attributed:
    """A map that looks right and has nothing to do with the model."""
    return Attributed(np.abs(np.diff(x.astype(float), axis=1)))


def threes(count: int = 6) -> list[dict[str, Any]]:
    """Pictures of a 3, as the perceptrons take them."""
    x, y = digits()
    name = perceptron(shuffled=False)[0].entry.names[0]
    return [{name: x[[row]]} for row in np.flatnonzero(y == 3)[:count]]


def test_the_labels_of_one_perceptron_were_shuffled() -> None:
    assert perceptron(shuffled=False)[1] > 0.95
    assert perceptron(shuffled=True)[1] < 0.2


NAMES = ["saliency", "gradient_x_input", "integrated_gradients", "deeplift_rescale", "occlusion"]


@pytest.mark.parametrize("name", NAMES)
def test_explanations_change_with_the_weights_and_with_the_labels(name: str) -> None:
    true, shuffled = perceptron(shuffled=False)[0], perceptron(shuffled=True)[0]
    weights = sanity_of_weights(by(name), true, threes())
    labels = sanity_of_labels(by(name), true, shuffled, threes())
    assert weights.ok, weights.sentence
    assert labels.ok, labels.sentence
    assert "comes from the example itself" in weights.sentence


def test_an_edge_detector_is_caught_by_both() -> None:
    true, shuffled = perceptron(shuffled=False)[0], perceptron(shuffled=True)[0]
    weights, labels = sanity_of_weights(edges, true, threes()), sanity_of_labels(edges, true, shuffled, threes())
    assert not weights.ok
    assert "hardly changes when the model's weights are random (rank correlation 1.00" in weights.sentence
    assert not labels.ok
    assert "much the same for a model that was trained on random labels" in labels.sentence


def test_the_null_is_how_redrawn_models_agree_and_no_fixed_number() -> None:
    """The sizes of gradient x input agree between models that know nothing: both are small where the input is."""
    one = by("gradient_x_input")
    sizes = lambda runs, x: Attributed(np.abs(one(runs, x).values))  # noqa: E731
    check = sanity_of_weights(sizes, perceptron(shuffled=False)[0], threes())
    signed = sanity_of_weights(one, perceptron(shuffled=False)[0], threes())
    assert check.bound > 0.4
    assert check.bound > signed.bound + 0.2
    assert check.value > 0.4


def test_weights_are_redrawn_from_the_output_down() -> None:
    model = opened(FAMILIES["vgg"](Ordinary(0)))
    x = np.random.default_rng(0).standard_normal((1, 3, 16, 16)).astype(np.float32)
    stages = cascade(by("gradient_x_input"), model, [{"x": x}], stages=4)
    assert [count for count, _ in stages] == [1, 3, 5, 7]
    assert cascade(edges, model, [{"x": x}], stages=4)[-1][1] == pytest.approx(1)
    before = {name: value.const_value.numpy() for name, value in model.model.ir.graph.initializers.items()}
    cascade(by("saliency"), model, [{"x": x}], stages=2)
    assert all(
        np.array_equal(before[name], value.const_value.numpy())
        for name, value in model.model.ir.graph.initializers.items()
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_models_that_share_sessions_are_those_that_have_their_own(family: str) -> None:
    """Gradients, and the part of the biases, which are inputs of the graph there and still no part of the example."""
    runs, x = example(family, 0)
    weights = redrawn_weights(runs.opened.model, 7)
    alone, _ = runs.opened.of(with_redrawn_weights(runs.opened.model, 7)).around({runs.opened.entry.names[0]: x})
    fed = replace(runs.opened, fed=weights_of(runs.opened.model), sessions={}, kept={})
    for others in (weights_of(runs.opened.model), weights):
        shared, _ = fed.with_weights(others).around({runs.opened.entry.names[0]: x})
        of_its_own = alone if others is weights else runs
        assert shared.gradient(x) == pytest.approx(of_its_own.gradient(x), rel=1e-3, abs=1e-5)
        assert shared.bias_part(x) == pytest.approx(of_its_own.bias_part(x), rel=1e-3, abs=1e-4)
    assert len(fed.sessions) == 2
