"""Discovery: a planted direction is found on examples that did not choose it; without one, nothing is proposed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bench.discovery import CASES, FIRST, FROM, columns, digits, null_photographs, photographs, rows
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.explanations.discovery import discovery, halves, permutations_within
from caveat_worker.engine.explanations.runs import Examined

N, D = 200, 6


def drawn(seed: int, effect: float, *, named: bool = True) -> Examined:
    """Six columns of noise; the number is the label, the named first column, its square, and `effect` of the last."""
    rng = np.random.default_rng(seed)
    x, labels = rng.standard_normal((N, D)), rng.integers(0, 2, N)
    numbers = labels + x[:, 0] + 0.3 * x[:, 0] ** 2 + effect * x[:, -1] + 0.3 * rng.standard_normal(N)
    known = {"first": x[:, 0]} if named else {}
    return Examined(x[:, None], numbers, [str(row) for row in range(N)], labels, known, seed=seed)


def test_the_planted_column_comes_first_with_its_effect() -> None:
    examined = drawn(1, 0.8)
    found = discovery(examined, count=10, margin=0.2)
    first = found.proposed[0]
    assert np.abs(first.direction).argmax() == D - 1
    spread = examined.activations[found.test, 0, -1].std()
    expected = np.sign(first.direction[-1]) * 0.8 * spread / examined.numbers.std()
    assert first.interval[0] < expected < first.interval[1]
    assert set(examined.labels[first.high] - examined.labels[first.low]) == {0}, "each is matched within its label"  # type: ignore[index]
    had = examined.activations[:, 0] @ first.direction
    assert had[first.high].min() > had[first.low].max()


def test_a_named_concept_is_not_proposed_and_one_without_a_name_is() -> None:
    named, unnamed = (discovery(drawn(2, 0.0, named=one), count=10, margin=0.2) for one in (True, False))
    assert named.proposed == ()
    assert named.mostly["first"] == pytest.approx(1, abs=0.01)
    assert np.abs(unnamed.proposed[0].direction).argmax() == 0
    assert unnamed.mostly == {}


def test_p_values_of_a_true_null_are_uniform_or_larger() -> None:
    """No margin, no effect, and a spread that depends on the tested column: p below 5 % in 5 % of tests at most."""
    small = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        x, labels = rng.standard_normal((80, 4)), rng.integers(0, 2, 80)
        numbers = labels + rng.standard_normal(80) * (0.5 + np.abs(x[:, 0]))
        examined = Examined(x[:, None], numbers, [str(row) for row in range(80)], labels, seed=seed)
        small += [one.p <= 0.05 for one in discovery(examined, count=4, margin=0.0).proposals]
    assert np.mean(small) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / len(small))


def test_an_effect_just_within_the_margin_is_not_proposed() -> None:
    """The whole number is the label and a column, whose effect is exactly the margin: at most 5 % of audits propose."""
    alarms = 0
    for seed in range(40):
        examined = drawn(seed, 0.5)
        true = 0.5 / float(examined.numbers.std())
        alarms += bool(discovery(examined, count=3, margin=true * 1.05).proposed)
    assert alarms <= 6


def test_halves_have_no_example_twice_and_each_label_in_equal_parts() -> None:
    examined = drawn(3, 0.0)
    twice = replace(examined, digests=[str(row // 2) for row in range(N)])
    find, test = halves(twice, 0)
    assert len(find) + len(test) == N // 2
    assert not {row // 2 for row in find.tolist()} & {row // 2 for row in test.tolist()}
    labels: Any = examined.labels
    assert abs(int(labels[find].sum()) - int(labels[test].sum())) <= 1
    assert not np.array_equal(find, halves(twice, 1)[0]), "another seed divides otherwise"


def test_what_removal_takes_away_is_the_direction_own_part() -> None:
    """S has 0.8 of the last column, and another column goes with that: removing one takes all, the other nothing."""
    examined = drawn(6, 0.8)
    a = examined.activations[:, 0].copy()
    a[:, 1] = a[:, -1] + 0.7 * np.random.default_rng(7).standard_normal(N)

    def held(rows: Any, directions: Any, values: Any) -> Any:
        change = (values - a[rows] @ directions.T) * directions[:, -1]
        return examined.numbers[rows] + 0.8 * change.T

    related = replace(examined, activations=a[:, None], held=held)
    found = discovery(related, count=10, margin=0.2)
    by_column = {int(np.abs(one.direction).argmax()): one for one in found.proposed if np.abs(one.direction).max() == 1}
    own, goes_along = (by_column[column].removal for column in (D - 1, 1))
    assert own is not None
    assert goes_along is not None
    expected = 0.8 * a[found.test, -1].std() / examined.numbers.std()
    assert own.effect == pytest.approx(expected, rel=0.03), (
        "but for what the named first column explains of it by chance"
    )
    assert own.interval[1] - own.interval[0] < 1e-6, "S is linear"
    assert by_column[1].interval[0] > 0.2
    assert goes_along.effect == pytest.approx(0, abs=1e-9)
    taken = [abs(one.removal.effect) for one in found.proposed if one.removal is not None]
    assert taken == sorted(taken, reverse=True)
    assert len(taken) == len(found.proposed)
    assert {one.removal for one in found.proposals[len(taken) :]} <= {None}
    assert {one.removal for one in discovery(replace(related, held=None), count=10, margin=0.2).proposals} == {None}


def test_rows_change_places_within_their_label_only() -> None:
    labels = np.array([0, 1, 0, 1, 1, 0, 2])
    orders = permutations_within(labels, 50, 0)
    assert (labels[orders] == labels).all()
    assert (np.sort(orders, axis=1) == np.arange(7)).all()
    assert len(np.unique(orders, axis=0)) > 10


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda one: replace(one, digests=["same"] * N), "There are 1 different examples"),
        (lambda one: replace(one, numbers=one.labels.astype(float)), "does not vary beyond the labels"),
        (lambda one: replace(one, activations=np.ones((N, 1, D))), "The layer is the same at every example"),
    ],
)
def test_what_cannot_be_examined_is_refused(change: Any, sentence: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        discovery(change(drawn(4, 0.5)), count=5, margin=0.2)
    assert sentence in refused.value.sentence


def test_the_same_examples_give_the_same_answer() -> None:
    one, other = (discovery(drawn(5, 0.8), count=10, margin=0.2) for _ in range(2))
    assert [each.p for each in one.proposals] == [each.p for each in other.proposals]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_planted_shortcuts_are_found_and_models_without_one_are_left_in_peace() -> None:
    made = {name: make for name, make in CASES.items() if make is not photographs}  # whose network leans on content too
    for name, hits, seeds, alarms, nulls in rows(10, 100, cases=made):
        assert hits >= 9, f"{name}: among the first {FIRST} in {hits} of {seeds}"
        assert alarms <= 5, f"{name}: {alarms} of {nulls}"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_what_is_proposed_of_photographs_holds_on_others_and_nothing_is_where_nothing_can_hold() -> None:
    found = null_photographs(40)
    assert found.shares, "the network leans on content, and an audit says so now and then"
    assert found.unconfirmed <= 2
    assert found.dealt <= 2
    assert 0.4 < np.median(found.shares) < 1.2


def test_one_planted_patch_and_one_column_are_found() -> None:
    for make in (digits, columns):
        case = make(FROM, planted=True)
        assert discovery(case.examined, count=10, margin=0.2).proposed
