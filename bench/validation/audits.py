"""One audit of a simulated world whose truth is known, from its draws to the gate's finding."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from bench.validation.simulation import World, draw, numbers
from caveat_spec.audit import Audit, ConceptLine, Method
from caveat_spec.gate import decide
from caveat_spec.report import Finding, LineVerdict, Report
from caveat_spec.results import ConceptTest, Figures, OutputGap
from caveat_worker.engine.base.arrays import Float64Array
from caveat_worker.engine.concepts.cav import fit_cavs
from caveat_worker.engine.concepts.concept_test import run_concept_test
from caveat_worker.engine.concepts.fit_problem import Settings
from caveat_worker.engine.concepts.output_gap import output_gap
from caveat_worker.engine.statistics.p_values import legacy_t_test
from caveat_worker.engine.statistics.resampling import Sets, reference_draws

TOLERANCE, STRICT = 0.3, 0.1
"""What the gate lines of the validation allow, in standard deviations of the target: usually, and by default."""
ALPHA = 0.05
DRAWS = 2026
"""Another number here draws every audit anew."""


@dataclass(frozen=True)
class Outcome:
    """The figures of one audit."""

    p_effect: float
    p_against_sets: float
    p_score: float
    finding: Finding
    strict: Finding
    """The finding at the default tolerance."""
    passes: bool
    """Whether the gate lets the concept pass."""
    interval: tuple[float, float]
    truth: float
    """The simulated effect, in the target's unit."""
    encoded: bool
    published: dict[int, float]
    """The published t-test's p by its number of runs."""


def audit(world: World, settings: Settings, published: tuple[int, ...], seed: int) -> Outcome:
    """One audit drawn from the world."""
    rng = np.random.default_rng([seed, DRAWS])
    data, target = draw(world, rng)
    result = run_concept_test(data, [target], settings, rng).figures[0]
    assert result.effect.p_against_sets is not None
    assert result.score is not None
    assert result.accuracy is not None
    gap = output_gap(*numbers(world, rng), target.values, settings, rng)
    line, strict = (verdict_on(result, gap, settings, tolerance) for tolerance in (TOLERANCE, STRICT))
    assert line.finding is not None
    assert strict.finding is not None
    return Outcome(
        p_effect=result.effect.p,
        p_against_sets=result.effect.p_against_sets,
        p_score=result.score.p,
        finding=line.finding,
        strict=strict.finding,
        passes=line.outcome == "pass",
        interval=result.effect.interval,
        truth=world.shift * world.slope,
        encoded=result.accuracy.encoded,
        published={runs: _published(world, settings, runs, seed) for runs in published},
    )


def audits(world: World, settings: Settings, count: int, published: tuple[int, ...] = ()) -> list[Outcome]:
    """`count` audits from the world, on every core."""
    with ProcessPoolExecutor() as executor:
        return list(executor.map(partial(audit, world, settings, published), range(count), chunksize=8))


def verdict_on(figures: Figures, gap: OutputGap, settings: Settings, tolerance: float) -> LineVerdict:
    """What the gate line `must: not_matter` comes to in a report that holds this one test."""
    test = ConceptTest(
        method="tcav",
        evidence="association",
        concept="concept",
        target="target",
        layer="layer",
        estimator=settings.estimator,
        output_gap=gap,
        **dict(figures) | {"effect": figures.effect.model_copy(update={"p_corrected": figures.effect.p})},
    )
    line = ConceptLine(concept="concept", target="target", must="not_matter", tolerance=tolerance)
    nothing: dict[str, Any] = dict.fromkeys(Report.model_fields, ())
    audit = Audit.model_construct(model="", examples={}, method=Method(alpha=settings.alpha))
    report = Report.model_construct(**nothing | {"audit": audit, "tests": [test], "sequential": None})
    return decide(report, [line]).lines[0]


def _published(world: World, settings: Settings, runs: int, seed: int) -> float:
    """tensorflow/tcav's test: scores of the concept's runs against those of as many random sets' runs."""
    rng = np.random.default_rng([seed, runs])
    data, target = draw(world, rng)
    concept = np.repeat(np.arange(len(data.k))[None] < world.n_concept, runs, axis=0)
    first, second, third = (reference_draws(world.n_concept, world.n_reference, runs, rng) for _ in range(3))

    def scores(positive: Sets, negative: Sets) -> Float64Array:
        alpha = fit_cavs(data.k, positive, negative, settings.estimator, settings.regularisation).alpha
        share: Float64Array = (alpha @ target.gx.T > 0).mean(1)
        return share

    return legacy_t_test(scores(concept, first), scores(second, third & ~second))


def rejected(outcomes: Sequence[Outcome], p: str) -> int:
    """How many audits have this p at or under α."""
    return sum(getattr(outcome, p) <= ALPHA for outcome in outcomes)


def percent(shares: Sequence[int], count: int, digits: int = 1) -> str:
    """The cells of a row: shares of `count` audits."""
    return " | ".join(f"{share / count:.{digits}%}" for share in shares)
