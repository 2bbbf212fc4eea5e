"""One audit of a world whose truth is known, from draws to the gate's finding."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from api_spec.audit import Audit, ConceptLine, Method
from api_spec.gate import decide
from api_spec.report import Finding, Report, Row
from bench.validation.worlds import World, draw
from worker.engine.cav import fit_cavs
from worker.engine.chance import legacy_t_test
from worker.engine.gram import Floats
from worker.engine.resampling import Sets, pool_draws
from worker.engine.stats import RowResult, Settings, examine

TOLERANCE = 0.3
"""What the gate lines of the validation allow, in standard deviations of the target."""


@dataclass(frozen=True)
class Outcome:
    """What one audit said."""

    p_effect: float
    p_against_sets: float
    p_score: float
    finding: Finding
    interval: tuple[float, float]
    truth: float
    """The planted effect, in the target's unit."""
    encoded: bool
    published: dict[int, float]
    """The published t-test's p by its number of runs."""


def audit(world: World, settings: Settings, published: tuple[int, ...], seed: int) -> Outcome:
    """One audit drawn from the world."""
    rng = np.random.default_rng([seed, 2018])
    data, target = draw(world, rng)
    result = examine(data, [target], settings, rng).rows[0]
    return Outcome(
        p_effect=result.effect.p,
        p_against_sets=result.effect.p_against_sets,
        p_score=result.score.p,
        finding=found(result, settings),
        interval=result.effect.interval,
        truth=world.shift * world.slope,
        encoded=result.accuracy.encoded,
        published={runs: _published(world, settings, runs, seed) for runs in published},
    )


def audits(world: World, settings: Settings, count: int, published: tuple[int, ...] = ()) -> list[Outcome]:
    """`count` audits from the world, on every core."""
    with ProcessPoolExecutor() as pool:
        return list(pool.map(partial(audit, world, settings, published), range(count), chunksize=8))


def found(result: RowResult, settings: Settings) -> Finding:
    """What a gate line `must not matter` makes of a report with this one row."""
    figures = asdict(result) | {"sensitivities": result.sensitivities.tolist()}
    figures["effect"]["p_corrected"] = result.effect.p
    if figures["cross_check"] is not None:
        figures["cross_check"]["effect_in_sd"] = 0.0
    names = {"concept": "concept", "layer": "layer", "target": "target", "estimator": settings.estimator}
    row = {key: value for key, value in (figures | names).items() if key in Row.model_fields}
    line = ConceptLine(concept="concept", target="target", must="not_matter", tolerance=TOLERANCE)
    nothing: dict[str, Any] = dict.fromkeys(Report.model_fields, ())
    asked = Audit.model_construct(model="", examples={}, method=Method(alpha=settings.alpha))
    report = Report.model_construct(**nothing | {"audit": asked, "rows": [Row.model_validate(row)]})
    finding = decide(report, [line]).lines[0].finding
    assert finding is not None
    return finding


def _published(world: World, settings: Settings, runs: int, seed: int) -> float:
    """tensorflow/tcav's test: scores of the concept's runs against those of as many random sets' runs."""
    rng = np.random.default_rng([seed, runs])
    data, target = draw(world, rng)
    concept = np.repeat(np.arange(len(data.k))[None] < world.n_concept, runs, axis=0)
    first, second, third = (pool_draws(world.n_concept, world.n_pool, runs, rng) for _ in range(3))

    def scores(positive: Sets, negative: Sets) -> Floats:
        alpha = fit_cavs(data.k, positive, negative, settings.estimator, settings.regularisation).alpha
        share: Floats = (alpha @ target.gx.T > 0).mean(1)
        return share

    return legacy_t_test(scores(concept, first), scores(second, third & ~second))
