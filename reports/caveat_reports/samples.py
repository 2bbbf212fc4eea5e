"""The figures of a report as named numbers with labels, for OpenMetrics and for experiment trackers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from caveat_spec.base import Interval
from caveat_spec.report import Report

FAMILIES = {
    "caveat_effect_sd": "Change of the target for one step to the concept, in standard deviations of the target.",
    "caveat_effect_sd_low": "Lower end of that change's interval.",
    "caveat_effect_sd_high": "Upper end of that change's interval.",
    "caveat_score": "TCAV score.",
    "caveat_intervention_sd": "Measured change of the target, in standard deviations of the target.",
    "caveat_intervention_sd_low": "Lower end of the measured change's interval.",
    "caveat_intervention_sd_high": "Upper end of the measured change's interval.",
    "caveat_intervention_probability": "Measured change of the target's probability.",
    "caveat_intervention_decisions": "Share of decisions that flip.",
    "caveat_group_metric": "Group metric.",
    "caveat_group_metric_low": "Lower end of a group metric's interval.",
    "caveat_group_metric_high": "Upper end of a group metric's interval.",
    "caveat_selection_rate": "Share of favourable decisions.",
    "caveat_group_people": "People in a group.",
    "caveat_line_holds": "1 where a line of the gate holds, 0 where it does not or could not be settled.",
}
"""What each family of samples is, in the order in which they are shown."""


class Sample(NamedTuple):
    """One number of a family; its labels say what it is of."""

    family: str
    labels: dict[str, str]
    value: float


def samples(report: Report) -> Iterator[Sample]:
    """Every figure of the report."""
    for test in report.associations:
        labels = {"concept": test.concept, "target": test.target, "layer": test.place}
        yield from _with_interval("caveat_effect_sd", labels, test.effect.in_sd, test.effect.interval_in_sd)
        if test.score is not None:
            yield Sample("caveat_score", labels, test.score.value)
    for intervention in report.interventions:
        labels, effect = {"concept": intervention.concept, "target": intervention.target}, intervention.effect
        yield from _with_interval("caveat_intervention_sd", labels, effect.in_sd, effect.interval_in_sd)
        if effect.in_probability is not None:
            yield Sample("caveat_intervention_probability", labels, effect.in_probability.value)
        if effect.in_decisions is not None:
            yield Sample("caveat_intervention_decisions", labels, effect.in_decisions.value)
    for group in report.comparisons:
        for name, estimate in group.metrics.items():
            labels = {"group": group.name, "metric": name}
            yield from _with_interval("caveat_group_metric", labels, estimate.value, estimate.interval)
        for people in group.rows:
            labels = {"group": group.name, "people": people.group}
            yield Sample("caveat_selection_rate", labels, people.selection_rate.value)
            yield Sample("caveat_group_people", labels, float(people.n))
    for line in report.verdict.lines:
        yield Sample(
            "caveat_line_holds", {"line": str(line.line), "subject": line.subject}, float(line.outcome == "pass")
        )


def _with_interval(family: str, labels: dict[str, str], value: float, interval: Interval) -> Iterator[Sample]:
    yield Sample(family, labels, value)
    yield Sample(f"{family}_low", labels, interval[0])
    yield Sample(f"{family}_high", labels, interval[1])
