"""What more examples would do to an interval, and how many of them settle a line."""

from __future__ import annotations

import math
from statistics import NormalDist

from caveat_spec.audit import ConceptLine
from caveat_spec.results import Estimate

CERTAIN = 0.905
"""How sure advice has to be by its own arithmetic, so that it holds in nine of ten cases (docs/validation.md)."""
MOST_TIMES = 20
"""Advice to collect more than so many times the examples helps nobody."""
STEPS = 40
"""Numbers of examples that advice chooses from, equally far apart as ratios."""


def chances(found: Estimate, tolerance: float, times: float, alpha: float, later_alpha: float) -> tuple[float, float]:
    """The chances that, with `times` the examples, the whole interval lies inside the tolerance, and beyond it.

    What was found by `alpha` is itself uncertain: with `times` the examples, those there are included, it lies around
    what it is now with `1 − 1/times` of its present variance, and its interval, by `later_alpha`, is narrower.
    """
    z, later_z = (NormalDist().inv_cdf(1 - each / 2) for each in (alpha, later_alpha))
    error = (found.interval[1] - found.interval[0]) / 2 / z
    value, half = abs(found.value), later_z * error / math.sqrt(times)
    if error == 0 or times <= 1:
        return float(value + half <= tolerance), float(value - half > tolerance)
    later = NormalDist(value, error * math.sqrt(1 - 1 / times))
    within = max(0.0, later.cdf(tolerance - half) - later.cdf(half - tolerance))
    return within, 1 - later.cdf(tolerance + half) + later.cdf(-tolerance - half)


def times_to_settle(found: Estimate, line: ConceptLine, alpha: float, *, inside_only: bool = False) -> float:
    """How many times the examples, those there are included, settle a line in nine of ten cases; infinity beyond reach.

    Settled is a whole interval by `alpha` inside the tolerance or, unless `inside_only`, beyond it.
    """
    if found.interval[0] == found.interval[1]:
        return math.inf
    for step in range(1, STEPS + 1):
        times = MOST_TIMES ** (step / STEPS)
        within, outside = chances(found, line.tolerance, times, alpha, alpha)
        if within + (0 if inside_only else outside) >= CERTAIN:
            return float(times)
    return math.inf


def advice(times: float, what: str) -> str:
    """What to collect, as a clause; never what would not settle the line."""
    if math.isinf(times):
        return f"even {MOST_TIMES} times as many {what} would leave it open in more than one of ten audits"
    return f"with about {times:.1f} times as many {what}, nine of ten such audits are settled"
