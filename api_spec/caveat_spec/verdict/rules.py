"""Tables of rules: read from top to bottom, the first rule that applies gives the finding."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Generic, TypeVar

from caveat_spec.audit import SHARES, ConceptLine, Unit
from caveat_spec.base import Interval
from caveat_spec.report import Finding
from caveat_spec.results import Change, Effect, Estimate

Facts = TypeVar("Facts")


@dataclass(frozen=True)
class Conclusion:
    """A finding with its reason, a clause; `sign` is the direction of an influence."""

    finding: Finding
    reason: str
    sign: int = 0


@dataclass(frozen=True)
class Rule(Generic[Facts]):
    """One row of a table: when it applies, what follows, and why, as a clause."""

    name: str
    applies: Callable[[Facts], object]
    finding: Finding
    reason: Callable[[Facts], str]


def first_rule(rules: Sequence[Rule[Facts]], facts: Facts) -> Rule[Facts]:
    """The first rule of a table that applies; every table ends with one that always does."""
    return next(rule for rule in rules if rule.applies(facts))


def conclude(rules: Sequence[Rule[Facts]], facts: Facts, sign: int = 0) -> Conclusion:
    """The conclusion that a table comes to; `sign` is the direction of an influence, if it finds one."""
    rule = first_rule(rules, facts)
    return Conclusion(rule.finding, rule.reason(facts), sign if rule.finding == "influential" else 0)


def always(_: object) -> bool:
    """The condition of a table's last rule."""
    return True


def inside(interval: Interval, line: ConceptLine) -> bool:
    """Whether a whole interval lies inside the line's tolerance."""
    return -line.tolerance <= interval[0] and interval[1] <= line.tolerance


def exceeds(interval: Interval, line: ConceptLine) -> bool:
    """Whether a whole interval lies beyond the line's tolerance, on one side of it."""
    return interval[0] > line.tolerance or interval[1] < -line.tolerance


def in_unit(figure: Effect | Change, line: ConceptLine) -> Estimate | None:
    """A figure and its interval in the line's unit; None where it was not measured in it."""
    match line.unit:
        case "sd":
            return Estimate(value=figure.in_sd, interval=figure.interval_in_sd)
        case "logit":
            return Estimate(value=figure.value, interval=figure.interval)
        case "probability":
            return figure.in_probability
        case "decisions":
            return figure.in_decisions


def size(value: float, line: ConceptLine, *, signed: bool = True) -> str:
    """A number in the line's unit: `+0.5 sd`, `+4.2 percentage points`, `12 % of decisions`."""
    return f"{_number(value, line, signed=signed)} {UNIT_WORDS.get(line.unit, line.unit)}"


def span(interval: Interval, line: ConceptLine) -> str:
    """An interval in the line's unit: `+0.4 to +0.6 sd`."""
    low, high = (_number(end, line) for end in interval)
    return f"{low} to {high} {UNIT_WORDS.get(line.unit, line.unit)}"


UNIT_WORDS: dict[Unit, str] = {"probability": "percentage points", "decisions": "% of decisions"}
"""Units that are shown in words."""


def _number(value: float, line: ConceptLine, *, signed: bool = True) -> str:
    sign = "+" if signed and line.unit != "decisions" else ""
    return f"{100 * value if line.unit in SHARES else value:{sign}.3g}"


def unmeasured(line: ConceptLine) -> str:
    """That a figure does not exist in the line's unit, as a clause."""
    what = "probability" if line.unit == "probability" else "decision"
    return f"the report has no change in {line.unit} of {line.target}, which gives no {what} here"


CERTAIN = 0.905
"""How sure advice has to be by its own arithmetic, so that it holds in nine of ten cases (docs/validation.md)."""
MOST_TIMES = 20
"""Advice to collect more than so many times the examples helps nobody."""
STEPS = 40
"""Numbers of examples that advice chooses from, equally far apart as ratios."""


def times_to_settle(value: float, interval: Interval, line: ConceptLine, *, inside_only: bool = False) -> float:
    """How many times the examples, those there are included, settle a line in nine of ten cases; infinity beyond reach.

    What was found is itself uncertain: with `t` times the examples the figure will lie around it with `1 − 1/t` of its
    present variance, and the interval will be `√t` times narrower. Settled is a whole interval inside the tolerance
    or, unless `inside_only`, beyond it.
    """
    half, found = (interval[1] - interval[0]) / 2, abs(value)
    error = half / NormalDist().inv_cdf(0.975)
    if error == 0:
        return math.inf
    for step in range(1, STEPS + 1):
        times = MOST_TIMES ** (step / STEPS)
        later = NormalDist(found, error * math.sqrt(1 - 1 / times))
        inner, outer = line.tolerance - half / math.sqrt(times), line.tolerance + half / math.sqrt(times)
        settled = max(0.0, later.cdf(inner) - later.cdf(-inner))
        settled += 0 if inside_only else 1 - later.cdf(outer) + later.cdf(-outer)
        if settled >= CERTAIN:
            return float(times)
    return math.inf


def advice(times: float, what: str) -> str:
    """What to collect, as a clause; never what would not settle the line."""
    if math.isinf(times):
        return f"even {MOST_TIMES} times as many {what} would leave it open in more than one of ten audits"
    return f"with about {times:.1f} times as many {what}, nine of ten such audits are settled"
