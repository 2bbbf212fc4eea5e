"""How a verdict is held against a truth, and how the page is put together."""

from __future__ import annotations

import numpy as np
import pytest

from bench.validation.__main__ import PAGE, PARTS, page
from bench.validation.ground_truth import Answered, Answers, Fact, Measured, bends, gap, paired_change
from caveat_spec.report import Finding
from tests.api_spec.handmade import row


@pytest.mark.parametrize(
    ("change", "error", "finding"),
    [
        (0.5, 0.1, "influential"),
        (-0.5, 0.1, "influential"),
        (0.1, 0.05, "not_influential"),
        (0.3, 0.2, None),
        (0.2, 0.1, None),
    ],
)
def test_a_truth_is_called_two_standard_errors_from_the_tolerance(
    change: float, error: float, finding: Finding | None
) -> None:
    assert Measured(change, error).finding(0.25) == finding


def test_a_measurement_says_its_numbers_and_its_direction() -> None:
    fact = Measured(-0.5, 0.1).fact("patch", "seven", 0.25, "changes by {}")
    assert fact == Fact("patch", "seven", "influential", "changes by -0.50 ± 0.20 sd", sign=-1, change=-0.5)
    assert Measured(-0.1, 0.1).fact("patch", "seven", 0.25, "{}").sign == 0


def test_slopes_and_finite_steps_are_held_against_what_was_measured() -> None:
    rows = [row(in_sd=0.1, whole=(0.9, 0.8, 1.0)), row(in_sd=-0.4, whole=(0.6, 0.5, 0.7), layer="deep")]
    answered = Answered(Measured(0.8, 0.1).fact("mark", "carton", 0.25, ""), rows, None, "influential", "")
    small = Answered(Measured(0.1, 0.1).fact("mark", "carton", 0.25, ""), rows, None, "influential", "")
    page = bends([Answers(asked=None, report=None, facts=[answered, small])])  # type: ignore[arg-type]
    assert "Over 2 tests" in page
    assert "| slope (the effect) | 0.95 | -0.19 | 0% | 50% |" in page
    assert "| finite step | 0.15 | 0.94 | 100% | 100% |" in page


def test_changes_are_in_standard_deviations_of_the_target() -> None:
    rng = np.random.default_rng(0)
    before, over = rng.normal(size=50), 2 * rng.normal(size=4000)
    assert paired_change(before, before + 1, over).change == pytest.approx(0.5, rel=0.05)
    assert paired_change(before, before + 1, over).error == pytest.approx(0, abs=1e-9)
    assert gap(before, before + 1, over).error > 0.05


@pytest.mark.parametrize(
    ("truth", "found", "agreement"),
    [
        ("influential", "influential", "right"),
        ("influential", "not_influential", "wrong"),
        ("not_influential", "influential", "wrong"),
        ("not_influential", "inconclusive", "open"),
        (None, "influential", "at the tolerance"),
    ],
)
def test_only_a_finding_against_the_truth_is_wrong(truth: Finding | None, found: Finding, agreement: str) -> None:
    assert Answered(Fact("patch", "seven", truth, ""), [], None, found, "").agreement == agreement


def test_one_part_is_made_anew_and_the_others_stay() -> None:
    both = page(page("", "rates", "## Rates\n\nold"), "truths", "## Truths\n\nseven of nine")
    again = page(both, "truths", "## Truths\n\neight of nine")
    assert "seven of nine" not in again
    assert again == both.replace("seven of nine", "eight of nine")
    assert page(again, "rates", "## Rates\n\nold") == again


def test_the_committed_page_has_every_part_and_none_is_wrong() -> None:
    text = PAGE.read_text()
    assert all(f"<!-- {part} -->" in text for part in PARTS)
    assert "**wrong**" not in text
