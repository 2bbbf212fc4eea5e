"""What examples can settle, calculated before the model runs; the engine is held against it in tests/engine."""

from __future__ import annotations

from typing import Any

import pytest

from caveat_spec.audit import Audit, Sequential
from caveat_spec.power import ASSUMED, MEASURED, amount, plan_audit
from caveat_spec.results import Estimate
from tests.api_spec import handmade

LINE = {"concept": "mark", "target": "carton", "must": "not_matter"}


def audit(*, paired: bool = False, **fields: object) -> Audit:
    """An audit with one gate line, its concept in matched pairs or not."""
    document: dict[str, Any] = handmade.AUDIT | {"gate": [LINE | fields]}
    if not paired:
        marked = {key: value for key, value in document["examples"]["marked"].items() if key != "pairs_with"}
        document |= {"examples": document["examples"] | {"marked": marked}}
    return Audit.model_validate(document)


def test_no_flip_in_n_pairs_bounds_the_share_of_decisions_exactly() -> None:
    """The interval of 0 in 36 ends at 9.7 %, that of 0 in 35 at 10.0 % and a little."""
    few, enough = (
        plan_audit(audit(paired=True, tolerance=0.1, unit="decisions"), {"photos": 50, "marked": n}).lines[0]
        for n in (35, 36)
    )
    assert (few.reachable, enough.reachable) == (False, True)
    assert few.needs == {"marked": 36}
    assert enough.settles == pytest.approx(1 - 0.025 ** (1 / 36))
    assert "for 10 % of decisions give 36 of marked, or raise the tolerance" in few.sentence


def test_more_examples_settle_less_and_the_ones_named_are_just_enough() -> None:
    asked = audit(paired=True, tolerance=0.1)
    few = plan_audit(asked, {"photos": 40, "marked": 40}).lines[0]
    assert few.settles is not None
    assert few.settles > 0.1
    n = few.needs["marked"]
    for marked, reachable in ((n, True), (n - 1, False)):
        assert plan_audit(asked, {"photos": marked, "marked": marked}).lines[0].reachable is reachable


def test_two_examples_of_a_target_give_no_scale_to_settle_anything_by() -> None:
    line = plan_audit(audit(paired=True, tolerance=0.3), {"photos": 2, "marked": 2}).lines[0]
    assert (line.settles, line.reachable) == (None, False)
    assert line.sentence.startswith("By the assumed spread, with 2 of marked and 2 of photos, nine of ten audits ")
    assert "settle no tolerance at all; " in line.sentence
    assert line.needs["photos"] > 2


def test_without_pairs_concept_and_reference_both_count() -> None:
    line = plan_audit(audit(tolerance=0.3), {"photos": 80, "marked": 40}).lines[0]
    assert line.evidence == "association"
    assert set(line.needs) == {"marked", "photos"}
    assert line.settles == pytest.approx(3.65 * (1 / 40 + 1 / 80) ** 0.5, rel=0.12)
    assert line.finds is not None
    assert line.finds > 0.3


def test_a_correction_over_more_tests_finds_less() -> None:
    one, many = (
        plan_audit(
            audit(tolerance=0.01).model_copy(update={"layers": layers}), {"photos": 80, "marked": 40}
        ).lines[0]
        for layers in (["block"], [f"block{i}" for i in range(40)])
    )  # fmt: skip
    assert one.settles == many.settles
    assert one.finds is not None
    assert many.finds is not None
    assert one.finds < many.finds


def test_an_earlier_report_says_how_much_examples_vary() -> None:
    asked, counts = audit(paired=True, tolerance=0.1, unit="probability"), {"photos": 40, "marked": 40}
    measured = handmade.intervention()
    effect = measured.effect.model_copy(update={"in_probability": Estimate(value=0.0, interval=(-0.02, 0.02))})
    report = handmade.report(interventions=(measured.model_copy(update={"effect": effect}),))
    before, after = plan_audit(asked, counts), plan_audit(asked, counts, report)
    assert (before.assumed, after.assumed) == (ASSUMED, MEASURED)
    assert after.lines[0].settles == pytest.approx(0.02 * 3.65 / 1.96, rel=0.05)
    assert "by the assumed spread" in before.lines[0].sentence.lower()
    assert "assumed" not in after.lines[0].sentence


def test_what_is_out_of_reach_by_an_assumption_may_be_within_it() -> None:
    """A newcomer is not told that a tolerance is out of reach which the trial of `caveat init` has measured."""
    counts = {"photos": 12, "marked": 12}
    (by_assumption,) = plan_audit(audit(paired=True, tolerance=0.1), counts).unreachable
    assert by_assumption.startswith("Perhaps out of reach: ")
    (by_count,) = plan_audit(audit(paired=True, tolerance=0.1, unit="decisions"), counts).unreachable
    assert by_count.startswith("Out of reach: ")


def test_what_only_the_model_knows_is_not_guessed() -> None:
    line = plan_audit(audit(paired=True, unit="logit"), {"photos": 40, "marked": 40}).lines[0]
    assert (line.settles, line.reachable) == (None, None)
    assert "give an earlier report" in line.sentence


@pytest.mark.parametrize(
    ("value", "unit", "words"),
    [
        (0.2901, "sd", "0.291 sd"),
        (0.05, "probability", "5 percentage points"),
        (0.059612, "decisions", "5.97 % of decisions"),
    ],
)  # fmt: skip
def test_amounts_are_rounded_up_so_that_they_hold(value: float, unit: Any, words: str) -> None:
    assert amount(value, unit) == words


def test_a_sequential_audit_is_planned_at_the_alpha_that_its_last_look_has_left() -> None:
    fixed, looked = audit(paired=True, tolerance=0.4), audit(paired=True, tolerance=0.4)
    looked = looked.model_copy(update={"method": looked.method.model_copy(update={"sequential": Sequential()})})
    counts = {"photos": 400, "marked": 400}
    once, several = plan_audit(fixed, counts), plan_audit(looked, counts)
    assert once.looks == []
    assert [(one.share, round(one.alpha, 4)) for one in several.looks] == [(0.25, 0.0031), (0.5, 0.0094), (1.0, 0.0375)]
    first, second = once.lines[0], several.lines[0]
    assert first.settles is not None
    assert second.settles is not None
    assert first.settles < second.settles < 1.1 * first.settles
    assert (first.first_look, second.first_look) == (None, 0.25)


def test_a_look_with_too_few_examples_is_left_out_and_the_next_one_spends_its_alpha() -> None:
    looked = audit(paired=True, tolerance=0.4)
    looked = looked.model_copy(update={"method": looked.method.model_copy(update={"sequential": Sequential()})})
    planned = plan_audit(looked, {"photos": 60, "marked": 60})
    assert looked.method.min_examples == 20
    assert [(one.share, round(one.alpha, 4)) for one in planned.looks] == [(0.5, 0.0125), (1.0, 0.0375)]
    assert planned.left_out == [0.25]
    few = plan_audit(looked, {"photos": 25, "marked": 25})
    assert [one.share for one in few.looks] == [1.0]
    assert few.left_out == [0.25, 0.5]
