"""Verdicts: three values, two lines of evidence, and a gate that fails closed."""

from __future__ import annotations

import pytest

from caveat_spec.audit import ConceptLine, GroupLine
from caveat_spec.gate import decide
from caveat_spec.report import PlanSummary
from tests.api_spec.handmade import flag, group, intervention, report, row

LINE = {"concept": "mark", "target": "carton", "must": "not_matter", "tolerance": 0.1}
INFLUENTIAL = {"in_sd": 0.5, "interval": (0.4, 0.6), "p": 0.001}
HARMLESS = {"in_sd": 0.01, "interval": (-0.02, 0.04), "p": 0.6}
UNSETTLED = {"in_sd": 0.05, "interval": (-0.2, 0.3), "p": 0.4}
EMPTY: dict = {"layers": [], "targets": [], "examples": [], "gradient_checks": []}


def line(**fields: object) -> ConceptLine:
    return ConceptLine.model_validate({**LINE, **fields})


@pytest.mark.parametrize(
    ("rows", "finding", "outcome"),
    [
        ([INFLUENTIAL], "influential", "fail"),
        ([HARMLESS], "not_influential", "pass"),
        ([UNSETTLED], "inconclusive", "inconclusive"),
        ([HARMLESS, INFLUENTIAL], "influential", "fail"),
        ([HARMLESS, UNSETTLED], "inconclusive", "inconclusive"),
        ([{**INFLUENTIAL, "p": 0.2}], "inconclusive", "inconclusive"),
        ([{**INFLUENTIAL, "in_sd": 0.09, "interval": (0.05, 0.13)}], "inconclusive", "inconclusive"),
        ([{**HARMLESS, "p": 0.001}], "not_influential", "pass"),
        ([{**HARMLESS, "encoded": False}], "inconclusive", "inconclusive"),
        ([{**HARMLESS, "other": 0.09}], "not_influential", "pass"),
        ([{**HARMLESS, "other": -0.5}], "inconclusive", "inconclusive"),
        ([], "inconclusive", "inconclusive"),
    ],
)
def test_association_alone(rows: list[dict], finding: str, outcome: str) -> None:
    verdict = decide(report(*(row(**fields) for fields in rows)), [line()])
    assert (verdict.lines[0].finding, verdict.lines[0].outcome, verdict.outcome) == (finding, outcome, outcome)


@pytest.mark.parametrize(
    ("fields", "finding", "words"),
    [
        ({**INFLUENTIAL, "whole": (0.9, 0.8, 1.0)}, "influential", "a step towards mark moves carton by +0.5 sd"),
        ({**INFLUENTIAL, "whole": (0.02, 0.0, 0.04)}, "inconclusive", "promises +0.5 sd, but the full step"),
        ({**INFLUENTIAL, "whole": (-0.9, -1.0, -0.8)}, "inconclusive", "moves carton by -0.9 sd (-1 to -0.8 sd)"),
        ({**HARMLESS, "whole": (0.02, 0.0, 0.04)}, "not_influential", "lies within 0.1 sd"),
        ({**HARMLESS, "whole": (0.9, 0.8, 1.0)}, "inconclusive", "is within the tolerance, but the full step"),
        ({**HARMLESS, "whole": (0.05, -0.05, 0.15)}, "inconclusive", "the model bends in between"),
    ],
)
def test_an_association_alone_is_upheld_by_a_whole_step(fields: dict, finding: str, words: str) -> None:
    for unit, tolerance in (("sd", 0.1), ("logit", 0.2)):
        (judged,) = decide(report(row(**fields)), [line(unit=unit, tolerance=tolerance)]).lines
        assert judged.finding == finding
    (judged,) = decide(report(row(**fields)), [line()]).lines
    assert words in judged.reason


def test_a_layer_that_bends_does_not_silence_one_that_does_not() -> None:
    bent = row(**INFLUENTIAL, whole=(0.0, -0.1, 0.1))
    straight = row(**{**INFLUENTIAL, "in_sd": 0.3}, whole=(0.3, 0.2, 0.4), layer="deep")
    (judged,) = decide(report(bent, straight), [line()]).lines
    assert (judged.finding, judged.reason.startswith("At deep")) == ("influential", True)


@pytest.mark.parametrize("whole", [(0.9, 0.8, 1.0), None])
def test_what_was_measured_needs_no_whole_step(whole: tuple | None) -> None:
    verdict = decide(report(row(**HARMLESS, whole=whole), interventions=(intervention(**HARMLESS),)), [line()])
    assert verdict.lines[0].finding == "not_influential"


@pytest.mark.parametrize(
    ("association", "measured", "finding"),
    [
        (INFLUENTIAL, INFLUENTIAL, "influential"),
        (HARMLESS, HARMLESS, "not_influential"),
        (INFLUENTIAL, HARMLESS, "inconclusive"),
        (HARMLESS, INFLUENTIAL, "inconclusive"),
        (INFLUENTIAL, {"in_sd": -0.5, "interval": (-0.6, -0.4), "p": 0.001}, "inconclusive"),
        (UNSETTLED, HARMLESS, "inconclusive"),
        (UNSETTLED, UNSETTLED, "inconclusive"),
    ],
)
def test_association_and_intervention_must_agree(association: dict, measured: dict, finding: str) -> None:
    verdict = decide(report(row(**association), interventions=(intervention(**measured),)), [line()])
    assert verdict.lines[0].finding == finding


def test_a_policy_may_let_the_intervention_decide() -> None:
    policy = line(when_evidence_disagrees="intervention")
    evidence = report(row(**INFLUENTIAL), interventions=(intervention(**HARMLESS),))
    assert decide(evidence, [policy]).lines[0].finding == "not_influential"
    unsettled = report(row(**INFLUENTIAL), interventions=(intervention(**UNSETTLED),))
    assert decide(unsettled, [policy]).lines[0].finding == "inconclusive"


@pytest.mark.parametrize("code", ["degenerate", "zero_gradient", "confounded_negatives"])
def test_a_withholding_flag_takes_a_row_out(code: str) -> None:
    flagged = row(**INFLUENTIAL, flags=(flag(code),))
    assert decide(report(flagged), [line()]).lines[0].finding == "inconclusive"
    other = row(**HARMLESS, layer="other")
    assert decide(report(flagged, other), [line()]).lines[0].finding == "not_influential"
    noted = row(**INFLUENTIAL, flags=(flag(code, blocking=False),))
    assert decide(report(noted), [line()]).lines[0].finding == "influential"


@pytest.mark.parametrize("code", ["weak_cav", "unstable_estimators"])
def test_some_flags_keep_a_row_from_accusing_but_not_from_clearing(code: str) -> None:
    weak = flag(code)
    assert decide(report(row(**INFLUENTIAL, flags=(weak,))), [line()]).lines[0].finding == "inconclusive"
    quiet = row(**HARMLESS, flags=(weak,), encoded=False)
    assert decide(report(quiet), [line(when_not_encoded="not_influential")]).lines[0].outcome == "pass"


@pytest.mark.parametrize(("policy", "outcome"), [("inconclusive", "inconclusive"), ("pass", "pass"), ("fail", "fail")])
def test_what_inconclusive_comes_to_is_policy(policy: str, outcome: str) -> None:
    assert decide(report(row(**UNSETTLED)), [line(when_inconclusive=policy)]).outcome == outcome


def test_a_concept_that_must_matter() -> None:
    must = line(must="matter")
    assert decide(report(row(**INFLUENTIAL)), [must]).outcome == "pass"
    assert decide(report(row(**HARMLESS)), [must]).outcome == "fail"
    assert decide(report(row(**UNSETTLED)), [must]).outcome == "inconclusive"


def test_a_tolerance_in_logits_is_read_in_logits() -> None:
    evidence = report(row(in_sd=0.08, interval=(0.06, 0.09), p=0.001))
    assert decide(evidence, [line()]).lines[0].finding == "not_influential"
    assert decide(evidence, [line(unit="logit")]).lines[0].finding == "influential"


@pytest.mark.parametrize(
    ("interval", "share", "advice"),
    [
        ((-0.2, 0.3), 0.1, "about 25.0 times as many examples of every kind"),
        ((-0.01, 0.11), 0.9, "about 91 target examples in place of 60"),
        ((-0.01, 0.11), 0.0, "about 65 concept examples in place of 40"),
    ],
)
def test_an_unsettled_row_says_which_examples_it_needs(interval: tuple, share: float, advice: str) -> None:
    unsettled = row(in_sd=0.05, interval=interval, p=0.4)
    effect = unsettled.effect.model_copy(update={"target_share": share})
    evidence = report(unsettled.model_copy(update={"effect": effect}))
    assert advice in decide(evidence, [line()]).lines[0].reason


@pytest.mark.parametrize(
    ("before", "after", "outcome"),
    [
        (HARMLESS, HARMLESS, "pass"),
        (INFLUENTIAL, INFLUENTIAL, "inconclusive"),
        (INFLUENTIAL, HARMLESS, "pass"),
        (HARMLESS, INFLUENTIAL, "fail"),
        (HARMLESS, {"in_sd": -0.5, "interval": (-0.6, -0.4), "p": 0.001}, "fail"),
        (HARMLESS, UNSETTLED, "inconclusive"),
    ],
)
def test_a_concept_that_must_not_grow(before: dict, after: dict, outcome: str) -> None:
    verdict = decide(report(row(**after)), [line(must="not_grow")], report(row(**before)))
    assert verdict.outcome == outcome


def test_growth_needs_a_baseline_on_the_same_examples() -> None:
    asked = line(must="not_grow")
    now = report(row(**HARMLESS))
    assert "No baseline" in decide(now, [asked]).lines[0].reason
    assert "no figure of mark" in decide(now, [asked], report()).lines[0].reason
    described = {"name": "photos", "count": 40, "kind": "images"}
    now, then = (
        one.model_copy(
            update={"plan": PlanSummary.model_validate({**EMPTY, "examples": [{**described, "source": source}]})}
        )
        for one, source in ((now, "sha256:" + "1" * 64), (now, "sha256:" + "2" * 64))
    )
    assert "other examples: photos" in decide(now, [asked], then).lines[0].reason


@pytest.mark.parametrize(
    ("bound", "value", "outcome"),
    [
        ({"at_least": 0.8}, 0.779, "fail"),
        ({"at_least": 0.8}, 0.983, "pass"),
        ({"at_most": 0.8}, 0.9, "fail"),
        ({"at_least": 0.8, "at_most": 1.25}, 0.8, "pass"),
    ],
)
def test_group_bounds(bound: dict, value: float, outcome: str) -> None:
    asked = GroupLine.model_validate({"group": "race", "metric": "selection_rate_ratio", **bound})
    evidence = report(groups=(group(selection_rate_ratio=value),))
    assert decide(evidence, [asked]).outcome == outcome


def test_a_group_metric_that_was_not_measured_is_inconclusive() -> None:
    asked = GroupLine(group="race", metric="equalized_odds_difference", at_most=0.1)
    assert decide(report(groups=(group(selection_rate_ratio=0.9),)), [asked]).outcome == "inconclusive"


def test_the_whole_verdict_is_the_worst_line() -> None:
    groups = (group(selection_rate_ratio=0.9),)
    good = GroupLine(group="race", metric="selection_rate_ratio", at_least=0.8)
    bad = GroupLine(group="race", metric="selection_rate_ratio", at_least=0.95)
    evidence = report(row(**UNSETTLED), groups=groups)
    assert decide(evidence, []).outcome is None
    assert decide(evidence, [good]).outcome == "pass"
    assert decide(evidence, [good, line()]).outcome == "inconclusive"
    assert decide(evidence, [good, line(), bad]).outcome == "fail"
