"""The difference between two reports, figure by figure, and whether it exceeds the noise."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist, stdev

from caveat_spec.base import Interval
from caveat_spec.report import Report
from caveat_spec.results import ConceptTest, Evidence

KIND: dict[Evidence, str] = {"association": "effect", "intervention": "intervention"}


@dataclass(frozen=True)
class Difference:
    """One figure in both reports; `noise` is half the width of an interval around their difference.

    Where both reports looked at the same examples, each example is compared with itself; the noise of concept and
    reference is taken as independent, which it is not, so that the interval is too wide rather than too narrow.
    """

    kind: str
    """`effect`, `intervention` or a group metric."""
    subject: str
    before: float
    after: float
    noise: float
    concept: str | None = None
    target: str | None = None

    @property
    def beyond_noise(self) -> bool:
        """Whether the figures differ by more than the noise."""
        return abs(self.after - self.before) > self.noise

    @property
    def growth(self) -> float:
        """How much farther from 0 the figure is now."""
        return abs(self.after) - abs(self.before)


def diff(report: Report, baseline: Report) -> list[Difference]:
    """Every figure that both reports have, in the order of `report`: tests in sd, then group metrics."""
    return [*_tests(report, baseline), *_metrics(report, baseline)]


def differing_examples(report: Report, baseline: Report) -> list[str]:
    """Example sets of `report` that the baseline had with other bytes, or not at all."""
    before = {one.name: one.source for one in baseline.plan.examples}
    return [one.name for one in report.plan.examples if before.get(one.name) != one.source]


def _taken(report: Report) -> dict[str, list[str]]:
    """Target → its examples in the order of its figures, which a sequential audit takes in an order of its own."""
    return {one.target: one.examples for one in report.plan.targets}


def _tests(report: Report, baseline: Report) -> Iterator[Difference]:
    paired = not differing_examples(report, baseline) and _taken(report) == _taken(baseline)
    earlier = {_identity(test): test for test in baseline.tests}
    for now in report.tests:
        then = earlier.get(_identity(now))
        if then is not None:
            yield Difference(
                KIND[now.evidence],
                f"{now.concept} → {now.target}" + ("" if now.layer is None else f" at {now.layer}"),
                then.effect.in_sd,
                now.effect.in_sd,
                _noise_of_tests(then, now, report.alpha, paired),
                now.concept,
                now.target,
            )


def _identity(test: ConceptTest) -> tuple[str, str, str, str | None]:
    return test.method, test.concept, test.target, test.layer


def _metrics(report: Report, baseline: Report) -> Iterator[Difference]:
    earlier = {one.name: one.metrics for one in baseline.comparisons}
    for comparison in report.comparisons:
        for metric, estimate in comparison.metrics.items():
            rate = earlier.get(comparison.name, {}).get(metric)
            if rate is not None:
                noise = _noise(rate.interval, estimate.interval)
                yield Difference(metric, comparison.name, rate.value, estimate.value, noise)


def _noise_of_tests(before: ConceptTest, after: ConceptTest, alpha: float, paired: bool) -> float:
    """Half an interval for the difference of two effects in sd.

    Examples are compared with themselves as far as they widen the interval: all of it for an intervention, the share
    of the target examples for an association, whose concept and reference count as independent.
    """
    shares = [1.0 if test.evidence == "intervention" else test.effect.target_share for test in (before, after)]
    halves = [_half(test.effect.interval_in_sd) for test in (before, after)]
    then, now = (_in_sd(test.changes, test.effect.value, test.effect.in_sd) for test in (before, after))
    if not paired or shares[0] is None or shares[1] is None or not 2 <= len(then) == len(now):
        return math.hypot(*halves)
    rest = halves[0] * math.sqrt(1 - shares[0]), halves[1] * math.sqrt(1 - shares[1])
    return math.hypot(*rest, _half_of_difference(then, now, alpha))


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
