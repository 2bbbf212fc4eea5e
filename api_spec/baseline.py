"""What moved between two reports, and whether the move is beyond noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, stdev

from api_spec.base import Interval
from api_spec.report import Intervention, Report, Row


@dataclass(frozen=True)
class Move:
    """One figure in both reports; `noise` is half the width of an interval around their difference.

    Where both reports looked at the same examples, each example is compared with itself; what concept and pool add to
    the noise is taken as independent, which it is not, so that the interval is too wide rather than too narrow.
    """

    kind: str
    """`effect`, `intervention` or a group metric."""
    subject: str
    before: float
    after: float
    noise: float

    @property
    def beyond_noise(self) -> bool:
        """Whether the figures differ by more than that."""
        return abs(self.after - self.before) > self.noise

    @property
    def growth(self) -> float:
        """How much farther from 0 the figure is."""
        return abs(self.after) - abs(self.before)


def moves(report: Report, baseline: Report) -> list[Move]:
    """Every figure that both reports have, in the order of `report`: effects and interventions in sd, group metrics."""
    found = []
    paired = not differing_examples(report, baseline)
    rows = {(row.concept, row.layer, row.target): row for row in baseline.rows}
    for row in report.rows:
        old = rows.get((row.concept, row.layer, row.target))
        if old is not None:
            subject = f"{row.concept} → {row.target} at {row.layer}"
            noise = _noise_of_effects(old, row, report.audit.method.alpha, paired)
            found.append(Move("effect", subject, old.effect.in_sd, row.effect.in_sd, noise))
    measured = {(one.concept, one.target): one for one in baseline.interventions}
    for now in report.interventions:
        then = measured.get((now.concept, now.target))
        if then is not None:
            noise = _noise_of_changes(then, now, report.audit.method.alpha, paired)
            subject = f"{now.concept} → {now.target}"
            found.append(Move("intervention", subject, then.change_in_sd, now.change_in_sd, noise))
    groups = {group.name: group.metrics for group in baseline.groups}
    for group in report.groups:
        for metric, estimate in group.metrics.items():
            rate = groups.get(group.name, {}).get(metric)
            if rate is not None:
                noise = _noise(rate.interval, estimate.interval)
                found.append(Move(metric, group.name, rate.value, estimate.value, noise))
    return found


def differing_examples(report: Report, baseline: Report) -> list[str]:
    """Example sets of `report` that the baseline had with other bytes, or not at all."""
    before = {one.name: one.source for one in baseline.plan.examples}
    return [one.name for one in report.plan.examples if before.get(one.name) != one.source]


def _noise_of_effects(before: Row, after: Row, alpha: float, paired: bool) -> float:
    """Effects in sd: target examples in pairs, concept and pool as independent."""
    shares = before.effect.target_share, after.effect.target_share
    halves = [_half(row.effect.interval_in_sd) for row in (before, after)]
    then, now = (_in_sd(row.sensitivities, row.effect.value, row.effect.in_sd) for row in (before, after))
    if not paired or shares[0] is None or shares[1] is None or not 2 <= len(then) == len(now):
        return math.hypot(*halves)
    rest = halves[0] * math.sqrt(1 - shares[0]), halves[1] * math.sqrt(1 - shares[1])
    return math.hypot(*rest, _half_of_difference(then, now, alpha))


def _noise_of_changes(before: Intervention, after: Intervention, alpha: float, paired: bool) -> float:
    """Measured changes in sd, each pair of examples compared with itself."""
    then, now = (_in_sd(one.changes, one.change, one.change_in_sd) for one in (before, after))
    if not paired or not 2 <= len(then) == len(now):
        return _noise(before.interval_in_sd, after.interval_in_sd)
    return _half_of_difference(then, now, alpha)


def _in_sd(values: Sequence[float], mean: float, mean_in_sd: float) -> list[float]:
    """Figures of single examples on the scale on which their mean is `mean_in_sd`; none where that scale is lost."""
    return [value * mean_in_sd / mean for value in values] if mean else []


def _half_of_difference(before: Sequence[float], after: Sequence[float], alpha: float) -> float:
    """Half of a normal interval for the mean of paired differences."""
    differences = [new - old for old, new in zip(before, after, strict=True)]
    return NormalDist().inv_cdf(1 - alpha / 2) * stdev(differences) / math.sqrt(len(differences))


def _half(interval: Interval) -> float:
    return (interval[1] - interval[0]) / 2


def _noise(before: Interval, after: Interval) -> float:
    return math.hypot(_half(before), _half(after))
