"""The test of a concept at a layer: score, effect, their nulls and intervals, and whether the layer encodes it.

The unit of the test is the *set* of concept examples. Published TCAV tests compare runs that share one concept set as
if they were independent, and reject 40 to 90 % of meaningless concepts; here a whole random set plays the concept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, stdtr

from worker.engine.cav import Cavs, fit_cavs
from worker.engine.errors import Refused
from worker.engine.flags import (
    Flag,
    flag_estimators,
    flag_examples,
    flag_gradient,
    flag_moves_alike,
    flag_negatives,
    flag_pool,
    flag_weak_cav,
)
from worker.engine.gram import Floats, Indices, centred
from worker.engine.intervals import percentile_interval
from worker.engine.resampling import (
    Sets,
    bootstrap_counts,
    bootstrap_sides,
    draw_size,
    fold_numbers,
    matched,
    pool_draws,
    random_sets,
    swapped_pairs,
)
from worker.engine.threads import on_one_thread

BATCH = 512
"""CAVs held at a time; always the same, so that draws do not depend on memory."""
TIE = 1e-7
"""Statistics closer than this share are equal: the same set, fitted twice, must not count as beyond itself."""
CAUTION = (
    "Do not act on this p-value: its runs share one set of concept examples, so they are not independent, and random "
    "concepts come out significant in 40 to 90 % of audits at a nominal 5 %."
)


@dataclass(frozen=True)
class Settings:
    """How a concept is tested; `api_spec.audit.Method` says what each setting means."""

    estimator: str = "logistic"
    cross_check: str | None = "mean_difference"
    runs: int = 500
    null_sets: int = 499
    bootstrap: int = 499
    alpha: float = 0.05
    folds: int = 5
    regularisation: float = 1.0
    min_examples: int = 20


@dataclass(frozen=True)
class ConceptData:
    """What a layer shows of a concept and its pool: inner products `k` [N, N] of any examples, and who is who."""

    k: Floats
    concept: Indices  # [n_c] rows of k
    pool: Indices  # [n_p] rows of k
    pairs: Indices | None = None
    """For each concept example, the position in `pool` of the same example without the concept."""
    targets: Indices | None = None
    """The target examples' rows of k, where it holds them; without them the pool is not compared with them."""


@dataclass(frozen=True)
class TargetData:
    """What a layer shows of a target: `gx` [m, N], gradients times activations, and `values` [m], the target itself."""

    gx: Floats
    values: Floats


@dataclass(frozen=True)
class Histogram:
    """How values are spread: `counts[i]` of them between `edges[i]` and `edges[i + 1]`."""

    edges: list[float]
    counts: list[int]


@dataclass(frozen=True)
class Null:
    """What the statistic does when the concept is just another random set."""

    kind: str
    sets: int
    mean: float
    sd: float
    histogram: Histogram


@dataclass(frozen=True)
class Score:
    """The TCAV score: the share of target examples with a positive sensitivity (Kim et al. 2018, equation 2)."""

    value: float
    interval: tuple[float, float]
    smoothed: float
    """The same with a sensitivity counted by how far it is beyond those to random sets: Φ(S / sd), not 0 or 1."""
    runs: int
    runs_mean: float
    runs_sd: float
    null: Null
    p: float


@dataclass(frozen=True)
class Effect:
    """The change of the target, to first order, when the layer moves one step from the pool to the concept."""

    value: float
    interval: tuple[float, float]
    in_sd: float
    interval_in_sd: tuple[float, float]
    per_concept_sd: float
    """Change of the target for one standard deviation of the pool along CAVs that it did not fit."""
    null: Null
    p: float


@dataclass(frozen=True)
class Accuracy:
    """Held-out balanced accuracy of the concept's classifier, against shuffled labels."""

    held_out: float
    shuffled_mean: float
    shuffled_high: float
    encoded: bool


@dataclass(frozen=True)
class CrossCheck:
    """The row by a second estimator, and the cosine between the two CAVs."""

    estimator: str
    score: float
    effect: float
    cosine: float


@dataclass(frozen=True)
class LegacyTTest:
    """The published t-test, and why not to act on it."""

    p: float
    caution: str = CAUTION


@dataclass(frozen=True)
class RowResult:
    """Everything about one concept at one layer for one target but the names, and the correction over all rows."""

    score: Score
    effect: Effect
    accuracy: Accuracy
    cross_check: CrossCheck | None
    legacy_t_test: LegacyTTest
    flags: list[Flag]
    n_concept: int
    n_pool: int
    n_target: int
    sensitivities: Floats = field(repr=False)
    """Each target example's own change for the step, in the target's unit [m]; their mean is the effect."""


@dataclass(frozen=True)
class Tested:
    """A concept at a layer: one row for each target, and its CAV as a combination of `concept + pool` examples."""

    rows: list[RowResult]
    accuracy: Accuracy
    alpha: Floats = field(repr=False)
    """[N] over the rows of `ConceptData.k`; zero but at the concept's and the pool's examples."""


@on_one_thread
def examine(data: ConceptData, targets: Sequence[TargetData], settings: Settings, rng: np.random.Generator) -> Tested:
    """The whole test of one concept at one layer, for all targets at once: the CAVs do not depend on the target.

    Raises Refused for sets that overlap or have fewer than two examples, a constant layer, an unknown estimator.
    """
    _check(data, targets)
    problem = _Problem(data, settings)
    gxs = [target.gx[:, problem.taken] for target in targets]
    gxs = [gx - gx.mean(1, keepdims=True) for gx in gxs]
    for_null, for_runs, for_bootstrap, for_folds, for_pool = rng.spawn(5)

    positives, negatives = problem.labels
    cav = problem.fit(positives, negatives)
    observed = [_measure(problem, gx, cav, positives, negatives) for gx in gxs]
    null = _measured(problem, gxs, problem.null_draws(settings.null_sets, for_null), settings.null_sets)
    runs = _measured(problem, gxs, problem.run_draws(settings.runs, for_runs), settings.runs)
    intervals = _bootstrap(problem, gxs, for_bootstrap)
    accuracy, spread = _held_out(problem, for_folds)
    other = None if settings.cross_check is None else problem.fit(positives, negatives, settings.cross_check)
    place = _pool_against_targets(problem, data, cav, for_pool)

    rows = []
    for number, (target, gx) in enumerate(zip(targets, gxs, strict=True)):
        seen, by_chance, by_run = observed[number], null[number], runs[number]
        value, score = float(seen.effects[0]), float(seen.scores[0])
        sensitivity = gx @ cav.alpha[0]  # [m]
        unit = _spread(target.values, value)
        effect_interval, score_interval = intervals[number]
        cross = None
        flags = flag_examples(problem.n_concept, problem.n_pool, len(gx), settings.min_examples)
        flags += flag_gradient(gx)
        flags += flag_weak_cav(accuracy.held_out, accuracy.shuffled_high, settings.alpha)
        if other is not None and settings.cross_check is not None:
            second = _measure(problem, gx, other, positives, negatives)
            cross = CrossCheck(
                settings.cross_check,
                float(second.scores[0]),
                float(second.effects[0]),
                float(np.clip(cav.alpha[0] @ problem.k @ other.alpha[0], -1, 1)),
            )
            names = (settings.estimator, settings.cross_check)
            chance = float(by_chance.effects.std())
            flags += flag_estimators(score, value, cross.score, cross.effect, chance, names)
        flags += flag_negatives(value, by_run.effects, draw_size(problem.n_concept, problem.n_pool))
        flags += flag_pool(*place) if place else []
        rows.append(
            RowResult(
                score=Score(
                    value=score,
                    interval=score_interval,
                    smoothed=_smoothed(sensitivity, by_chance),
                    runs=settings.runs,
                    runs_mean=float(by_run.scores.mean()),
                    runs_sd=float(by_run.scores.std(ddof=1)),
                    null=_summary(problem.null_kind, by_chance.scores, (0.0, 1.0)),
                    p=exceedance_p(score - 0.5, by_chance.scores - 0.5),
                ),
                effect=Effect(
                    value=value,
                    interval=effect_interval,
                    in_sd=value / unit,
                    interval_in_sd=(effect_interval[0] / unit, effect_interval[1] / unit),
                    per_concept_sd=float(sensitivity.mean()) * spread,
                    null=_summary(problem.null_kind, by_chance.effects),
                    p=exceedance_p(value, by_chance.effects),
                ),
                accuracy=accuracy,
                cross_check=cross,
                legacy_t_test=LegacyTTest(legacy_t_test(by_run.scores, by_chance.scores)),
                flags=flags,
                n_concept=problem.n_concept,
                n_pool=problem.n_pool,
                n_target=len(gx),
                sensitivities=sensitivity * seen.gaps[0],
            )
        )
    alike = flag_moves_alike([row.effect.in_sd for row in rows], [row.effect.p for row in rows], settings.alpha)
    for row in rows:
        row.flags.extend(alike)
    alpha = np.zeros(len(data.k))
    alpha[problem.taken] = cav.alpha[0]
    return Tested(rows, accuracy, alpha)


def exceedance_p(observed: float, null: Floats) -> float:
    """(1 + #{|Tₘ| ≥ |T|}) / (M + 1): exact where the observed set is exchangeable with the M drawn ones.

    Phipson and Smyth 2010: never zero, and never under its nominal size, for any M.
    """
    beyond = int((np.abs(null) >= abs(observed) * (1 - TIE)).sum())
    return (1 + beyond) / (len(null) + 1)


def tcav_score(sensitivities: ArrayLike) -> float:
    """The share of sensitivities over 0 (Kim et al. 2018, equation 2)."""
    return float((np.asarray(sensitivities) > 0).mean())


def legacy_t_test(scores: ArrayLike, random_scores: ArrayLike) -> float:
    """The p-value of the published t-test of a concept's scores against random ones; without any spread, 0 or 1."""
    first, second = np.asarray(scores, dtype=float), np.asarray(random_scores, dtype=float)
    n = len(first) + len(second)
    between = float(first.mean() - second.mean())
    pooled = (((first - first.mean()) ** 2).sum() + ((second - second.mean()) ** 2).sum()) / (n - 2)
    error = math.sqrt(pooled * (1 / len(first) + 1 / len(second)))
    if error == 0:
        return float(between == 0)
    return float(2 * stdtr(n - 2, -abs(between) / error))


class _Problem:
    """A concept and its pool as n examples, the concept's first, with their centred Gram matrix."""

    def __init__(self, data: ConceptData, settings: Settings) -> None:
        self.n_concept, self.n_pool = len(data.concept), len(data.pool)
        self.n = self.n_concept + self.n_pool
        self.taken = np.concatenate([data.concept, data.pool])
        self.k = centred(np.asarray(data.k, dtype=float)[np.ix_(self.taken, self.taken)])
        self.partners = None if data.pairs is None else np.asarray(data.pairs, dtype=np.intp) + self.n_concept
        self.settings = settings
        self.null_kind = "random_sets" if self.partners is None else "swapped_pairs"
        concept = np.arange(self.n) < self.n_concept
        self.labels = concept[None], ~concept[None]

    def fit(self, positives: NDArray[np.generic], negatives: NDArray[np.generic], estimator: str | None = None) -> Cavs:
        return fit_cavs(
            self.k, positives, negatives, estimator or self.settings.estimator, self.settings.regularisation
        )

    def null_sets(self, count: int, rng: np.random.Generator) -> Sets:
        """Sets that could have been the concept, were its label meaningless."""
        if self.partners is None:
            return random_sets(self.n, self.n_concept, count, rng)
        return swapped_pairs(self.n, self.partners, count, rng)

    def null_draws(self, count: int, rng: np.random.Generator) -> Iterator[tuple[Sets, Sets]]:
        """Each null set against all the rest."""
        for size in _batches(count):
            sets = self.null_sets(size, rng)
            yield sets, ~sets

    def run_draws(self, count: int, rng: np.random.Generator) -> Iterator[tuple[Sets, Sets]]:
        """The concept against random draws from the pool."""
        for size in _batches(count):
            yield np.repeat(self.labels[0], size, axis=0), pool_draws(self.n_concept, self.n_pool, size, rng)


@dataclass(frozen=True)
class _Measured:
    """R CAVs against one target."""

    scores: Floats  # [R]
    effects: Floats  # [R]
    gaps: Floats  # [R] the step from negatives to positives, along the CAV
    spread: Floats  # [m] root mean square of each example's sensitivity over the CAVs


def _measure(
    problem: _Problem, gx: Floats, cavs: Cavs, positives: NDArray[np.generic], negatives: NDArray[np.generic]
) -> _Measured:
    """Score and effect of each CAV: `T = mean ∇h·v · (v·(μ⁺ − μ⁻))`."""
    sensitivity = cavs.alpha @ gx.T  # [R, m]
    gaps = _gaps(problem, cavs, positives, negatives)
    return _Measured((sensitivity > 0).mean(1), sensitivity.mean(1) * gaps, gaps, np.sqrt((sensitivity**2).mean(0)))


def _gaps(problem: _Problem, cavs: Cavs, positives: NDArray[np.generic], negatives: NDArray[np.generic]) -> Floats:
    """How far the positives' mean lies from the negatives' along each CAV [R]."""
    between = positives / positives.sum(1, keepdims=True) - negatives / negatives.sum(1, keepdims=True)
    gaps: Floats = np.vecdot(cavs.alpha @ problem.k, between)
    return gaps


def _measured(problem: _Problem, gxs: list[Floats], draws: Iterator[tuple[Sets, Sets]], count: int) -> list[_Measured]:
    """Every draw's CAV, fitted once and measured against every target."""
    parts: list[list[_Measured]] = [[] for _ in gxs]
    for positives, negatives in draws:
        cavs = problem.fit(positives, negatives)
        for number, gx in enumerate(gxs):
            parts[number].append(_measure(problem, gx, cavs, positives, negatives))
    return [
        _Measured(
            np.concatenate([part.scores for part in each]),
            np.concatenate([part.effects for part in each]),
            np.concatenate([part.gaps for part in each]),
            np.sqrt(sum(part.spread**2 * len(part.scores) for part in each) / count),
        )
        for each in parts
    ]


Bounds = tuple[float, float]


def _bootstrap(problem: _Problem, gxs: list[Floats], rng: np.random.Generator) -> list[tuple[Bounds, Bounds]]:
    """Intervals of effect and score for each target, over resamples of concept, pool and target examples together."""
    alpha = problem.settings.alpha
    effects: list[list[Floats]] = [[] for _ in gxs]
    scores: list[list[Floats]] = [[] for _ in gxs]
    for size in _batches(problem.settings.bootstrap):
        positives, negatives = bootstrap_sides(problem.n_concept, problem.n_pool, problem.partners, size, rng)
        cavs = problem.fit(positives, negatives)
        gaps = _gaps(problem, cavs, positives, negatives)
        for number, gx in enumerate(gxs):
            share = bootstrap_counts(len(gx), size, rng) / len(gx)  # [R, m]
            sensitivity = cavs.alpha @ gx.T
            effects[number].append(np.vecdot(sensitivity, share) * gaps)
            scores[number].append(np.vecdot((sensitivity > 0).astype(float), share))
    return [
        (
            percentile_interval(np.concatenate(effects[number]), alpha),
            percentile_interval(np.concatenate(scores[number]), alpha),
        )
        for number in range(len(gxs))
    ]


def _held_out(problem: _Problem, rng: np.random.Generator) -> tuple[Accuracy, float]:
    """Accuracy by k-fold against shuffled labels, and the pool's held-out standard deviation along the CAV.

    Each fold fits as many examples of either side, like the published runs: with sides of very different sizes the
    boundary of a classifier in many dimensions leans to the larger one, and held-out accuracy shows that, not the
    concept. A shuffle is a null set, so that the comparison is exact too.
    """
    alpha = problem.settings.alpha
    shuffles = shuffles_for(alpha)
    sets = np.vstack([problem.labels[0], problem.null_sets(shuffles, rng)])  # [1 + shuffles, n]
    folds = max(2, min(problem.settings.folds, problem.n_concept, problem.n_pool))
    numbers = fold_numbers(sets, folds, problem.partners, rng)
    right = np.zeros(sets.shape, dtype=bool)
    within = 0.0  # squared deviations of held-out pool examples along each fold's CAV
    for fold in range(folds):
        held = numbers == fold
        positives, negatives = matched(sets & ~held, ~sets & ~held, rng)
        cavs = problem.fit(positives, negatives)
        along = cavs.alpha @ problem.k  # [R, n]
        right |= held & ((along + cavs.intercept[:, None] > 0) == sets)
        pool = along[0, held[0] & ~sets[0]]
        within += float(((pool - pool.mean()) ** 2).sum()) if len(pool) else 0.0
    balanced = ((right & sets).sum(1) / sets.sum(1) + (right & ~sets).sum(1) / (~sets).sum(1)) / 2
    high = float(np.sort(balanced[1:])[math.ceil((1 - alpha) * (shuffles + 1)) - 1])
    accuracy = Accuracy(float(balanced[0]), float(balanced[1:].mean()), high, bool(balanced[0] > high))
    return accuracy, math.sqrt(within / max(1, problem.n_pool - folds))


def shuffles_for(alpha: float) -> int:
    """How many label shuffles place the (1 − alpha) quantile: five of them are expected beyond it."""
    return math.ceil(5 / alpha) - 1


def _pool_against_targets(
    problem: _Problem, data: ConceptData, cav: Cavs, rng: np.random.Generator
) -> tuple[float, float] | None:
    """Held-out accuracy between pool and targets, and where the targets lie from the pool (0) to the concept (1)."""
    if data.targets is None or problem.partners is not None or len(np.intersect1d(data.targets, data.pool)):
        return None
    both = ConceptData(data.k, np.asarray(data.targets), data.pool)
    other = _Problem(both, problem.settings)
    numbers = fold_numbers(
        other.labels[0], max(2, min(problem.settings.folds, len(data.targets), len(data.pool))), None, rng
    )
    right = np.zeros(other.n, dtype=bool)
    for fold in range(int(numbers.max()) + 1):
        held = numbers == fold
        positives, negatives = matched(other.labels[0] & ~held, other.labels[1] & ~held, rng)
        fitted = other.fit(positives, negatives)
        right |= (held & ((fitted.alpha @ other.k + fitted.intercept[:, None] > 0) == other.labels[0]))[0]
    inside = other.labels[0][0]
    accuracy = float((right[inside].mean() + right[~inside].mean()) / 2)
    along = cav.alpha[0] @ np.asarray(data.k)[problem.taken]  # [N]
    pool, concept = along[data.pool].mean(), along[data.concept].mean()
    place = (along[data.targets].mean() - pool) / (concept - pool) if concept != pool else 0.0
    return accuracy, float(place)


def _smoothed(sensitivity: Floats, null: _Measured) -> float:
    ratio = np.divide(sensitivity, null.spread, out=np.zeros_like(sensitivity), where=null.spread > 0)
    return float(ndtr(ratio).mean())


def _spread(values: Floats, effect: float) -> float:
    """The target's standard deviation over its examples; 1 where neither the target nor the effect is there at all."""
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    if spread > 0:
        return spread
    if effect == 0:
        return 1.0
    raise Refused(
        "target-constant",
        f"The target is {float(values[0]):.6g} at all {len(values)} of its examples, so an effect has no scale.",
        "Give the target examples that differ.",
    )


def _summary(kind: str, values: Floats, limits: tuple[float, float] | None = None) -> Null:
    counts, edges = np.histogram(values, bins=24, range=limits)
    return Null(
        kind,
        len(values),
        float(values.mean()),
        float(values.std(ddof=1)),
        Histogram(edges.tolist(), counts.tolist()),
    )


def _batches(count: int) -> Iterator[int]:
    return (min(BATCH, count - start) for start in range(0, count, BATCH))


def _check(data: ConceptData, targets: Sequence[TargetData]) -> None:
    if len(np.intersect1d(data.concept, data.pool)):
        shared = len(np.intersect1d(data.concept, data.pool))
        raise Refused(
            "concept-in-pool",
            f"{shared} examples are in both the concept and its pool.",
            "Take them out of one of the two.",
        )
    for name, index in (("concept", data.concept), ("pool", data.pool)):
        if len(index) < 2:
            raise Refused(
                "few-examples",
                f"The {name} has {len(index)} examples; a test needs at least 2.",
                "Give it more examples.",
            )
    if data.pairs is not None and (
        len(data.pairs) != len(data.concept) or len(np.unique(data.pairs)) != len(data.concept)
    ):
        raise Refused(
            "pairs-incomplete",
            f"Pairs name {len(np.unique(data.pairs))} pool examples for {len(data.concept)} concept examples.",
            "Pair each concept example with its own pool example, or leave the pairs out.",
        )
    for target in targets:
        if not len(target.values) or target.gx.shape != (len(target.values), len(data.k)):
            raise Refused(
                "layer-size-differs",
                f"Gradient products have the shape {target.gx.shape} for {len(target.values)} target values and "
                f"{len(data.k)} examples.",
                "Give one row for each target example and one column for each example of the Gram matrix.",
            )
