"""The test of a concept at a layer: score, effect, their nulls and intervals, and the flags that go with them.

The unit of the test is the *set* of concept examples. Published TCAV tests compare runs that share one concept set as
if they were independent, and reject 42 to 90 % of meaningless concepts; here a whole random set takes its place.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr

from caveat_spec.results import (
    Accuracy,
    CrossCheck,
    Effect,
    Figures,
    Flag,
    Histogram,
    LegacyTTest,
    Null,
    NullKind,
    Score,
)
from caveat_worker.engine.activations.feature_space import AnyProducts, FactoredProducts
from caveat_worker.engine.base.arrays import Float64Array
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.base.threads import on_one_thread
from caveat_worker.engine.concepts.cav import Cavs, FeatureCavs
from caveat_worker.engine.concepts.fit_problem import (
    ConceptData,
    FitProblem,
    Settings,
    TargetData,
    batches,
    fit,
    fit_draws,
    fit_problem_of,
    null_draws,
    run_draws,
)
from caveat_worker.engine.concepts.flags import (
    flag_estimators,
    flag_examples,
    flag_gradient,
    flag_moves_all,
    flag_negatives,
    flag_reference,
    flag_sets,
    flag_weak_cav,
)
from caveat_worker.engine.concepts.kept_draws import NOT_KEPT, KeptDraws
from caveat_worker.engine.concepts.linear_probe import (
    encoding,
    place_of_targets,
    reference_against_targets,
    set_separation,
)
from caveat_worker.engine.statistics.intervals import expanded_interval
from caveat_worker.engine.statistics.p_values import exceedance_p, legacy_t_test, resampled_p
from caveat_worker.engine.statistics.resampling import Sets, bootstrap_counts, bootstrap_sides, draw_size
from caveat_worker.engine.statistics.scale import ResampledScales, scale, varies

CAUTION = (
    "Do not act on this p-value: its runs share one set of concept examples, so they are not independent, and random "
    "concepts come out significant in 42 to 90 % of audits at a nominal 5 %."
)


@dataclass(frozen=True)
class ConceptTested:
    """A concept at a layer: figures for each target, and its CAV as a combination of `concept + reference` examples."""

    figures: list[Figures]
    accuracy: Accuracy
    alpha: Float64Array = field(repr=False)
    """[N] over the rows of `ConceptData.k`; zero but at the concept's and the reference's examples."""
    step: float
    """How far the concept's mean lies from the reference's along the CAV: effects are sensitivities times it."""


@on_one_thread
def cav_of(data: ConceptData, settings: Settings) -> Float64Array:
    """A concept's CAV, untested: `ConceptTested.alpha` [N]. Raises InvalidInput as `run_concept_test` does."""
    problem = fit_problem_of(data, settings)
    return problem.spread_out(fit(problem, *problem.sides), len(data.k))


@on_one_thread
def run_concept_test(
    data: ConceptData,
    targets: Sequence[TargetData],
    settings: Settings,
    rng: np.random.Generator,
    threads: int = 1,
    kept: KeptDraws = NOT_KEPT,
) -> ConceptTested:
    """The whole test of one concept at one layer, for all targets at once: the CAVs do not depend on the target.

    Draws of each kind have a generator of their own, so that the numbers do not depend on threads, nor on which of them
    were `kept`.

    Raises InvalidInput for sets that overlap or have fewer than two examples, a constant layer, an unknown estimator,
    and targets that do not fit the layer or are constant.
    """
    for_null, for_runs, for_bootstrap, for_folds, for_reference = rng.spawn(5)
    # First, because memory holds one large problem at a time.
    against_targets = reference_against_targets(data, settings, for_reference, kept)
    problem = fit_problem_of(data, settings)
    gxs = [_centred_products(target, data, problem) for target in targets]  # [m, n] each

    cav = fit(problem, *problem.sides)
    other = None if settings.cross_check is None else fit(problem, *problem.sides, settings.cross_check)
    with ThreadPoolExecutor(threads) as side_by_side:
        encoded = side_by_side.submit(encoding, problem, for_folds, kept)
        draws = _draws(problem, targets, gxs, (for_null, for_runs, for_bootstrap), side_by_side, kept)
    accuracy, spread = encoded.result()
    place = None if against_targets is None else (against_targets, place_of_targets(data, problem, cav))
    fitted = _Fitted(problem, cav, other, accuracy, spread, place, set_separation(problem))

    figures = [_figures(fitted, target, gx, drawn) for target, gx, drawn in zip(targets, gxs, draws, strict=True)]
    if problem.partners is None:
        alike = flag_moves_all([one.effect.in_sd for one in figures], [one.effect.p for one in figures], settings.alpha)
        figures = [one.model_copy(update={"flags": [*one.flags, *alike]}) for one in figures]
    step = float(cav.projected_gaps(*problem.sides)[0])
    return ConceptTested(figures, accuracy, problem.spread_out(cav, len(data.k)), step)


@dataclass(frozen=True)
class _Fitted:
    """What does not depend on the target: the CAVs, and how well and how oddly they separate the two sets."""

    problem: FitProblem
    cav: Cavs
    other: Cavs | None
    """By the second estimator."""
    accuracy: Accuracy
    spread: float
    """The reference's held-out standard deviation along the CAV."""
    place: tuple[float, float] | None
    """Accuracy between reference and targets, and where the targets lie between reference and concept."""
    separation: tuple[float, float]


@dataclass(frozen=True)
class _Draws:
    """One target under every draw: permutations, runs, and resamples of effect and score [B]."""

    null: _Measured
    runs: _Measured
    effects: Float64Array
    scores: Float64Array
    scales: Float64Array
    """The target's scale in each resample of its examples."""

    @classmethod
    def of(cls, vectors: Sequence[Float64Array]) -> _Draws:
        """The same from all vectors in their order."""
        return cls(_Measured(*vectors[:4]), _Measured(*vectors[4:8]), *vectors[8:])


def _draws(
    problem: FitProblem,
    targets: Sequence[TargetData],
    gxs: Sequence[AnyProducts],
    generators: tuple[np.random.Generator, np.random.Generator, np.random.Generator],
    side_by_side: ThreadPoolExecutor,
    kept: KeptDraws,
) -> list[_Draws]:
    """Every target under every draw, by generators of the null, the runs and the resamples."""
    settings, (for_null, for_runs, for_bootstrap) = problem.settings, generators

    def draw() -> list[Float64Array]:
        sets = [null_draws(problem, settings.permutations, for_null), run_draws(problem, settings.runs, for_runs)]
        bootstrap = side_by_side.submit(_bootstrap, problem, gxs, [one.values for one in targets], for_bootstrap)
        null, runs = side_by_side.map(partial(_measured, problem, gxs), sets)
        return [
            vector
            for by_chance, by_run, resampled in zip(null, runs, bootstrap.result(), strict=True)
            for vector in (*by_chance.vectors, *by_run.vectors, *resampled)
        ]

    counts = [settings.permutations] * 3, [settings.runs] * 3, [settings.bootstrap] * 3
    lengths = [[*counts[0], len(gx), *counts[1], len(gx), *counts[2]] for gx in gxs]
    vectors = iter(
        kept.vectors(
            [length for each in lengths for length in each],
            draw,
            draws=[settings.permutations, settings.runs, settings.bootstrap],
        )
    )
    return [_Draws.of([next(vectors) for _ in each]) for each in lengths]


def _figures(fitted: _Fitted, target: TargetData, gx: AnyProducts, draws: _Draws) -> Figures:
    """One target's figures, with the flags that go with them."""
    problem, cav = fitted.problem, fitted.cav
    observed = _measure(gx, cav, *problem.sides)
    sensitivity = gx @ cav.alpha[0]  # [m]
    changes = sensitivity * observed.projected_gaps[0]
    score = _score(problem, float(observed.scores[0]), sensitivity, draws)
    effect = _effect(problem, changes, target.values, float(sensitivity.mean()) * fitted.spread, draws)
    cross_check = None if fitted.other is None else _cross_check(problem, gx, cav, fitted.other, target.values)
    return Figures(
        effect=effect,
        changes=changes.tolist(),
        flags=_flags(fitted, gx, score, effect, cross_check, draws),
        n_concept=problem.n_concept,
        n_reference=problem.n_reference,
        n_target=len(gx),
        score=score,
        accuracy=fitted.accuracy,
        cross_check=cross_check,
        legacy_t_test=LegacyTTest(p=legacy_t_test(draws.runs.scores, draws.null.scores), caution=CAUTION),
    )


def _flags(
    fitted: _Fitted, gx: AnyProducts, score: Score, effect: Effect, second: CrossCheck | None, draws: _Draws
) -> list[Flag]:
    """Every reason to doubt the figures of one target."""
    problem, settings, accuracy = fitted.problem, fitted.problem.settings, fitted.accuracy
    flags = flag_examples(problem.n_concept, problem.n_reference, len(gx), settings.min_examples)
    flags += flag_gradient(gx)
    flags += flag_weak_cav(accuracy.held_out, accuracy.shuffled_high, settings.alpha)
    if second is not None:
        names = (settings.estimator, second.estimator)
        chance = float(draws.null.effects.std(ddof=1))
        flags += flag_estimators(score.value, effect.value, second.score, second.effect, chance, names)
    flags += flag_negatives(effect.value, draws.runs.effects, draw_size(problem.n_concept, problem.n_reference))
    flags += flag_reference(*fitted.place) if fitted.place else []
    return flags + flag_sets(*fitted.separation)


def tcav_score(sensitivities: ArrayLike) -> float:
    """The share of sensitivities over 0 (Kim et al. 2018, equation 2)."""
    return float((np.asarray(sensitivities) > 0).mean())


def _score(problem: FitProblem, value: float, sensitivity: Float64Array, draws: _Draws) -> Score:
    null, runs = draws.null, draws.runs
    return Score(
        value=value,
        interval=expanded_interval(draws.scores, problem.settings.alpha, _fewest(problem, sensitivity)),
        smoothed=_smoothed(sensitivity, null.reach),
        runs=problem.settings.runs,
        runs_mean=float(runs.scores.mean()),
        runs_sd=float(runs.scores.std(ddof=1)),
        null=_summary(problem.null_kind, null.scores, (0.0, 1.0)),
        p=exceedance_p(value - 0.5, null.scores - 0.5),
    )


def _effect(
    problem: FitProblem, changes: Float64Array, values: Float64Array, per_concept_sd: float, draws: _Draws
) -> Effect:
    """The mean of `changes` [m] over the target examples, against the null and its resamples."""
    null, resampled = draws.null, draws.effects
    value = float(changes.mean())
    unit = _unit(values, value)
    alpha = problem.settings.alpha
    in_sd = np.divide(resampled, draws.scales, out=np.full_like(resampled, np.nan), where=draws.scales > 0)
    fewest = _fewest(problem, changes)
    against_sets, against_zero = exceedance_p(value, null.effects), resampled_p(value, resampled, fewest)
    return Effect(
        value=value,
        interval=expanded_interval(resampled, alpha, fewest),
        in_sd=value / unit,
        interval_in_sd=expanded_interval(in_sd if draws.scales.any() else resampled, alpha, fewest),
        per_concept_sd=per_concept_sd,
        null=_summary(problem.null_kind, null.effects),
        p=max(against_sets, against_zero),
        p_against_sets=against_sets,
        p_against_zero=against_zero,
        target_share=_target_share(changes, resampled),
    )


def _fewest(problem: FitProblem, over_targets: Float64Array) -> int:
    """The size of the smallest set that is resampled; of a single target example, 2."""
    return max(2, min(problem.n_concept, problem.n_reference, len(over_targets)))


def _cross_check(problem: FitProblem, gx: AnyProducts, cav: Cavs, other: Cavs, values: Float64Array) -> CrossCheck:
    second = _measure(gx, other, *problem.sides)
    effect = float(second.effects[0])
    return CrossCheck(
        estimator=str(problem.settings.cross_check),
        score=float(second.scores[0]),
        effect=effect,
        effect_in_sd=effect / (scale(values) or 1.0),
        cosine=float(np.clip(cav.alpha[0] @ problem.k @ other.alpha[0], -1, 1)),
    )


@dataclass(frozen=True)
class _Measured:
    """R CAVs against one target."""

    scores: Float64Array  # [R]
    effects: Float64Array  # [R]
    projected_gaps: Float64Array  # [R] the step from negatives to positives, along the CAV
    reach: Float64Array  # [m] root mean square of each example's sensitivity over the CAVs

    @property
    def vectors(self) -> tuple[Float64Array, ...]:
        """All of them in their order."""
        return self.scores, self.effects, self.projected_gaps, self.reach


def _measure(gx: AnyProducts, cavs: Cavs | FeatureCavs, positives: NDArray[Any], negatives: NDArray[Any]) -> _Measured:
    """Score and effect of each CAV: `T = mean ∇h·v · (v·(μ⁺ − μ⁻))`."""
    sensitivity = cavs.sensitivities(gx)  # [R, m]
    step = cavs.projected_gaps(positives, negatives)
    reach = np.sqrt((sensitivity**2).mean(0))
    return _Measured((sensitivity > 0).mean(1), sensitivity.mean(1) * step, step, reach)


def _measured(problem: FitProblem, gxs: Sequence[AnyProducts], draws: Iterable[tuple[Sets, Sets]]) -> list[_Measured]:
    """Every draw's CAV, fitted once and measured against every target."""
    parts: list[list[_Measured]] = [[] for _ in gxs]
    for positives, negatives in draws:
        cavs = fit_draws(problem, positives, negatives)
        for number, gx in enumerate(gxs):
            parts[number].append(_measure(gx, cavs, positives, negatives))
    return [_joined(each) for each in parts]


def _joined(parts: list[_Measured]) -> _Measured:
    sizes = [len(part.scores) for part in parts]
    reach = np.sqrt(np.average([part.reach**2 for part in parts], axis=0, weights=sizes))
    scores, effects, steps = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("scores", "effects", "projected_gaps")
    )
    return _Measured(scores, effects, steps, reach)


def _bootstrap(
    problem: FitProblem, gxs: Sequence[AnyProducts], values: list[Float64Array], rng: np.random.Generator
) -> list[tuple[Float64Array, Float64Array, Float64Array]]:
    """Effects, scores and scales [B] for each target, over resamples of concept, reference and target examples."""
    parts: list[list[tuple[Float64Array, Float64Array, Float64Array]]] = [[] for _ in gxs]
    scales = [ResampledScales(each) for each in values]
    for size in batches(problem, problem.settings.bootstrap):
        positives, negatives = bootstrap_sides(problem.n_concept, problem.n_reference, problem.partners, size, rng)
        cavs = fit_draws(problem, positives, negatives)
        step = cavs.projected_gaps(positives, negatives)
        for number, gx in enumerate(gxs):
            counts = bootstrap_counts(len(gx), size, rng)  # [R, m]
            sensitivity, share = cavs.sensitivities(gx), counts / len(gx)
            effects = np.vecdot(sensitivity, share) * step
            scores = np.vecdot((sensitivity > 0).astype(float), share)
            parts[number].append((effects, scores, scales[number].of(counts)))
    return [
        (np.concatenate(effects), np.concatenate(scores), np.concatenate(scales))
        for effects, scores, scales in (zip(*of_target, strict=True) for of_target in parts)
    ]


def _target_share(changes: Float64Array, resamples: Float64Array) -> float:
    """The variance of the mean over target examples [m], as a share of the whole bootstrap variance."""
    of_targets, whole = float(changes.var()) / len(changes), float(resamples.var(ddof=1))
    return min(1.0, of_targets / whole) if whole > 0 else 0.0


def _smoothed(sensitivity: Float64Array, reach: Float64Array) -> float:
    """The mean of Φ(S / root mean square S of random sets) [m]: near 1/2 where the concept is no more than they are."""
    ratio = np.divide(sensitivity, reach, out=np.zeros_like(sensitivity), where=reach > 0)
    return float(ndtr(ratio).mean())


def _unit(values: Float64Array, effect: float) -> float:
    """The target's scale over its examples; 1 where neither the target nor the effect is there at all."""
    spread = scale(values)
    if spread > 0 and varies(values):
        return spread
    if abs(effect) <= spread:
        return 1.0
    but_for = ", but for rounding" if spread else ""
    raise InvalidInput(
        "target-constant",
        f"The target is {float(values[0]):.6g} at all {len(values)} of its examples{but_for}, so an "
        "effect has no scale.",
        "Give the target examples that differ, and check that the exported model reads them.",
    )


def _summary(kind: NullKind, values: Float64Array, limits: tuple[float, float] | None = None) -> Null:
    counts, edges = np.histogram(values, bins=24, range=limits)
    histogram = Histogram(edges=edges.tolist(), counts=counts.tolist())
    return Null(
        kind=kind, sets=len(values), mean=float(values.mean()), sd=float(values.std(ddof=1)), histogram=histogram
    )


def _centred_products(target: TargetData, data: ConceptData, problem: FitProblem) -> AnyProducts:
    """Gradient products [m, n] with concept and reference, from their mean: CAVs sum to zero, so nothing is lost."""
    if not len(target.values) or target.gx.shape != (len(target.values), len(data.k)):
        raise InvalidInput(
            "layer-size-differs",
            f"Gradient products have the shape {target.gx.shape} for {len(target.values)} target values and "
            f"{len(data.k)} examples.",
            "Give one row for each target example and one column for each example of the Gram matrix.",
        )
    if isinstance(target.gx, FactoredProducts):  # of the same layer, whose centred factor the problem has
        assert isinstance(problem.k, FactoredProducts), "one layer is in one space"
        return FactoredProducts(target.gx.left, problem.k.right)
    gx = target.gx[:, problem.taken]
    centred: Float64Array = gx - gx.mean(1, keepdims=True)
    return centred
