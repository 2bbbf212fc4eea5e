"""Tables of rules: read from top to bottom, the first rule that applies gives the finding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
