"""No verdict is wrong in the direction that matters, and a verdict that is inconclusive says why."""

from __future__ import annotations

import re

import pytest

from bench.validation.ground_truth import Answers
from bench.validation.scenarios import CASES
from tests.truths.conftest import Case

pytestmark = pytest.mark.slow


def found(of: Answers) -> dict[tuple[str, str], str]:
    return {(one.fact.concept, one.fact.target): one.finding for one in of.facts}


@pytest.mark.parametrize("name", sorted(CASES))
def test_no_verdict_is_wrong(name: str, case: Case) -> None:
    for of in case(name):
        for one in of.facts:
            assert one.agreement not in ("wrong", "other sign"), (of.asked.title, one.fact, one.reason)
        for count, value, outcome in of.counts:
            assert value == pytest.approx(count.value, abs=1e-5)
            assert outcome == count.outcome


@pytest.mark.parametrize("name", sorted(CASES))
def test_what_is_inconclusive_states_why(name: str, case: Case) -> None:
    reasons = (
        r"flagged:|vector is weak|too wide for the tolerance|not beyond chance|estimators disagree|"
        r"reaches into the tolerance|while this test is in doubt|layers contradict each other|must not clear a line|"
        r"but the full step|does not settle"
    )
    for of in case(name):
        for one in of.facts:
            assert one.finding != "inconclusive" or re.search(reasons, one.reason), one.reason


def test_the_watermark_is_found_on_the_network_that_learned_it_alone(case: Case) -> None:
    efficientnet, squeezenet = case("watermark")
    assert found(efficientnet) == {("watermark", "carton"): "influential", ("latin", "carton"): "not_influential"}
    assert set(found(squeezenet).values()) == {"not_influential"}
    (watermark,) = (one for one in efficientnet.report.interventions if one.concept == "watermark")
    assert watermark.decisions is not None
    assert watermark.decisions.rank == 1


def test_the_patch_is_found_where_it_was_planted_and_the_score_alone_would_not_tell(case: Case) -> None:
    shortcut, clean = case("patch")
    assert found(shortcut)["patch", "seven"] == "influential"
    assert found(clean)["patch", "seven"] != "influential"
    extreme = [row for row in clean.report.associations if row.score.value in (0, 1)]
    assert len(extreme) >= 5
    planted = next(row for row in shortcut.report.associations if row.target == "seven")
    assert all(abs(row.effect.in_sd) < planted.effect.in_sd / 3 for row in extreme)


def test_race_is_found_where_the_model_is_told_and_where_other_columns_tell(case: Case) -> None:
    told, untold = case("loans")
    assert found(told) == {("race", "approval"): "influential"}
    assert found(untold)["race", "approval"] == "influential"
    assert not untold.report.interventions  # association: nothing was changed, and nothing is claimed to be a cause


def test_turning_is_found_and_fading_is_not_on_a_network_as_published(case: Case) -> None:
    (of,) = case("text")
    assert found(of) == {("upside_down", "turned"): "influential", ("faded", "turned"): "not_influential"}


def test_drawn_stripes_against_photographs_are_flagged_and_pairs_are_the_remedy(case: Case) -> None:
    drawn, laid_on = case("stripes")
    assert all("sets_differ_in_kind" in {flag.code for flag in row.flags} for row in drawn.report.associations)
    assert set(found(drawn).values()) == {"inconclusive"}
    assert found(laid_on)["stripes", "zebra"] == "influential"
    assert not any(
        flag.code in ("sets_differ_in_kind", "moves_all_targets")
        for row in laid_on.report.associations
        for flag in row.flags
    )


@pytest.mark.parametrize("name", ["nothing", "weightless"])
def test_nothing_is_never_called_influential(name: str, case: Case) -> None:
    for of in case(name):
        assert "influential" not in found(of).values()


def test_a_feature_without_weight_has_no_effect_at_all(case: Case) -> None:
    (of,) = case("weightless")
    assert of.report.interventions[0].effect.value == 0
    row = next(row for row in of.report.associations if row.concept == "ticket_in_pairs")
    assert abs(row.effect.in_sd) < 1e-9
