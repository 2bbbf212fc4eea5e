"""Coverage of the intervals of a mean change, in the target's unit and in sd, also where the target has heavy tails."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor

import numpy as np
from scipy.stats import norm

from caveat_worker.engine.base.arrays import Float64Array
from caveat_worker.engine.statistics.intervals import mean_interval, scaled_mean_interval

Draw = Callable[[np.random.Generator, int], Float64Array]
TARGETS: Mapping[str, Draw] = {
    "normal": lambda rng, n: rng.normal(size=n),
    "Student's t": lambda rng, n: rng.standard_t(4 + 6 / 23, size=n),
    "mixture": lambda rng, n: rng.normal(size=n) * np.where(rng.random(n) < 0.03, 5.713, 1.0),
    "lognormal": lambda rng, n: rng.lognormal(sigma=0.7459, size=n),
}
"""Distributions of a target's values; all but the first have a kurtosis of 26."""
SIZES = (60, 200, 500)
ALPHA = 0.05
RESAMPLES = 299
LOW, HIGH = 0.92, 0.985
"""Within these a rate of 95 % is taken to hold: two standard errors of it, and half a percentage point."""

TEXT = """### Coverage of a measured change

{count} draws a row, in which a concept changes the target of the same examples by a third of its scale, the same for
all but for a tenth of that. All distributions of the target's values but the normal one have a kurtosis of 26. *In sd,
before* divides by the sample's standard deviation as if it were known; *resampled* takes that anew in every resample;
*middle 70 %*, which reports give, takes the standard deviation from the middle 70 % of the values. *Accused* is how
often the whole interval lies beyond a tolerance that equals the true change, which the gate would call influential.

| target | examples | in its unit | in sd, before | resampled | middle 70 % | accused | holds |
| --- | --- | --- | --- | --- | --- | --- | --- |
{rows}

"""


def coverage(count: int) -> tuple[str, bool]:
    """How often each interval holds the truth; whether those that reports give do in 95 % of draws."""
    cases = [(name, n, count) for name in TARGETS for n in SIZES]
    with ProcessPoolExecutor() as executor:
        found = list(executor.map(_rates, cases))
    rows, everything = [], True
    for (name, n, _), (unit, before, again, middle, accused) in zip(cases, found, strict=True):
        holds = min(unit, middle) >= LOW and middle <= HIGH and accused <= ALPHA
        everything &= holds
        shares = " | ".join(f"{share:.1%}" for share in (unit, before, again, middle, accused))
        rows.append(f"| {name} | {n} | {shares} | {'yes' if holds else '**no**'} |")
    return TEXT.format(count=count, rows="\n".join(rows)), everything


def _rates(case: tuple[str, int, int]) -> tuple[float, ...]:
    """Shares of draws whose interval holds the truth: in the unit, by three scales; and that of accusations."""
    name, n, count = case
    rng = np.random.default_rng([n, *name.encode()])
    many = TARGETS[name](rng, 1_000_000)
    usual, middle = float(many.std()), _middle(many)
    change, held = middle / 3, np.zeros((count, 5))
    for row in held:
        values = TARGETS[name](rng, n)
        changes = change * (1 + 0.1 * rng.normal(size=n))
        low, high = mean_interval(changes, ALPHA)
        sd = float(values.std(ddof=1))
        again = _by_resampled_sd(changes, values, rng)
        ends = scaled_mean_interval(changes, values, ALPHA, RESAMPLES, rng, together=True)
        row[:] = (
            low <= change <= high,
            low / sd <= change / usual <= high / sd,
            again[0] <= change / usual <= again[1],
            ends[0] <= change / middle <= ends[1],
            ends[0] > change / middle,
        )
    return tuple(held.mean(0).tolist())


def _middle(values: Float64Array) -> float:
    low, high = np.quantile(values, [0.15, 0.85])
    return float(high - low) / float(norm.ppf(0.85) - norm.ppf(0.15))


def _by_resampled_sd(changes: Float64Array, values: Float64Array, rng: np.random.Generator) -> tuple[float, float]:
    drawn = rng.integers(0, len(values), size=(RESAMPLES, len(values)))
    ratios = changes[drawn].mean(1) / values[drawn].std(1, ddof=1)
    low, high = np.quantile(ratios, [ALPHA / 2, 1 - ALPHA / 2])
    return float(low), float(high)
