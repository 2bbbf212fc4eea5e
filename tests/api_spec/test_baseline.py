"""What moved between two reports, and how sure that is."""

from __future__ import annotations

import math

import pytest

from caveat_spec.baseline import Difference, diff
from caveat_spec.report import ExampleSetSummary, Report
from tests.api_spec import handmade

SPREAD = [-3.0, -1.0, 1.0, 3.0]


def version(mean: float, jitter: float, sets: str = "1") -> Report:
    """A report whose target examples and pairs spread widely, and alike in every version but for `jitter`."""
    own = [2 * mean + value + jitter * (-1) ** i for i, value in enumerate(SPREAD)]
    half = 1.96 * math.sqrt(sum(value**2 for value in SPREAD) / 3) / 2 / 2  # in sd, where 1 sd is 2 logits
    row = handmade.row(in_sd=mean, interval=(mean - half, mean + half))
    row = row.model_copy(update={"changes": own, "effect": row.effect.model_copy(update={"target_share": 1.0})})
    intervention = handmade.intervention(in_sd=mean, interval=(mean - half, mean + half)).model_copy(
        update={"changes": own}
    )
    photos = ExampleSetSummary(name="photos", source="sha256:" + sets * 64, count=4, kind="images")
    report = handmade.report(row, interventions=(intervention,))
    return report.model_copy(update={"plan": report.plan.model_copy(update={"examples": [photos]})})


def moved(now: Report, then: Report) -> dict[str, Difference]:
    return {one.kind: one for one in diff(now, then)}


def test_versions_on_the_same_examples_are_compared_example_by_example() -> None:
    found = moved(version(0.5, 0.02), version(0.2, 0.0))
    for kind in ("effect", "intervention"):
        assert found[kind].noise == pytest.approx(1.96 * 0.02 / math.sqrt(3) / 2, rel=0.01)
        assert found[kind].beyond_noise


def test_versions_on_other_examples_are_compared_as_if_independent() -> None:
    found = moved(version(0.5, 0.02, sets="1"), version(0.2, 0.0, sets="2"))
    for kind in ("effect", "intervention"):
        assert found[kind].noise > 1
        assert not found[kind].beyond_noise


def test_an_old_report_without_single_changes_is_still_compared() -> None:
    then = version(0.2, 0.0)
    then = then.model_copy(update={"tests": [test.model_copy(update={"changes": []}) for test in then.tests]})
    assert moved(version(0.5, 0.02), then)["intervention"].noise > 1
