"""Verdicts: three values, two lines of evidence, and a gate that fails closed."""

from __future__ import annotations

import random

import pytest

from caveat_spec.audit import ConceptLine, GroupLine
from caveat_spec.gate import decide
from caveat_spec.report import PlanSummary
from caveat_spec.results import Comparison, ConditionalDifference, GroupRow
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
        ([{**INFLUENTIAL, "interval": (0.09, 0.91)}], "inconclusive", "inconclusive"),
        ([{**HARMLESS, "encoded": False}], "not_encoded", "inconclusive"),
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
        ({**INFLUENTIAL, "whole": (0.9, 0.09, 1.7)}, "inconclusive", "moves carton by +0.9 sd (+0.09 to +1.7 sd)"),
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
    assert (judged.finding, judged.reason.startswith("By association, at deep")) == ("influential", True)


@pytest.mark.parametrize("whole", [(0.9, 0.8, 1.0), None])
def test_what_was_measured_needs_no_whole_step(whole: tuple | None) -> None:
    verdict = decide(report(row(**HARMLESS, whole=whole), interventions=(intervention(**HARMLESS),)), [line()])
    assert verdict.lines[0].finding == "not_influential"


OPPOSITE = {"in_sd": -0.5, "interval": (-0.6, -0.4), "p": 0.001}


@pytest.mark.parametrize(
    ("association", "measured", "finding", "caution"),
    [
        (INFLUENTIAL, INFLUENTIAL, "influential", None),
        (HARMLESS, HARMLESS, "not_influential", None),
        (INFLUENTIAL, HARMLESS, "not_influential", "that step may leave the data"),
        ({**INFLUENTIAL, "whole": (0.0, -0.1, 0.1)}, HARMLESS, "not_influential", "the model bends along that step"),
        (HARMLESS, INFLUENTIAL, "influential", "a slope misses a change"),
        (INFLUENTIAL, OPPOSITE, "influential", "that step may leave the data"),
        (UNSETTLED, HARMLESS, "not_influential", None),
        ({**HARMLESS, "encoded": False}, INFLUENTIAL, "influential", None),
        (INFLUENTIAL, UNSETTLED, "inconclusive", None),
        (INFLUENTIAL, {**INFLUENTIAL, "interval": (0.09, 0.91)}, "inconclusive", None),
    ],
)
def test_a_measured_change_decides_and_association_is_a_caution_where_it_says_otherwise(
    association: dict, measured: dict, finding: str, caution: str | None
) -> None:
    (judged,) = decide(report(row(**association), interventions=(intervention(**measured),)), [line()]).lines
    assert judged.finding == finding
    assert caution is None or caution in str(judged.caution)
    assert (caution is None) == (judged.caution is None)


def test_a_measured_change_alone_decides_and_says_so() -> None:
    (judged,) = decide(report(interventions=(intervention(**HARMLESS),)), [line()]).lines
    assert judged.finding == "not_influential"
    assert "no test by association" in judged.reason


@pytest.mark.parametrize(
    ("association", "measured", "finding"),
    [
        (INFLUENTIAL, INFLUENTIAL, "influential"),
        (HARMLESS, HARMLESS, "not_influential"),
        (INFLUENTIAL, HARMLESS, "inconclusive"),
        (INFLUENTIAL, OPPOSITE, "inconclusive"),
        (UNSETTLED, HARMLESS, "inconclusive"),
        (UNSETTLED, UNSETTLED, "inconclusive"),
        (INFLUENTIAL, None, "inconclusive"),
        (None, INFLUENTIAL, "inconclusive"),
    ],
)
def test_a_line_may_require_both_lines_of_evidence(
    association: dict | None, measured: dict | None, finding: str
) -> None:
    tests = [] if association is None else [row(**association)]
    interventions = () if measured is None else (intervention(**measured),)
    verdict = decide(report(*tests, interventions=interventions), [line(require="both")])
    assert verdict.lines[0].finding == finding


def test_layers_of_opposite_sign_leave_a_line_open_unless_a_change_was_measured() -> None:
    rows = row(**INFLUENTIAL), row(**OPPOSITE, layer="deep")
    (judged,) = decide(report(*rows), [line()]).lines
    assert judged.finding == "inconclusive"
    assert "layers contradict each other" in judged.reason
    (judged,) = decide(report(*rows, interventions=(intervention(**INFLUENTIAL),)), [line()]).lines
    assert judged.finding == "influential"


@pytest.mark.parametrize("code", ["degenerate", "zero_gradient", "sets_differ_in_kind"])
def test_a_blocking_flag_keeps_a_layer_from_accusing_and_never_helps_to_clear(code: str) -> None:
    flagged = row(**INFLUENTIAL, flags=(flag(code),))
    assert decide(report(flagged), [line()]).lines[0].finding == "inconclusive"
    other = row(**HARMLESS, layer="other")
    (judged,) = decide(report(flagged, other), [line()]).lines
    assert judged.finding == "inconclusive"
    assert "a layer that is left out must not clear a line" in judged.reason
    quiet = row(**HARMLESS, flags=(flag(code),))
    assert decide(report(quiet, other), [line()]).lines[0].finding == "not_influential"
    noted = row(**INFLUENTIAL, flags=(flag(code, blocking=False),))
    assert decide(report(noted), [line()]).lines[0].finding == "influential"


def test_figures_of_other_targets_do_not_change_a_verdict() -> None:
    asked, other = row(**HARMLESS), row(**INFLUENTIAL, flags=(flag("degenerate"),))
    unrelated = other.model_copy(update={"target": "daisy"})
    alone, among = (decide(report(*rows), [line()]).lines for rows in ([asked], [asked, unrelated]))
    assert alone == among


SMALL, LARGE = (0.01, -0.05, 0.07), (0.06, -0.05, 0.17)


@pytest.mark.parametrize(
    ("gap", "policy", "outcome"),
    [
        (SMALL, {}, "pass"),
        (LARGE, {}, "inconclusive"),
        (None, {}, "inconclusive"),
        (LARGE, {"when_inconclusive": "pass"}, "pass"),
        (SMALL, {"when_not_encoded": "inconclusive"}, "inconclusive"),
        (SMALL, {"when_not_encoded": "fail"}, "fail"),
        (SMALL, {"must": "matter"}, "inconclusive"),
    ],
)
def test_what_not_encoded_means_for_a_line(gap: tuple | None, policy: dict, outcome: str) -> None:
    (judged,) = decide(report(row(**UNSETTLED, encoded=False, gap=gap)), [line(**policy)]).lines
    assert (judged.finding, judged.outcome) == ("not_encoded", outcome)


def test_not_encoded_says_its_power_its_layers_and_how_the_models_numbers_differ() -> None:
    rows = (row(**HARMLESS, encoded=False, gap=SMALL, layer=layer) for layer in ("block", "deep"))
    assert decide(report(*rows), [line()]).lines[0].reason == (
        "No audited layer encodes mark linearly (block, deep; an accuracy of 0.71 would have been found in 95 of 100 "
        "cases), and between its examples and the reference set carton differs by +0.01 sd (-0.05 to +0.07 sd), within "
        "the tolerance."
    )


@pytest.mark.parametrize("code", ["weak_cav", "unstable_estimators"])
def test_some_flags_keep_a_row_from_accusing_but_not_from_clearing(code: str) -> None:
    weak = flag(code)
    verdict = decide(report(row(**INFLUENTIAL, flags=(weak,))), [line()]).lines[0]
    assert verdict.finding == "inconclusive"
    assert weak.sentence.rstrip(".") in verdict.reason
    encoding = row(**HARMLESS, layer="deep")
    assert decide(report(row(**HARMLESS, flags=(weak,)), encoding), [line()]).lines[0].outcome == "pass"


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
    ("interval", "whole", "advice"),
    [
        ((-0.2, 0.3), None, "even 20 times as many examples of every kind would leave it open"),
        ((-0.01, 0.11), None, "even 20 times as many examples of every kind would leave it open"),
        (
            (0.005, 0.101),
            None,
            "with about 5.2 times as many examples of every kind, nine of ten such audits are settled",
        ),
        ((0.005, 0.101), (0.05, 0.0, 0.102), "with about 8.1 times as many examples"),
        ((-0.01, 0.11), (0.12, 0.05, 0.19), "no feasible number of examples would settle it"),
    ],
)
def test_an_unsettled_row_says_how_many_examples_would_settle_it(
    interval: tuple, whole: tuple | None, advice: str
) -> None:
    unsettled = row(in_sd=0.05, interval=interval, p=0.4, whole=whole)
    assert advice in decide(report(unsettled), [line()]).lines[0].reason


def test_the_advice_settles_the_line_in_nine_of_ten_audits() -> None:
    """New audits of 3.9 times the examples, whose effects scatter around the one that the first audit found."""
    half, settled, rng = 0.06 / 3.9**0.5, 0, random.Random(0)
    for _ in range(500):
        found = rng.gauss(0.05, half / 1.96)
        again = row(in_sd=found, interval=(found - half, found + half), p=0.4)
        settled += decide(report(again), [line()]).lines[0].finding == "not_influential"
    assert 0.87 <= settled / 500 <= 0.95


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


@pytest.mark.parametrize(
    ("value", "judged", "outcome", "said"),
    [
        (0.805, "point", "pass", "the interval reaches below 0.8, so another sample of as many people"),
        (0.805, "interval", "inconclusive", "reaches below 0.8, so that these people are too few to tell"),
        (0.779, "point", "fail", "the interval reaches up to 0.879, over 0.8"),
        (0.779, "interval", "inconclusive", "reaches up to 0.879, over 0.8"),
        (0.95, "interval", "pass", "asked for at least 0.8"),
        (0.6, "interval", "fail", "asked for at least 0.8"),
    ],
)
def test_an_interval_that_crosses_the_bound_is_said_or_decides(
    value: float, judged: str, outcome: str, said: str
) -> None:
    asked = {"group": "race", "metric": "selection_rate_ratio", "at_least": 0.8, "judge": judged}
    decided = decide(report(groups=(group(selection_rate_ratio=value),)), [GroupLine.model_validate(asked)])
    assert decided.outcome == outcome
    assert said.lower() in decided.lines[0].explanation.lower()


def test_what_an_interval_leaves_open_passes_only_where_the_line_says_so() -> None:
    asked = {"group": "race", "metric": "selection_rate_ratio", "at_least": 0.8, "judge": "interval"}
    open_ = GroupLine.model_validate({**asked, "when_inconclusive": "pass"})
    assert decide(report(groups=(group(selection_rate_ratio=0.805),)), [open_]).outcome == "pass"


def test_a_caution_names_the_groups_of_few_people() -> None:
    asked = GroupLine(group="race", metric="selection_rate_ratio", at_least=0.8)
    few = {"group": "race=other", "n": 3, "small": True, "selection_rate": {"value": 0.5, "interval": (0.1, 0.9)}}
    rows = [GroupRow.model_validate({**few, "true_positive_rate": None, "false_positive_rate": None})]
    found = group(selection_rate_ratio=0.805).model_copy(update={"rows": rows})
    assert "(race=other has 3)" in str(decide(report(groups=(found,)), [asked]).lines[0].caution)


def given(disagreement: str | None) -> Comparison:
    """A crude difference of 0.2 that is 0.01 given income."""
    return group(selection_rate_difference=0.2, conditional_selection_rate_difference=0.01).model_copy(
        update={
            "conditional": ConditionalDifference.model_validate(
                {
                    "given": ["income"],
                    "strata": 5,
                    "people": 900,
                    "rest": 100,
                    "higher": "race=a",
                    "lower": "race=b",
                    "crude": {"value": 0.2, "interval": (0.1, 0.3)},
                    "conditional": {"value": 0.01, "interval": (-0.05, 0.07)},
                    "disagreement": disagreement,
                    "sentence": "Income accounts for it.",
                }
            )
        }
    )


def test_a_line_may_bound_a_difference_given_other_columns() -> None:
    asked = [
        GroupLine(group="race", metric="conditional_selection_rate_difference", at_most=0.05),
        GroupLine(group="race", metric="selection_rate_difference", at_most=0.05),
    ]
    alike, crude = decide(report(groups=(given("explained"),)), asked).lines
    assert (alike.outcome, crude.outcome) == ("pass", "fail")
    assert "by race given income is 0.010" in alike.reason
    assert "given" not in crude.reason
    agreeing = decide(report(groups=(given(None),)), asked)
    for line, other in zip((alike, crude), agreeing.lines, strict=True):
        assert line.explanation.endswith("Income accounts for it.")
        assert "Income" not in other.explanation


def test_a_conditional_metric_without_strata_is_inconclusive() -> None:
    asked = GroupLine(group="race", metric="conditional_selection_rate_ratio", at_least=0.8)
    (line,) = decide(report(groups=(group(selection_rate_ratio=0.9),)), [asked]).lines
    assert line.outcome == "inconclusive"
    assert "no two groups have enough people" in line.reason


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
