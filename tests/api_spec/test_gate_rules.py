"""The tables by which a gate line is decided: every rule has a case, and the order of the rules is what it says."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from caveat_spec.audit import ConceptLine
from caveat_spec.report import ExampleSetSummary, Report
from caveat_spec.results import Estimate, Flag
from caveat_spec.verdict import association as by_association
from caveat_spec.verdict import growth as by_growth
from caveat_spec.verdict import intervention as by_intervention
from caveat_spec.verdict.rules import Conclusion, Rule, first_rule
from tests.api_spec import handmade

LINE = {"concept": "mark", "target": "carton", "must": "not_matter", "tolerance": 0.1}
INFLUENTIAL: dict[str, Any] = {"in_sd": 0.5, "interval": (0.4, 0.6), "p": 0.001}
HARMLESS: dict[str, Any] = {"in_sd": 0.01, "interval": (-0.02, 0.04), "p": 0.6}
OPPOSITE: dict[str, Any] = {"in_sd": -0.5, "interval": (-0.6, -0.4), "p": 0.001}
UNSETTLED: dict[str, Any] = {"in_sd": 0.05, "interval": (-0.2, 0.3), "p": 0.4}


def line(**fields: object) -> ConceptLine:
    return ConceptLine.model_validate({**LINE, **fields})


def association(*rows: dict[str, Any], alone: bool = True, **fields: object) -> by_association.Association:
    return by_association.Association([handmade.row(**row) for row in rows], line(**fields), 0.05, alone=alone)


ASSOCIATION = {
    "nothing was tested": association(),
    "no figure in the line's unit": association(HARMLESS, unit="probability"),
    "every layer is flagged": association({**INFLUENTIAL, "flags": (handmade.flag("degenerate"),)}),
    "no layer encodes the concept": association({**HARMLESS, "encoded": False}),
    "layers of opposite sign": association(INFLUENTIAL, {**OPPOSITE, "layer": "deep"}),
    "a slope that no finite step confirms": association({**INFLUENTIAL, "whole": (0.02, 0.0, 0.04)}),
    "a layer moves the target": association(UNSETTLED, {**INFLUENTIAL, "layer": "deep"}),
    "an interval is too wide": association(HARMLESS, UNSETTLED),
    "a layer that may not decide shows more": association(
        HARMLESS, {**OPPOSITE, "layer": "deep", "flags": (handmade.flag("degenerate"),)}
    ),
    "the estimators disagree": association({**HARMLESS, "other": 0.4}),
    "a finite step leaves the tolerance": association({**HARMLESS, "whole": (0.9, 0.8, 1.0)}),
    "no layer encodes the concept clearly": association({**HARMLESS, "held_out": 0.65, "gap": (0.05, -0.1, 0.2)}),
    "every interval is inside the tolerance": association(HARMLESS),
}


@pytest.mark.parametrize("rule", by_association.ASSOCIATION, ids=lambda rule: rule.name)
def test_association(rule: Rule[by_association.Association]) -> None:
    assert first_rule(by_association.ASSOCIATION, ASSOCIATION[rule.name]) is rule
    assert rule.reason(ASSOCIATION[rule.name])


def test_a_doubt_that_layers_share_is_said_once() -> None:
    """Its numbers differ from layer to layer, and four paragraphs that differ in a number say no more than one."""
    few = handmade.flag("few_examples")
    far = [Flag(code="sets_differ_in_kind", sentence=f"They lie {size} apart.", blocking=True) for size in (1, 2, 2)]
    rows = [{**HARMLESS, "layer": name, "flags": (one, few)} for name, one in zip("abc", far, strict=True)]
    facts = association(*rows)
    assert first_rule(by_association.ASSOCIATION, facts).reason(facts) == (
        "every layer is flagged: They lie 1 apart. Much the same holds at b, c; The row is few_examples"
    )


CHANCE = {**HARMLESS, "held_out": 0.65}
"""A layer that seems to encode the concept, with an accuracy that chance reaches in one of some 50 layers."""


@pytest.mark.parametrize(
    ("rows", "alone", "finding"),
    [
        ([CHANCE], True, "inconclusive"),
        ([CHANCE, {**HARMLESS, "layer": "deep", "encoded": False, "held_out": 0.5}], True, "inconclusive"),
        ([CHANCE, {**HARMLESS, "layer": "deep"}], True, "not_influential"),
        ([{**CHANCE, "gap": (0.02, -0.03, 0.07)}], True, "not_influential"),
        ([CHANCE], False, "not_influential"),
    ],
    ids=["alone", "beside none", "beside a clear one", "with a small gap", "with a measured change"],
)
def test_a_layer_that_may_encode_by_chance_clears_no_line(
    rows: list[dict[str, Any]], alone: bool, finding: str
) -> None:
    assert first_rule(by_association.ASSOCIATION, association(*rows, alone=alone)).finding == finding


def test_a_finite_step_is_not_asked_where_something_was_measured() -> None:
    facts = association({**INFLUENTIAL, "whole": (0.02, 0.0, 0.04)}, alone=False)
    assert first_rule(by_association.ASSOCIATION, facts).name == "a layer moves the target"


def intervention(measured: dict[str, Any]) -> by_intervention.Intervention:
    return by_intervention.Intervention(handmade.intervention(**measured), line(), 0.05)


def in_shares(unit: str, value: float, low: float, high: float, **fields: object) -> by_intervention.Intervention:
    """A measured change in probabilities or decisions, whose p-value and sd say nothing."""
    test = handmade.intervention()
    effect = test.effect.model_copy(update={f"in_{unit}": Estimate(value=value, interval=(low, high))})
    return by_intervention.Intervention(test.model_copy(update={"effect": effect}), line(unit=unit, **fields), 0.05)


@pytest.mark.parametrize(
    ("facts", "finding", "said"),
    [
        (in_shares("probability", 0.2, 0.15, 0.25), "influential", "by +20 percentage points (+15 to +25"),
        (in_shares("probability", -0.2, -0.25, -0.15), "influential", "by -20 percentage points"),
        (in_shares("probability", 0.02, -0.01, 0.05), "not_influential", "changes the probability of carton by +2"),
        (in_shares("decisions", 0.2, 0.12, 0.3), "influential", "flips 20 % of decisions about carton (12 to 30 %"),
        (in_shares("decisions", 0.0, 0.0, 0.088), "not_influential", "flips 0 % of decisions"),
        (in_shares("decisions", 0.0, 0.0, 0.12), "inconclusive", "tolerance 10 % of decisions"),
    ],
)
def test_a_tolerance_in_probabilities_or_decisions(
    facts: by_intervention.Intervention, finding: str, said: str
) -> None:
    rule = first_rule(by_intervention.INTERVENTION, facts)
    assert rule.finding == finding
    assert said in rule.reason(facts)


@pytest.mark.parametrize("unit", ["probability", "decisions"])
def test_without_pairs_the_finite_step_decides_in_probabilities_and_decisions(unit: str) -> None:
    step = Estimate(value=0.3, interval=(0.2, 0.4))
    test = handmade.row(**HARMLESS, whole=(0.9, 0.8, 1.0))
    moved = test.finite_step and test.finite_step.model_copy(update={f"in_{unit}": step})
    significant = test.effect.model_copy(update={"p": 0.001, "p_corrected": 0.001, "value": 0.1})
    shown = test.model_copy(update={"finite_step": moved, "effect": significant})
    facts = by_association.Association.of([shown], line(unit=unit), 0.05, alone=True)
    assert first_rule(by_association.ASSOCIATION, facts).name == "a layer moves the target"
    assert facts.sign == 1


@pytest.mark.parametrize("unit", ["probability", "decisions"])
def test_a_tolerance_that_is_no_share_is_refused(unit: str) -> None:
    with pytest.raises(ValidationError, match="give one below 1, such as"):
        line(unit=unit, tolerance=5)


INTERVENTION = {
    "the change has no figure in the line's unit": by_intervention.Intervention(
        handmade.intervention(), line(unit="decisions"), 0.05
    ),
    "the whole interval is beyond the tolerance": intervention(INFLUENTIAL),
    "the whole interval is inside the tolerance": intervention(HARMLESS),
    "the interval settles nothing": intervention(UNSETTLED),
}


@pytest.mark.parametrize("rule", by_intervention.INTERVENTION, ids=lambda rule: rule.name)
def test_intervention(rule: Rule[by_intervention.Intervention]) -> None:
    assert first_rule(by_intervention.INTERVENTION, INTERVENTION[rule.name]) is rule
    begins = "adding mark to 40 examples changes carton by", "the report has no change in decisions of carton"
    assert rule.reason(INTERVENTION[rule.name]).startswith(begins)


UP = Conclusion("influential", "it does", 1)
NOT, OPEN = Conclusion("not_influential", "it does not"), Conclusion("inconclusive", "it is open")
BOTH = {"require": "both"}


def both(first: Conclusion | None, second: Conclusion | None, **policy: object) -> by_intervention.Both:
    return by_intervention.Both(first, second, line(**policy))


TOGETHER = {
    "both are required, and the report holds one": both(UP, None, **BOTH),
    "both are required, and they do not agree": both(NOT, UP, **BOTH),
    "the measured change is beyond the tolerance": both(NOT, UP),
    "the measured change is inside the tolerance": both(OPEN, NOT),
    "the measured change is not settled": both(UP, OPEN),
}


@pytest.mark.parametrize("rule", by_intervention.TOGETHER, ids=lambda rule: rule.name)
def test_together(rule: Rule[by_intervention.Both]) -> None:
    assert first_rule(by_intervention.TOGETHER, TOGETHER[rule.name]) is rule
    assert "it " in rule.reason(TOGETHER[rule.name])


def growth(
    before: dict[str, Any] | None, after: dict[str, Any], *, sets: str = "1", **fields: object
) -> by_growth.Growth:
    def report(row: dict[str, Any], digit: str) -> Report:
        made = handmade.report(handmade.row(**row))
        photos = ExampleSetSummary(name="photos", source="sha256:" + digit * 64, count=4, kind="images")
        return made.model_copy(update={"plan": made.plan.model_copy(update={"examples": [photos]})})

    baseline = None if before is None else report(before, "1")
    return by_growth.Growth(report(after, sets), baseline, line(must="not_grow", **fields))


GROWTH = {
    "there is no baseline": growth(None, HARMLESS),
    "the baseline is of other examples": growth(HARMLESS, HARMLESS, sets="2"),
    "the baseline has no such figure": growth({**HARMLESS, "layer": "other"}, HARMLESS),
    "the tolerance is in another unit": growth(HARMLESS, HARMLESS, unit="logit"),
    "a figure grew beyond tolerance and noise": growth(HARMLESS, INFLUENTIAL),
    "no figure can have grown beyond the tolerance": growth(HARMLESS, HARMLESS),
    "noise hides the growth": growth(HARMLESS, UNSETTLED),
}


@pytest.mark.parametrize("rule", by_growth.GROWTH, ids=lambda rule: rule.name)
def test_growth(rule: Rule[by_growth.Growth]) -> None:
    assert first_rule(by_growth.GROWTH, GROWTH[rule.name]) is rule
    assert rule.reason(GROWTH[rule.name])


@pytest.mark.parametrize(
    "table", [by_association.ASSOCIATION, by_intervention.INTERVENTION, by_intervention.TOGETHER, by_growth.GROWTH]
)
def test_rules_have_names_of_their_own_and_the_last_always_applies(table: tuple[Rule[Any], ...]) -> None:
    assert len({rule.name for rule in table}) == len(table)
    assert table[-1].applies(object())
