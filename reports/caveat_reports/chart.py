"""Where marks go: values on a scale become percentages of a plot's width, so that a plot fits any page."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from math import floor, log10
from typing import Literal

from caveat_reports.formatting import plain, signed
from caveat_spec.base import Interval
from caveat_spec.results import Histogram

ROUND = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)
WIDTH = 1000
"""Units of a silhouette's width; its height is 100."""


@dataclass(frozen=True)
class Tick:
    """A mark on an axis; `anchor` keeps the outer labels inside the plot."""

    at: float
    label: str
    anchor: Literal["start", "middle", "end"]


@dataclass(frozen=True)
class Scale:
    """A range of values over the width of a plot."""

    low: float
    high: float

    def at(self, value: float) -> float:
        """Percentage of the width, held inside the plot."""
        return round(min(100.0, max(0.0, 100 * (value - self.low) / (self.high - self.low))), 2)

    def span(self, interval: Interval) -> Span:
        """An interval as a start and a width."""
        start, end = self.at(interval[0]), self.at(interval[1])
        return Span(start=start, end=end, width=round(end - start, 2))

    def holds(self, value: float) -> bool:
        """Whether the value is on the plot."""
        return self.low <= value <= self.high

    def ticks(self, steps: int) -> list[Tick]:
        """Even ticks from end to end, with signs where the scale has both."""
        words = signed if self.low < 0 else plain
        return [
            Tick(
                at=100 * i / steps,
                label=words(self.low + (self.high - self.low) * i / steps),
                anchor="start" if i == 0 else "end" if i == steps else "middle",
            )
            for i in range(steps + 1)
        ]


@dataclass(frozen=True)
class Span:
    """A stretch of a plot, in per cent of its width."""

    start: float
    end: float
    width: float


UNIT = Scale(0.0, 1.0)


def symmetric(values: Iterable[float]) -> Scale:
    """A scale with zero in its middle and a round number at its ends that holds every value."""
    largest = max((abs(value) for value in values), default=0.0)
    if largest == 0:
        return Scale(-1.0, 1.0)
    power = 10.0 ** floor(log10(largest))
    end = next((step * power for step in ROUND if largest <= step * power), 10 * power)
    return Scale(-end, end)


def silhouette(histogram: Histogram, scale: Scale, divided_by: float = 1.0) -> str:
    """A histogram as the path of its outline, bars as tall as they are dense, the densest 100 tall."""
    edges = [edge / divided_by for edge in histogram.edges]
    widths = [after - before for before, after in pairwise(edges)]
    density = [count / width if width > 0 else 0.0 for count, width in zip(histogram.counts, widths, strict=True)]
    tallest = max(density, default=0.0)
    if tallest == 0:
        return ""
    steps = [
        f"V{round(100 - 100 * height / tallest, 1):g}H{_x(edge, scale):g}"
        for height, edge in zip(density, edges[1:], strict=True)
    ]
    return f"M{_x(edges[0], scale):g} 100{''.join(steps)}V100Z"


def _x(value: float, scale: Scale) -> float:
    """Along the silhouette; far outside the plot stays outside, but not far."""
    return round(min(2.0, max(-1.0, (value - scale.low) / (scale.high - scale.low))) * WIDTH, 1)
