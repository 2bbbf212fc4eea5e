"""What more examples may still settle: an audit goes on for such a line, and for no other."""

from __future__ import annotations

import pytest

from caveat_spec.audit import ConceptLine
from caveat_spec.gate import decide, settled
from caveat_spec.verdict.reach import out_of_reach
from tests.api_spec.handmade import intervention, report, row

LINE = ConceptLine(concept="mark", target="carton", must="not_matter", tolerance=0.3)
AT_THE_TOLERANCE = {"in_sd": 0.3, "interval": (0.28, 0.32), "p": 0.001}
WIDE = {"in_sd": 0.1, "interval": (-0.2, 0.4), "p": 0.4}


@pytest.mark.parametrize(
    ("figures", "times", "unreachable"),
    [(AT_THE_TOLERANCE, 4.0, False), (WIDE, 4.0, False), (WIDE, 1.1, True), ({**WIDE, "in_sd": 0.3}, 1.0, True)],
)
def test_a_measured_change_by_the_chance_that_all_examples_settle_it(
    figures: dict, times: float, unreachable: bool
) -> None:
    found = report(interventions=(intervention(**figures),))
    assert not settled(found, LINE)
    assert out_of_reach(found, LINE, times, 0.0375) is unreachable


def test_association_needs_every_layer_inside_or_one_beyond() -> None:
    near, beyond = row(**WIDE), row(**AT_THE_TOLERANCE | {"in_sd": 0.31, "interval": (0.29, 0.33)})
    assert not out_of_reach(report(near), LINE, 4.0, 0.0375)
    assert not out_of_reach(report(near, beyond), LINE, 4.0, 0.0375)
    stuck = row(in_sd=0.2, interval=(-0.4, 0.8), p=0.5)
    assert out_of_reach(report(near, stuck), LINE, 1.05, 0.0375)


def test_a_concept_that_no_layer_encodes_so_far_may_still_be_encoded() -> None:
    unseen = row(**WIDE, encoded=False, gap=(0.0, -0.9, 0.9))
    assert not out_of_reach(report(unseen), LINE, 1.01, 0.0375)


@pytest.mark.parametrize("policy", ["pass", "fail", "inconclusive"])
def test_no_early_look_ends_with_a_concept_that_is_not_encoded(policy: str) -> None:
    """Even where the output gap is small enough to clear the line."""
    unseen = row(**WIDE, encoded=False, gap=(0.0, -0.01, 0.01))
    line = LINE.model_copy(update={"when_not_encoded": policy})
    assert decide(report(unseen), [line]).lines[0].finding == "not_encoded"
    assert not settled(report(unseen), line)


def test_what_a_policy_makes_of_an_open_line_settles_nothing() -> None:
    lenient = LINE.model_copy(update={"when_inconclusive": "pass"})
    assert not settled(report(interventions=(intervention(**WIDE),)), lenient)
    assert settled(report(interventions=(intervention(in_sd=0.1, interval=(0.0, 0.2), p=0.01),)), lenient)


def test_a_line_that_waits_for_its_baseline_is_never_out_of_reach() -> None:
    growing = LINE.model_copy(update={"must": "not_grow"})
    found = report(interventions=(intervention(**WIDE),))
    assert not settled(found, growing)
    assert not out_of_reach(found, growing, 1.0, 0.0375)
