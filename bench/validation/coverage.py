"""Coverage of every interval that a report prints, in the target's unit and in sd, with heavy tails too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import numpy as np
from scipy.stats import norm

from bench.validation.audits import ALPHA, DRAWS
from bench.validation.simulation import World, draw
from caveat_spec.audit import Method
from caveat_worker.engine.activations.gram import gram, products
from caveat_worker.engine.base.arrays import Float64Array
from caveat_worker.engine.concepts.concept_test import run_concept_test
from caveat_worker.engine.concepts.fit_problem import ConceptData, Settings, TargetData
from caveat_worker.engine.concepts.output_gap import output_gap
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
RESAMPLES = Method().bootstrap
TAILS = ("normal", "mixture")
"""The targets of the other intervals: normal, and of kurtosis 26."""
LOW, HIGH = 0.93, 0.97
"""Within these a rate of 95 % is taken to hold; a thousand draws of it lie outside in one study of 330."""

TEXT = """### A measured change, and a finite step

{count} draws a row, in which a concept changes the target of the same examples by a third of its scale, the same for
all but for a tenth of that. All distributions of the target's values but the normal one have a kurtosis of 26. *In sd,
before* divides by the sample's standard deviation as if it were known; *resampled* takes that anew in every resample;
*middle 70 %*, which reports give, takes the standard deviation from the middle 70 % of the values. *Accused* is how
often the whole interval lies beyond a tolerance that equals the true change, which the gate would call influential.

| target | examples | in its unit | in sd, before | resampled | middle 70 % | accused | holds |
| --- | --- | --- | --- | --- | --- | --- | --- |
{rows}

"""


OTHERS = """### Effect, output gap and score

{count} draws a row, of as many concept, reference and target examples as the table says. The layer has {d} features.
Along the concept, the gradients of the *mixture* have a kurtosis of 26, as its target has. The effect is the same third
of the target's scale. The score's truth is the share of all examples whose gradient is positive along the concept.

| target | examples | effect, in its unit | in sd | output gap, in its unit | in sd | score | holds |
| --- | --- | --- | --- | --- | --- | --- | --- |
{rows}

The score's interval does not count for *holds*: its CAV is learned from examples, and of another CAV another share
is positive.

"""


def intervals(quick: bool) -> tuple[str, bool]:
    """The coverage of every interval; holds where those that decide cover as often as they say."""
    parts = [coverage(40 if quick else 2000), others(20 if quick else 1000), wide(20 if quick else 1000)]
    return HEAD + "".join(text for text, _ in parts), all(holds for _, holds in parts)


HEAD = """## Coverage of intervals

Made by `python -m bench.validation intervals`: how often a nominal 95 % interval holds the truth.
A row holds where each of its intervals does in 93 to 97 % of the draws.

"""


def others(count: int) -> tuple[str, bool]:
    """How often the intervals of effects, output gaps and scores hold the truth."""
    cases = [(name, n, count) for name in TAILS for n in SIZES]
    with ProcessPoolExecutor() as executor:
        found = list(executor.map(_rates_of_others, cases))
    rows, everything = [], True
    for (name, n, _), shares in zip(cases, found, strict=True):
        holds = all(LOW <= share <= HIGH for share in shares[:-1])
        everything &= holds
        shown = " | ".join(f"{share:.1%}" for share in shares)
        rows.append(f"| {name} | {n} | {shown} | {'yes' if holds else '**no**'} |")
    return OTHERS.format(count=count, d=FEATURES, rows="\n".join(rows)), everything


WIDE_LAYER = """### An effect at a layer with more features than examples

{count} draws a row of the simulation that the rates use, with an effect of 0.5 sd. *Below* and *above* are how often
the truth lies below the interval and above it.

| estimator | concept / reference / target | covered | below | above | holds |
| --- | --- | --- | --- | --- | --- |
{rows}

"""
EFFECT, SHIFT = 0.5, 3.0
"""In sd, and how far the concept lies along its direction."""


def wide(count: int) -> tuple[str, bool]:
    """How often the effect's interval holds the truth where there are more features than examples."""
    cases = [
        ("mean_difference", (20, 40, 20), count),
        ("mean_difference", (40, 80, 40), count),
        ("mean_difference", (80, 160, 80), count),
        ("logistic", (40, 80, 40), count),
    ]
    with ProcessPoolExecutor() as executor:
        found = list(executor.map(_rates_of_wide, cases))
    rows, everything = [], True
    for (estimator, size, _), (below, above) in zip(cases, found, strict=True):
        covered = 1 - below - above
        holds = LOW <= covered <= HIGH
        everything &= holds
        rows.append(
            f"| {estimator} | {' / '.join(map(str, size))} | {covered:.1%} | {below:.1%} | {above:.1%} "
            f"| {'yes' if holds else '**no**'} |"
        )
    return WIDE_LAYER.format(count=count, rows="\n".join(rows)), everything


def _rates_of_wide(case: tuple[str, tuple[int, int, int], int]) -> tuple[float, float]:
    """Shares of draws whose truth lies below the interval, and above it."""
    estimator, size, count = case
    sized = World(*size, d=2000, decay=0.5, shift=SHIFT, slope=EFFECT / SHIFT)
    missed = np.zeros((count, 2))
    for seed, row in enumerate(missed):
        rng = np.random.default_rng([DRAWS, 3, seed])
        data, target = draw(sized, rng)
        found = run_concept_test(data, [target], replace(SETTINGS, estimator=estimator), rng).figures[0]
        low, high = found.effect.interval
        row[:] = low > EFFECT, high < EFFECT
    below, above = missed.mean(0).tolist()
    return below, above


FEATURES, STEP = 10, 2.0
"""Of the layer, and how far the concept lies along its first."""
SETTINGS = Settings(cross_check=None, runs=2, permutations=19, bootstrap=RESAMPLES, alpha=ALPHA, folds=2)


def _rates_of_others(case: tuple[str, int, int]) -> tuple[float, ...]:
    """Shares of draws whose intervals hold the truth: the effect's, the output gap's, each in sd too, the score's."""
    name, n, count = case
    rng = np.random.default_rng([n, DRAWS, 2, *name.encode()])
    many = TARGETS[name](rng, 1_000_000)
    middle, spread = _middle(many), float(many.std())
    effect = middle / 3
    slope = effect / STEP
    positive = float((slope * (1 + many / spread) + NOISE * rng.normal(size=len(many)) > 0).mean())
    held = np.zeros((count, 5))
    for row in held:
        data, target = _layer(name, n, slope, spread, rng)
        found = run_concept_test(data, [target], SETTINGS, rng).figures[0]
        concept, reference = effect + TARGETS[name](rng, n), TARGETS[name](rng, n)
        gap = output_gap(concept, reference, target.values, SETTINGS, rng)
        assert found.score is not None
        ends = (found.effect.interval, found.effect.interval_in_sd, gap.interval, gap.interval_in_sd)
        truths = (effect, effect / middle, effect, effect / middle)
        held_now = [low <= truth <= high for (low, high), truth in zip(ends, truths, strict=True)]
        row[:] = (*held_now, found.score.interval[0] <= positive <= found.score.interval[1])
    return tuple(held.mean(0).tolist())


NOISE = 0.2
"""Standard deviation of gradients in each direction, besides what they have along the concept."""


def _layer(name: str, n: int, slope: float, spread: float, rng: np.random.Generator) -> tuple[ConceptData, TargetData]:
    """A concept along the first feature, and gradients whose part along it varies as the target does."""
    x = rng.normal(size=(2 * n, FEATURES))
    x[:n, 0] += STEP
    gradients = NOISE * rng.normal(size=(n, FEATURES))
    gradients[:, 0] += slope * (1 + TARGETS[name](rng, n) / spread)
    data = ConceptData(gram(x), np.arange(n), np.arange(n, 2 * n))
    return data, TargetData(products(gradients, x), TARGETS[name](rng, n))


def coverage(count: int) -> tuple[str, bool]:
    """How often each interval holds the truth; whether those that reports give do in 95 % of draws."""
    cases = [(name, n, count) for name in TARGETS for n in SIZES]
    with ProcessPoolExecutor() as executor:
        found = list(executor.map(_rates, cases))
    rows, everything = [], True
    for (name, n, _), (unit, before, again, middle, accused) in zip(cases, found, strict=True):
        holds = min(unit, middle) >= LOW and max(unit, middle) <= HIGH and accused <= ALPHA
        everything &= holds
        shares = " | ".join(f"{share:.1%}" for share in (unit, before, again, middle, accused))
        rows.append(f"| {name} | {n} | {shares} | {'yes' if holds else '**no**'} |")
    return TEXT.format(count=count, rows="\n".join(rows)), everything


def _rates(case: tuple[str, int, int]) -> tuple[float, ...]:
    """Shares of draws whose interval holds the truth: in the unit, by three scales; and that of accusations."""
    name, n, count = case
    rng = np.random.default_rng([n, DRAWS, *name.encode()])
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
