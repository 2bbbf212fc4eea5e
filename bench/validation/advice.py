"""How often a line that follows its advice is settled: the examples that it names are collected, and asked again."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bench.validation.audits import ALPHA, DRAWS, TOLERANCE
from caveat_spec.audit import ConceptLine
from caveat_spec.results import Estimate
from caveat_spec.verdict.more_examples import MOST_TIMES, times_to_settle
from caveat_spec.verdict.rules import exceeds, inside
from caveat_worker.engine.statistics.intervals import mean_interval

LINE = ConceptLine(concept="concept", target="target", must="not_matter", tolerance=TOLERANCE)
PAIRS = (40, 100, 300)
SPREADS = (0.3, 1.6)
"""Changes differ by between so many standard deviations of the target from one pair to the next."""
LEAST = 0.9
Rule = Callable[[float, tuple[float, float]], float]
"""How many times the examples a change and its interval ask for."""

TEXT = """## Advice

Made by `python -m bench.validation advice`. {count} measured changes a row, of a true size between 0 and
{most} sd, where single changes are {low} to {high} sd apart, at a tolerance of {tolerance}. A line that is open says
how many times the pairs would settle it, or that even {times} times would not. The advice is followed: pairs are added,
and the line is asked again. *Before*, advice took the measured change for the true one.

| pairs | open | advised | median times | settled | before: advised | settled | holds |
| --- | --- | --- | --- | --- | --- | --- | --- |
{rows}
"""


@dataclass(frozen=True)
class Followed:
    """What came of one open line."""

    times: float
    settled: bool


def advice(quick: bool) -> tuple[str, bool]:
    """The share of open lines that are settled once their advice is followed; holds at nine of ten."""
    count, rows, everything = 1000 if quick else 20_000, [], True
    for pairs in PAIRS:
        now, before = (_followed(pairs, count, rule) for rule in (_now, _before))
        advised, advised_before = ([one for one in each if math.isfinite(one.times)] for each in (now, before))
        holds = _settled(advised) >= LEAST - 1.96 * (LEAST * (1 - LEAST) / max(1, len(advised))) ** 0.5
        everything &= holds
        median = float(np.median([one.times for one in advised])) if advised else math.nan
        rows.append(
            f"| {pairs} | {len(now)} | {len(advised) / len(now):.0%} | {median:.1f} | {_settled(advised):.0%} "
            f"| {len(advised_before) / len(now):.0%} | {_settled(advised_before):.0%} "
            f"| {'yes' if holds else '**no**'} |"
        )
    text = TEXT.format(
        count=count,
        most=f"{3 * TOLERANCE:g}",
        low=SPREADS[0],
        high=SPREADS[1],
        tolerance=TOLERANCE,
        times=MOST_TIMES,
        rows="\n".join(rows),
    )
    return text, everything


def _followed(pairs: int, count: int, rule: Rule) -> list[Followed]:
    """Every line that is open at first, and what its advice came to; the same draws for every rule."""
    rng, found = np.random.default_rng([DRAWS, pairs]), []
    for _ in range(count):
        change, spread = rng.uniform(0, 3 * TOLERANCE), rng.uniform(*SPREADS)
        changes = change + spread * rng.normal(size=pairs * MOST_TIMES)
        first = changes[:pairs]
        interval = mean_interval(first, ALPHA)
        if _settles(interval):
            continue
        times = rule(float(first.mean()), interval)
        more = changes[: math.ceil(times * pairs)] if math.isfinite(times) else first
        found.append(Followed(times, _settles(mean_interval(more, ALPHA))))
    return found


def _settles(interval: tuple[float, float]) -> bool:
    return inside(interval, LINE) or exceeds(interval, LINE)


def _now(value: float, interval: tuple[float, float]) -> float:
    return times_to_settle(Estimate(value=value, interval=interval), LINE, ALPHA)


def _before(value: float, interval: tuple[float, float]) -> float:
    """3.24 standard errors between the measured change and the tolerance, in place of those that there are."""
    room = abs(TOLERANCE - abs(value))
    times = max(1.0, ((interval[1] - interval[0]) / 2 * 1.654 / room) ** 2)
    return times if times <= 10 else math.inf


def _settled(followed: Sequence[Followed]) -> float:
    return sum(one.settled for one in followed) / len(followed) if followed else math.nan
