"""The first screen answers: whose model, what was found in a person's words, which figure decided, what next."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from caveat_reports import html, markdown, summary
from caveat_spec.audit import About, Audit, GroupLine
from caveat_spec.gate import decide
from caveat_spec.report import ExampleSetSummary, Report
from caveat_spec.results import Difference, Estimate, GroupRow, ShownPair, ShownPairs
from tests.api_spec import handmade
from tests.reports.test_html import parsed, text

LINE = {"concept": "mark", "target": "carton", "must": "not_matter", "tolerance": 0.1}
ABOUT = About(title="Box finder 3", owner="Packing team", purpose="Sorts parcels.", policy="Marks must not matter.")
WIDE = {"in_sd": 0.05, "interval": (-0.2, 0.3), "p": 0.4}


def judged(report: Report, *gate: dict[str, Any], **changed: object) -> Report:
    audit = Audit.model_validate(report.audit.model_dump() | {"gate": list(gate)})
    report = report.model_copy(update={"audit": audit.model_copy(update={"about": ABOUT}), **changed})
    return report.model_copy(update={"verdict": decide(report, report.audit.gate)})


@pytest.fixture
def measured() -> Report:
    """A measured change that settles nothing in sd, with its decisions and probabilities."""
    test = handmade.intervention(**WIDE)
    effect = test.effect.model_copy(
        update={
            "in_decisions": Estimate(value=0.12, interval=(0.06, 0.2)),
            "in_probability": Estimate(value=0.042, interval=(0.031, 0.054)),
        }
    )
    return judged(handmade.report(interventions=(test.model_copy(update={"effect": effect}),)), LINE)


@pytest.mark.parametrize("module", [html, markdown])
def test_it_says_whose_model_was_asked_what_and_what_to_do_next(measured: Report, module: ModuleType) -> None:
    page = text(parsed(measured)) if module is html else module.render(measured)
    for said in (
        "udit of Box finder 3",
        "Packing team",
        "Sorts parcels.",
        "Marks must not matter.",
        "Does carton depend on mark? It must not.",
        "of decisions flip (6.0",
        "the probability of carton changes by +4.2 percentage points (+3.1 to +5.4), on 40 matched pairs.",
        "The change measured on matched pairs would decide, against the tolerance of ±0.1 sd",
        "What to do next",
        "with 0.3 sd every interval that decides this line lies inside the tolerance.",
    ):
        assert said in page, said


@pytest.mark.parametrize(
    ("gate", "first"),
    [
        ({}, "Mark changes the score of carton by +0.8 sd, where at most ±0.1 sd are allowed; 0.0 % of decisions flip"),
        ({"must": "matter", "tolerance": 2}, "Mark changes the score of carton by +0.8 sd, where more than ±2 sd are"),
        ({"unit": "probability", "tolerance": 0.01}, "The probability of carton changes by +4.2 percentage points"),
    ],
)
def test_a_line_that_failed_begins_with_what_failed(gate: dict[str, Any], first: str) -> None:
    test = handmade.intervention(in_sd=0.8, interval=(0.6, 1.0), p=0.002)
    flips, moved = Estimate(value=0.0, interval=(0.0, 0.079)), Estimate(value=0.042, interval=(0.031, 0.054))
    effect = test.effect.model_copy(update={"in_decisions": flips, "in_probability": moved})
    report = judged(handmade.report(interventions=(test.model_copy(update={"effect": effect}),)), LINE | gate)
    (line,) = summary.lines(report)
    assert line.outcome == "fail"
    assert line.people.replace("\u202f", " ").startswith(first)


def test_the_tolerance_that_it_names_does_clear_the_line(measured: Report) -> None:
    assert measured.verdict.outcome == "inconclusive"
    assert judged(measured, LINE | {"tolerance": 0.3}).verdict.outcome == "pass"
    assert judged(measured, LINE | {"tolerance": 0.29}).verdict.outcome == "inconclusive"


def test_more_pairs_are_advised_only_where_they_would_settle_the_line() -> None:
    """At 0.05 within a tolerance of 0.1 no feasible number does; at 0.3, some times as many do."""
    near, middle = (
        summary.lines(judged(handmade.report(interventions=(handmade.intervention(**one),)), LINE))[0].next_steps
        for one in (WIDE, {"in_sd": 0.3, "interval": (0.08, 0.52), "p": 0.01})
    )
    assert not any("times as many pairs" in step for step in near)
    assert "times as many pairs and target examples: nine of ten such audits are settled" in middle[0]


def test_a_settled_line_has_nothing_to_do_next() -> None:
    (line,) = summary.lines(judged(handmade.report(handmade.row(**WIDE | {"interval": (-0.05, 0.05)})), LINE))
    assert (line.outcome, line.next_steps) == ("pass", [])
    assert "the TCAV score is shown beside them and decides nothing" in line.decided_by


def test_without_pairs_the_first_step_is_to_pair() -> None:
    (line,) = summary.lines(judged(handmade.report(handmade.row(**WIDE)), LINE))
    assert "name that set in `pairs_with`" in line.next_steps[0]


@pytest.mark.parametrize(
    ("metric", "selected", "reason", "step"),
    [
        (
            "selection_rate_ratio",
            (0, 0),
            "nobody in any group has the favourable decision",
            "and `groups.race.threshold`",
        ),
        ("selection_rate_difference", (7,), "all people are in one group", "two values or more in `groups.race.sensi"),
        ("true_positive_rate_difference", (7, 5), "rates by outcome need 'label'", "outcomes in `groups.race.label`"),
        (
            "conditional_selection_rate_ratio",
            (7, 5),
            "who are alike in the columns of 'given'",
            "in `groups.race.given`",
        ),
    ],
)
def test_a_metric_that_is_lacking_says_what_it_lacks(
    metric: str, selected: tuple[int, ...], reason: str, step: str
) -> None:
    rows = [
        {"group": f"race={i}", "n": 40, "selected": one, "selection_rate": {"value": one / 40, "interval": (0, 1)}}
        | {"true_positive_rate": None, "false_positive_rate": None, "small": False}
        for i, one in enumerate(selected)
    ]
    compared = handmade.group().model_validate(handmade.group().model_dump() | {"rows": rows})
    report = handmade.report(groups=(compared,))
    asked = GroupLine.model_validate({"group": "race", "metric": metric, "at_least": 0.8})
    audit = report.audit.model_copy(update={"gate": [asked], "about": ABOUT})
    report = report.model_copy(update={"audit": audit, "verdict": decide(report, [asked])})
    (line,) = summary.lines(report)
    assert line.outcome == "inconclusive"
    assert reason in line.reason
    assert step in line.next_steps[0]


def test_what_no_layer_encodes_says_what_would_clear_it() -> None:
    """At 40 / 80 / 40 the output gap is ± 0.4 sd wide; the flag for a weak CAV does not silence its advice."""
    unseen = handmade.row(**WIDE, encoded=False, gap=(0.02, -0.38, 0.42), flags=(handmade.flag("weak_cav"),))
    plain = handmade.report(unseen)
    sets = [
        ExampleSetSummary(name=name, source=plain.audit.model, count=count, kind="images")
        for name, count in (("marked", 40), ("photos", 80))
    ]
    report = plain.model_copy(update={"plan": plain.plan.model_copy(update={"examples": sets})})
    (line,) = summary.lines(judged(report, LINE | {"tolerance": 0.3}))
    assert line.finding == "not encoded"
    (step,) = (one for one in line.next_steps if one.startswith("Or give"))
    assert "if the concept does nothing and no layer encodes it then either, nine of ten such audits pass" in step
    assert any("with 0.42 sd every interval" in step for step in line.next_steps)
    (line,) = summary.lines(judged(report, LINE | {"tolerance": 0.3, "when_not_encoded": "fail"}))
    assert not any(one.startswith("Or give") for one in line.next_steps)


def test_a_flag_that_blocks_has_its_remedy() -> None:
    flagged = handmade.row(**WIDE, flags=(handmade.flag("few_examples"),))
    (line,) = summary.lines(judged(handmade.report(flagged), LINE))
    assert any("`method.min_examples`" in step for step in line.next_steps)


def test_open_groups_are_told_where_people_are_missing() -> None:
    group = handmade.group(selection_rate_ratio=0.805)
    rows = [
        GroupRow(
            group=f"race={name}",
            n=n,
            selection_rate=Estimate(value=0.5, interval=(0.4, 0.6)),
            true_positive_rate=None,
            false_positive_rate=None,
            small=n < 30,
        )
        for name, n in (("a", 900), ("b", 12))
    ]
    asked = GroupLine(group="race", metric="selection_rate_ratio", at_least=0.8, judge="interval").model_dump()
    report = handmade.report(groups=(group.model_copy(update={"rows": rows}),))
    audit = report.audit.model_copy(update={"gate": [GroupLine.model_validate(asked)]})
    report = report.model_copy(update={"audit": audit, "verdict": decide(report, audit.gate)})
    (line,) = summary.lines(report)
    assert line.next_steps[0] == "Add people to the smallest groups: race=b has 12, race=a has 900."


@pytest.mark.parametrize("module", [html, markdown])
def test_the_concept_is_shown_in_pairs(measured: Report, module: ModuleType) -> None:
    pair = ShownPair(
        without="row 3",
        with_concept="row 3",
        differences=[Difference(what="race", without="0", with_concept="1")],
    )
    shown = ShownPairs(concept="mark", without="photos", with_concept="marked", count=40, shown=[pair])
    report = measured.model_copy(update={"pairs": [shown]})
    page = text(parsed(report)) if module is html else module.render(report)
    assert "row 3" in page
    assert "0 → 1" in page
