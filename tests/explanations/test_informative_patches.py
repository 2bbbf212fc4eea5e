"""The most informative patches are found by a product for each example, and only where the score is a mean of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from caveat_worker.engine.explanations import explanation
from caveat_worker.engine.explanations.atoms import by_position, everywhere
from caveat_worker.engine.explanations.attributed import Attributed
from caveat_worker.engine.explanations.runs import SomeExamples, Streamed
from tests.engine.nets import Net
from tests.explanations.glyphs import SIDE, pictures
from tests.explanations.models import around_noise
from tests.explanations.test_bag_of_features import bag, mean_of_filters, network

Change = Callable[[NDArray[Any]], NDArray[Any]]


def patches(
    runs: Any,
    x: Any,
    layer: str,
    examples: Any,
    kinds: list[Any],
    *,
    at_once: int = 3,
    tokens: Any = None,
    change: Change = lambda a: a,
    **options: Any,
) -> Attributed:
    """The method on examples that are given as the model's input, some at a time."""

    def batches() -> Iterator[SomeExamples]:
        for start in range(0, len(examples), at_once):
            some = examples[start : start + at_once]
            a = change(runs.activations(some, layer))
            numbers = np.concatenate([runs.rest(layer, a[[row]], some[[row]]) for row in range(len(some))])
            yield SomeExamples(by_position(a), numbers, None if tokens is None else tokens[start : start + at_once])

    names = [f"example {row}" for row in range(len(examples))]
    runs.streamed_sets = lambda *_: Streamed(names, [np.asarray(kind, bool) for kind in kinds], batches())
    one = explanation("informative_patches")
    return one.run(runs, x, one.entry.options(layer=layer, examples="all", **options))


def shown(found: Attributed, kind: int = 0) -> list[tuple[int, int, float]]:
    """Example, place and evidence of each patch of a row."""
    rows = found.parts["patches"][0, kind]
    return [(int(example), int(place), float(evidence)) for example, place, evidence, _ in rows if example >= 0]


def by_hand() -> tuple[Any, Any]:
    """Sequences of three places with two channels: S = mean of 2 h₁ - h₂ + ½."""
    net = Net(0)
    seen = net.op("Identity", "x")
    mean = net.op("ReduceMean", seen, net.constant([1], np.int64), keepdims=0)
    scores = net.op("Gemm", mean, net.constant([[2.0], [-1.0]]), net.constant([0.5]))
    runs, _ = around_noise(net.model(("n", 3, 2), scores), index=None)
    runs.sees = lambda layer, x: 1 / 3
    return runs, seen


HAND = np.array(
    [[[1, 0], [0, 1], [2, 1]], [[0, 0], [3, 2], [1, 1]], [[0, 2], [0, 3], [0, 1]], [[1, 0], [1, 1], [0, 0]]], np.float32
)
"""Evidence by hand: 2.5 -0.5 3.5; 0.5 4.5 1.5; -1.5 -2.5 -0.5; 2.5 1.5 0.5."""


@pytest.mark.parametrize("at_once", [1, 3, 4])
def test_evidence_by_hand(at_once: int) -> None:
    runs, seen = by_hand()
    found = patches(runs, HAND[:1], seen, HAND, [[1, 0, 1, 0], [0, 1, 0, 1]], at_once=at_once)
    assert found.withheld is None
    assert shown(found) == [(0, 2, pytest.approx(3.5)), (2, 2, pytest.approx(-0.5))]
    assert shown(found, 1) == [(1, 1, pytest.approx(4.5)), (3, 0, pytest.approx(2.5))]
    assert found.values[0] == pytest.approx([3.5, 4.5])
    assert found.parts["patches"][0, :, 0, 3] == pytest.approx([5.5 / 3, 6.5 / 3]), "what the model gives the whole"


def test_one_row_for_examples_without_labels_and_the_first_of_equals_comes_first() -> None:
    runs, seen = by_hand()
    found = patches(runs, HAND[:1], seen, np.concatenate([HAND, HAND]), [np.ones(8)], count=3)
    assert [each[:2] for each in shown(found)] == [(1, 1), (5, 1), (0, 2)]
    assert any("not known without labels" in note for note in found.notes)


def test_places_of_padding_are_no_patches() -> None:
    runs, seen = by_hand()
    found = patches(runs, HAND[:1], seen, HAND, [np.ones(4)], tokens=np.array([2, 1, 3, 3]))
    assert [each[:2] for each in shown(found)] == [(0, 0), (3, 0), (1, 0), (2, 2)]


@pytest.mark.parametrize("target", [{"index": 1}, {"index": 2, "versus": 0}])
def test_they_are_the_places_of_the_bag_of_features(target: dict[str, int]) -> None:
    """Another way to the same numbers: every place of every example, put through the rest of the model."""
    model, seen = network()
    runs, x = around_noise(model, n=7, **target)
    found = patches(runs, x[:1], seen, x, [np.arange(7) % 2 == 0, np.arange(7) % 2 == 1], count=3)
    assert found.withheld is None
    evidence = np.concatenate([bag(runs, x[[row]], seen).values.reshape(1, -1) * 63 for row in range(7)])
    for kind, of in enumerate((np.arange(0, 7, 2), np.arange(1, 7, 2))):
        order = of[np.argsort(-evidence[of].max(1))][:3]
        assert [each[:2] for each in shown(found, kind)] == [(row, int(evidence[row].argmax())) for row in order]
        assert [each[2] for each in shown(found, kind)] == pytest.approx(evidence[order].max(1), abs=1e-5)


@pytest.mark.parametrize(("pool", "scale"), [("GlobalMaxPool", "logit"), ("GlobalAveragePool", "probability")])
def test_a_score_that_is_not_the_mean_is_withheld_and_names_an_example(pool: str, scale: str) -> None:
    model, seen = network(pool)
    runs, x = around_noise(model, n=4, scale=scale)
    withheld = patches(runs, x[:1], seen, x, [np.ones(4)]).withheld
    assert withheld is not None
    assert "is not the mean of what the places" in withheld
    assert " at example " in withheld


def test_a_score_that_is_the_mean_at_all_but_one_example_is_withheld() -> None:
    """A Relu behind the mean that is off at one example only."""
    net = Net(0)
    seen = net.op("Identity", "x")
    mean = net.op("ReduceMean", seen, net.constant([1], np.int64), keepdims=0)
    scores = net.op("Gemm", mean, net.constant([[2.0], [-1.0]]), net.constant([0.5]))
    runs, _ = around_noise(net.model(("n", 3, 2), net.op("Identity", net.op("Relu", scores))), index=None)
    runs.sees = lambda layer, x: 1 / 3
    found = patches(runs, HAND[:1], seen, HAND, [np.ones(4)])
    assert found.withheld is not None
    assert "0 and not -1.5 at example 2" in found.withheld


def test_a_mean_whose_weights_differ_by_place_is_withheld() -> None:
    """An affine score all the same: the places do not count alike."""
    net = Net(0)
    seen = net.op("Identity", "x")
    weighted = net.op("Mul", seen, net.constant(np.array([[[1.0], [1.0], [4.0]]])))
    total = net.op("ReduceSum", weighted, net.constant([1], np.int64), keepdims=0)
    runs, _ = around_noise(net.model(("n", 3, 2), net.op("Gemm", total, net.constant([[2.0], [-1.0]]))), index=None)
    runs.sees = lambda layer, x: 1 / 3
    withheld = patches(runs, HAND[:1], seen, HAND, [np.ones(4)]).withheld
    assert withheld is not None
    assert "is not the mean" in withheld


def test_a_layer_whose_places_see_too_much_is_withheld_before_anything_is_run() -> None:
    model, seen = network(convolutions=3)
    runs, x = around_noise(model)
    found = patches(runs, x, seen, x, [np.ones(1)])
    assert found.withheld is not None
    assert "sees 100% of the input's longer side" in found.withheld
    assert found.passes == 0


def test_a_target_that_does_not_change_is_withheld() -> None:
    net = Net(0)
    seen = net.op("Identity", "x")
    mean = net.op("ReduceMean", seen, net.constant([1], np.int64), keepdims=0)
    runs, _ = around_noise(net.model(("n", 3, 2), net.op("Gemm", mean, net.constant([[0.0], [0.0]]))), index=None)
    runs.sees = lambda layer, x: 1 / 3
    assert "gradient is zero everywhere" in str(patches(runs, HAND[:1], seen, HAND, [np.ones(4)]).withheld)


def test_no_more_passes_than_the_price() -> None:
    model, seen = network()
    runs, x = around_noise(model, n=5)
    one, kinds = explanation("informative_patches"), [np.arange(5) < 3, np.arange(5) >= 3]
    spent = patches(runs, x[:1], seen, x, kinds, count=2).passes
    over_the_set = 2 * 5  # by this test, in place of the panels, which count them apart
    price = one.cost(one.entry.options(layer=seen, examples="all", count=2), {seen: (6, 9, 7)})
    assert spent - over_the_set == price


def test_a_vector_is_put_at_every_place() -> None:
    vectors = np.array([[1, 2], [3, 4]], np.float32)
    wide = everywhere(vectors, (1, 2, 3, 5))
    assert wide.shape == (2, 2, 3, 5)
    assert (wide[1, 0] == 3).all()
    along = everywhere(vectors, (1, 4, 2))
    assert along.shape == (2, 4, 2)
    assert (along[:, :, 1] == [[2], [4]]).all()


@pytest.mark.parametrize("seed", range(3))
def test_planted_glyphs_are_the_patches_and_wrong_labels_the_errors(seed: int) -> None:
    """Half of the pictures have the glyph; three of those are labelled as if they had none."""
    model, seen, accuracy = mean_of_filters(41 + seed)
    assert accuracy > 0.95
    x, there, y = pictures(60, seed=600 + seed)
    wrong = np.random.default_rng(seed).choice(np.flatnonzero(y), 3, replace=False)
    labels = y.copy()
    labels[wrong] = 0
    runs, first = model.around({"x": x[:1]})
    found = patches(runs, first, seen, x, [labels == 1, labels == 0], at_once=16, count=3)
    assert found.withheld is None
    assert {example for example, _, _ in shown(found, 1)} == set(wrong)
    for example, place, evidence in (*shown(found), *shown(found, 1)):
        down, across = divmod(place, SIDE - 4)
        assert there[example, down : down + 5, across : across + 5].sum() >= 10, "one place in 16 is as near"
        assert evidence > 0
