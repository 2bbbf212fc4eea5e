"""The test of a concept at a layer: score, effect, their nulls and intervals, and the flags that go with them.

The unit of the test is the *set* of concept examples. Published TCAV tests compare runs that share one concept set as
if they were independent, and reject 40 to 90 % of meaningless concepts; here a whole random set plays the concept.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr

from worker.engine.cav import Cavs
from worker.engine.chance import exceedance_p, legacy_t_test, normal_p
from worker.engine.encoding import Accuracy, apart, encoding, place_of_targets, pool_against_targets
from worker.engine.errors import Refused
from worker.engine.flags import (
    Flag,
    flag_estimators,
    flag_examples,
    flag_gradient,
    flag_kind,
    flag_moves_alike,
    flag_negatives,
    flag_pool,
    flag_weak_cav,
)
from worker.engine.gram import Floats
from worker.engine.intervals import percentile_interval
from worker.engine.problem import (
    ConceptData,
    Problem,
    Settings,
    TargetData,
    batches,
    fit,
    gaps,
    null_draws,
    problem_of,
    run_draws,
)
from worker.engine.resampling import Sets, bootstrap_counts, bootstrap_sides, draw_size
from worker.engine.threads import on_one_thread

__all__ = ["ConceptData", "RowResult", "Settings", "TargetData", "Tested", "examine", "tcav_score"]

CAUTION = (
    "Do not act on this p-value: its runs share one set of concept examples, so they are not independent, and random "
    "concepts come out significant in 40 to 90 % of audits at a nominal 5 %."
)


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
    """The larger of the next two: an effect must be beyond both doubts."""
    p_against_sets: float
    """Could a random set have done this? Exact."""
    p_against_zero: float
    """Could other examples have turned it around? The effect over its bootstrap standard deviation, as a normal."""
    target_share: float
    """How much of the interval's variance comes from the target examples; the rest from concept and pool."""


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
    step: float
    """How far the concept's mean lies from the pool's along the CAV: effects are sensitivities times it."""


@on_one_thread
def cav_of(data: ConceptData, settings: Settings) -> Floats:
    """A concept's CAV, untested: `Tested.alpha` [N]. Raises Refused as `examine` does."""
    problem = problem_of(data, settings)
    return problem.spread_out(fit(problem, *problem.sides), len(data.k))


@on_one_thread
def examine(data: ConceptData, targets: Sequence[TargetData], settings: Settings, rng: np.random.Generator) -> Tested:
    """The whole test of one concept at one layer, for all targets at once: the CAVs do not depend on the target.

    Raises Refused for sets that overlap or have fewer than two examples, a constant layer, an unknown estimator, and
    targets that do not fit the layer or are constant.
    """
    for_null, for_runs, for_bootstrap, for_folds, for_pool = rng.spawn(5)
    told_apart = pool_against_targets(data, settings, for_pool)  # first: memory holds one large problem at a time
    problem = problem_of(data, settings)
    gxs = [_centred_products(target, data, problem) for target in targets]  # [m, n] each

    cav = fit(problem, *problem.sides)
    other = None if settings.cross_check is None else fit(problem, *problem.sides, settings.cross_check)
    observed = [_measure(problem, gx, cav, *problem.sides) for gx in gxs]
    null = _measured(problem, gxs, null_draws(problem, settings.null_sets, for_null))
    runs = _measured(problem, gxs, run_draws(problem, settings.runs, for_runs))
    resampled = _bootstrap(problem, gxs, for_bootstrap)
    accuracy, spread = encoding(problem, for_folds)
    place = None if told_apart is None else (told_apart, place_of_targets(data, problem, cav))
    kinds = apart(problem)

    rows = []
    for number, (target, gx) in enumerate(zip(targets, gxs, strict=True)):
        seen, by_chance, by_run = observed[number], null[number], runs[number]
        effects, scores = resampled[number]
        sensitivity = gx @ cav.alpha[0]  # [m]
        changes = sensitivity * seen.gaps[0]
        score = _score(problem, float(seen.scores[0]), sensitivity, by_chance, by_run, scores)
        effect = _effect(problem, changes, target.values, float(sensitivity.mean()) * spread, by_chance, effects)
        cross = None if other is None else _cross_check(problem, gx, cav, other)
        flags = flag_examples(problem.n_concept, problem.n_pool, len(gx), settings.min_examples)
        flags += flag_gradient(gx)
        flags += flag_weak_cav(accuracy.held_out, accuracy.shuffled_high, settings.alpha)
        if cross is not None:
            names = (settings.estimator, cross.estimator)
            chance = by_chance.effects.std(ddof=1)
            flags += flag_estimators(score.value, effect.value, cross.score, cross.effect, float(chance), names)
        flags += flag_negatives(effect.value, by_run.effects, draw_size(problem.n_concept, problem.n_pool))
        flags += flag_pool(*place) if place else []
        flags += flag_kind(*kinds)
        rows.append(
            RowResult(
                score=score,
                effect=effect,
                accuracy=accuracy,
                cross_check=cross,
                legacy_t_test=LegacyTTest(legacy_t_test(by_run.scores, by_chance.scores)),
                flags=flags,
                n_concept=problem.n_concept,
                n_pool=problem.n_pool,
                n_target=len(gx),
                sensitivities=changes,
            )
        )
    alike = flag_moves_alike([row.effect.in_sd for row in rows], [row.effect.p for row in rows], settings.alpha)
    for row in rows:
        row.flags.extend(alike)
    step = float(gaps(cav, *problem.sides)[0])
    return Tested(rows, accuracy, problem.spread_out(cav, len(data.k)), step)


def tcav_score(sensitivities: ArrayLike) -> float:
    """The share of sensitivities over 0 (Kim et al. 2018, equation 2)."""
    return float((np.asarray(sensitivities) > 0).mean())


def _score(
    problem: Problem, value: float, sensitivity: Floats, null: _Measured, runs: _Measured, resampled: Floats
) -> Score:
    return Score(
        value=value,
        interval=percentile_interval(resampled, problem.settings.alpha),
        smoothed=_smoothed(sensitivity, null.reach),
        runs=problem.settings.runs,
        runs_mean=float(runs.scores.mean()),
        runs_sd=float(runs.scores.std(ddof=1)),
        null=_summary(problem.null_kind, null.scores, (0.0, 1.0)),
        p=exceedance_p(value - 0.5, null.scores - 0.5),
    )


def _effect(
    problem: Problem, changes: Floats, values: Floats, per_concept_sd: float, null: _Measured, resampled: Floats
) -> Effect:
    """The mean of `changes` [m] over the target examples, against the null and its resamples."""
    value = float(changes.mean())
    unit = _unit(values, value)
    interval = percentile_interval(resampled, problem.settings.alpha)
    against_sets, against_zero = exceedance_p(value, null.effects), normal_p(value, resampled)
    return Effect(
        value=value,
        interval=interval,
        in_sd=value / unit,
        interval_in_sd=(interval[0] / unit, interval[1] / unit),
        per_concept_sd=per_concept_sd,
        null=_summary(problem.null_kind, null.effects),
        p=max(against_sets, against_zero),
        p_against_sets=against_sets,
        p_against_zero=against_zero,
        target_share=_target_share(changes, resampled),
    )


def _cross_check(problem: Problem, gx: Floats, cav: Cavs, other: Cavs) -> CrossCheck:
    second = _measure(problem, gx, other, *problem.sides)
    return CrossCheck(
        str(problem.settings.cross_check),
        float(second.scores[0]),
        float(second.effects[0]),
        float(np.clip(cav.alpha[0] @ problem.k @ other.alpha[0], -1, 1)),
    )


@dataclass(frozen=True)
class _Measured:
    """R CAVs against one target."""

    scores: Floats  # [R]
    effects: Floats  # [R]
    gaps: Floats  # [R] the step from negatives to positives, along the CAV
    reach: Floats  # [m] root mean square of each example's sensitivity over the CAVs


def _measure(problem: Problem, gx: Floats, cavs: Cavs, positives: NDArray[Any], negatives: NDArray[Any]) -> _Measured:
    """Score and effect of each CAV: `T = mean ∇h·v · (v·(μ⁺ − μ⁻))`."""
    sensitivity = cavs.alpha @ gx.T  # [R, m]
    step = gaps(cavs, positives, negatives)
    reach = np.sqrt((sensitivity**2).mean(0))
    return _Measured((sensitivity > 0).mean(1), sensitivity.mean(1) * step, step, reach)


def _measured(problem: Problem, gxs: list[Floats], draws: Iterable[tuple[Sets, Sets]]) -> list[_Measured]:
    """Every draw's CAV, fitted once and measured against every target."""
    parts: list[list[_Measured]] = [[] for _ in gxs]
    for positives, negatives in draws:
        cavs = fit(problem, positives, negatives)
        for number, gx in enumerate(gxs):
            parts[number].append(_measure(problem, gx, cavs, positives, negatives))
    return [_joined(each) for each in parts]


def _joined(parts: list[_Measured]) -> _Measured:
    sizes = [len(part.scores) for part in parts]
    reach = np.sqrt(np.average([part.reach**2 for part in parts], axis=0, weights=sizes))
    scores, effects, steps = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("scores", "effects", "gaps")
    )
    return _Measured(scores, effects, steps, reach)


def _bootstrap(problem: Problem, gxs: list[Floats], rng: np.random.Generator) -> list[tuple[Floats, Floats]]:
    """Effects and scores [B] for each target, over resamples of concept, pool and target examples together."""
    effects: list[list[Floats]] = [[] for _ in gxs]
    scores: list[list[Floats]] = [[] for _ in gxs]
    for size in batches(problem, problem.settings.bootstrap):
        positives, negatives = bootstrap_sides(problem.n_concept, problem.n_pool, problem.partners, size, rng)
        cavs = fit(problem, positives, negatives)
        step = gaps(cavs, positives, negatives)
        for number, gx in enumerate(gxs):
            share = bootstrap_counts(len(gx), size, rng) / len(gx)  # [R, m]
            sensitivity = cavs.alpha @ gx.T
            effects[number].append(np.vecdot(sensitivity, share) * step)
            scores[number].append(np.vecdot((sensitivity > 0).astype(float), share))
    return [(np.concatenate(effects[number]), np.concatenate(scores[number])) for number in range(len(gxs))]


def _target_share(changes: Floats, resamples: Floats) -> float:
    """The variance of the mean over target examples [m], as a share of the whole bootstrap variance."""
    of_targets, whole = float(changes.var()) / len(changes), float(resamples.var(ddof=1))
    return min(1.0, of_targets / whole) if whole > 0 else 0.0


def _smoothed(sensitivity: Floats, reach: Floats) -> float:
    """The mean of Φ(S / root mean square S of random sets) [m]: near 1/2 where the concept is no more than they are."""
    ratio = np.divide(sensitivity, reach, out=np.zeros_like(sensitivity), where=reach > 0)
    return float(ndtr(ratio).mean())


def _unit(values: Floats, effect: float) -> float:
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
    histogram = Histogram(edges.tolist(), counts.tolist())
    return Null(kind, len(values), float(values.mean()), float(values.std(ddof=1)), histogram)


def _centred_products(target: TargetData, data: ConceptData, problem: Problem) -> Floats:
    """Gradient products [m, n] with concept and pool, from their mean: CAVs sum to zero, so nothing is lost."""
    if not len(target.values) or target.gx.shape != (len(target.values), len(data.k)):
        raise Refused(
            "layer-size-differs",
            f"Gradient products have the shape {target.gx.shape} for {len(target.values)} target values and "
            f"{len(data.k)} examples.",
            "Give one row for each target example and one column for each example of the Gram matrix.",
        )
    gx = target.gx[:, problem.taken]
    centred: Floats = gx - gx.mean(1, keepdims=True)
    return centred
