"""How often effects of a known size are found, and how often any test that knew more could find them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from scipy.stats import binom, norm

from bench.validation.audits import ALPHA, STRICT, TOLERANCE, Outcome, audits, percent, rejected
from bench.validation.rates import POWER, WIDE
from bench.validation.simulation import World, standard_error

SHIFT = 3.0
EFFECTS = (0.0, TOLERANCE, 0.5, 1.0)
"""Simulated effects in standard deviations of the target; two of them are beyond the tolerance."""
SIZES = ((20, 40, 20), (40, 80, 40), (80, 160, 80))


@dataclass(frozen=True)
class Row:
    """One kind of audit: its estimator, its examples, and whether they are matched pairs."""

    estimator: str
    size: tuple[int, int, int]
    paired: bool = False

    def world(self, effect: float) -> World:
        """The simulation of an effect in sd."""
        concept, reference, target = self.size
        sized = replace(WIDE, n_concept=concept, n_reference=reference, n_target=target, paired=self.paired)
        return replace(sized, shift=SHIFT, slope=effect / SHIFT)


ROWS = (
    *(Row("mean_difference", size) for size in SIZES),
    Row("mean_difference", (40, 80, 40), paired=True),
    Row("logistic", (40, 80, 40)),
)

TEXT = """## Power

Made by `python -m bench.validation power`. {count} audits a row, wide layer: the concept lies 3 along a direction, and
the target's mean slope along it gives the effect. *p ≤ α* is how often the test of the effect finds it. *At most* is
how often a test at the same α could that knew the standard error of the effect, which no test does: the sets and
targets vary, and no test of these examples finds more. *Influential* asks for the whole interval beyond the tolerance
of {tolerance} or {strict} sd, *at most* likewise. *Wrong* counts effects up to {tolerance} sd called influential at
that tolerance, and larger ones called not influential; inconclusive is not wrong. *Covered* is how often the 95 %
interval holds the truth. Rows of one estimator and size share their draws.

| estimator | concept / reference / target | effect (sd) | p ≤ α | at most | influential at {tolerance} | at most | at {strict} | at most | not influential at {tolerance} | wrong | covered |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
{rows}

The target examples are what limits the power: slopes along the concept differ from one to the next (by 0.9 sd over the
step, in this simulation), and {share:.0%} of the variance of an effect from 40 / 80 / 40 examples is theirs. Matched
pairs take away what is left.
"""  # noqa: E501


def power(quick: bool) -> tuple[str, bool]:
    """The test's and the gate's findings for effects of known size; holds where no row is wrong too often."""
    count = 20 if quick else 500
    lines, holds = [], True
    for row in ROWS:
        for effect in EFFECTS:
            outcomes = audits(row.world(effect), replace(POWER, estimator=row.estimator), count)
            wrong = sum(map(_wrong, outcomes))
            holds &= wrong <= binom.ppf(0.975, count, ALPHA)
            lines.append(_line(row, effect, outcomes, wrong))
    usual = Row("mean_difference", (40, 80, 40)).world(0.5)
    share = 1 - (standard_error(replace(usual, n_target=10**9)) / standard_error(usual)) ** 2
    text = TEXT.format(count=count, rows="\n".join(lines), tolerance=TOLERANCE, strict=STRICT, share=share)
    return text, holds


def _wrong(outcome: Outcome) -> bool:
    """The finding that the truth excludes."""
    excluded = "influential" if abs(outcome.truth) <= TOLERANCE else "not_influential"
    return outcome.finding == excluded


def _line(row: Row, effect: float, outcomes: Sequence[Outcome], wrong: int) -> str:
    found = Counter(outcome.finding for outcome in outcomes)
    strict = sum(outcome.strict == "influential" for outcome in outcomes)
    covered = sum(outcome.interval[0] <= outcome.truth <= outcome.interval[1] for outcome in outcomes)
    error, count = standard_error(row.world(effect)), len(outcomes)
    by_test = [
        (rejected(outcomes, "p_effect"), _at_most(effect, 0.0, error)),
        (found["influential"], _at_most(effect, TOLERANCE, error)),
        (strict, _at_most(effect, STRICT, error)),
    ]
    shares = " | ".join(f"{number / count:.0%} | {bound:.0%}" for number, bound in by_test)
    name = f"{row.estimator}, paired" if row.paired else row.estimator
    sizes = " / ".join(map(str, row.size))
    rest = percent([found["not_influential"], wrong, covered], count, 0)
    return f"| {name} | {sizes} | {effect} | {shares} | {rest} |"


def _at_most(effect: float, tolerance: float, error: float) -> float:
    """How often an estimate of this standard error lies beyond the tolerance by a two-sided interval."""
    reach = tolerance + float(norm.ppf(1 - ALPHA / 2)) * error
    return float(norm.sf((reach - effect) / error) + norm.cdf((-reach - effect) / error))
