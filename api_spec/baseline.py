"""What moved between two reports, and whether the move is beyond noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

from api_spec.base import Interval
from api_spec.report import Report


@dataclass(frozen=True)
class Move:
    """One figure in both reports; `noise` is half the width of an interval around their difference."""

    kind: str
    """`effect`, `intervention` or a group metric."""
    subject: str
    before: float
    after: float
    noise: float

    @property
    def beyond_noise(self) -> bool:
        """Whether the figures differ by more than both intervals allow, as if they were independent."""
        return abs(self.after - self.before) > self.noise

    @property
    def growth(self) -> float:
        """How much farther from 0 the figure is."""
        return abs(self.after) - abs(self.before)


def moves(report: Report, baseline: Report) -> list[Move]:
    """Every figure that both reports have, in the order of `report`: effects and interventions in sd, group metrics."""
    found = []
    rows = {(row.concept, row.layer, row.target): row.effect for row in baseline.rows}
    for row in report.rows:
        before = rows.get((row.concept, row.layer, row.target))
        if before is not None:
            subject = f"{row.concept} → {row.target} at {row.layer}"
            intervals = before.interval_in_sd, row.effect.interval_in_sd
            found.append(Move("effect", subject, before.in_sd, row.effect.in_sd, _noise(*intervals)))
    measured = {(one.concept, one.target): one for one in baseline.interventions}
    for now in report.interventions:
        then = measured.get((now.concept, now.target))
        if then is not None:
            noise = _noise(then.interval_in_sd, now.interval_in_sd)
            subject = f"{now.concept} → {now.target}"
            found.append(Move("intervention", subject, then.change_in_sd, now.change_in_sd, noise))
    groups = {group.name: group.metrics for group in baseline.groups}
    for group in report.groups:
        for metric, estimate in group.metrics.items():
            old = groups.get(group.name, {}).get(metric)
            if old is not None:
                noise = _noise(old.interval, estimate.interval)
                found.append(Move(metric, group.name, old.value, estimate.value, noise))
    return found


def differing_examples(report: Report, baseline: Report) -> list[str]:
    """Example sets of `report` that the baseline had with other bytes, or not at all."""
    before = {one.name: one.source for one in baseline.plan.examples}
    return [one.name for one in report.plan.examples if before.get(one.name) != one.source]


def _noise(before: Interval, after: Interval) -> float:
    return math.hypot(before[1] - before[0], after[1] - after[0]) / 2
