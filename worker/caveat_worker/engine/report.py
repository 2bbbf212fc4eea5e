"""Results → the report, in figures that a person can compare."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from caveat_spec.report import (
    Engine,
    ExampleSetSummary,
    GradientCheck,
    LayerSummary,
    PassCounts,
    PlanSummary,
    Report,
    TargetSummary,
    Verdict,
)
from caveat_spec.results import AnyResult, Comparison, ConceptTest, Matrix, Note, RankedExample, Ranking, rounded
from caveat_worker.engine.activations.collected import Collected
from caveat_worker.engine.autodiff.gradient_check import GradientCheck as Check
from caveat_worker.engine.data_checks import check_examples, commonest_class
from caveat_worker.engine.layer_findings import summarise_layers
from caveat_worker.engine.statistics.correction import correct
from caveat_worker.engine.statistics.scale import scale

Thumbnail = Callable[[str, int], str | None]
"""(example set, position) → a small picture as a data URI."""
Kind = TypeVar("Kind", bound=AnyResult)


def assemble(
    collected: Collected,
    results: Sequence[AnyResult],
    *,
    sets: Sequence[ExampleSetSummary],
    thumbnail: Thumbnail,
    engine: Engine,
    warnings: Sequence[str],
    threads: int,
) -> Report:
    """The whole report but for its verdict."""
    plan = collected.plan
    method = plan.audit.method
    tests = [rounded(test) for test in _corrected(_of(ConceptTest, results), method.correction)]
    with ThreadPoolExecutor(threads) as workers:
        rankings = list(workers.map(lambda one: _pictured(one, thumbnail), _of(Ranking, results)))
    return Report(
        engine=engine,
        audit=plan.audit,
        plan=_plan(collected, sets),
        tests=tests,
        comparisons=[rounded(one) for one in _of(Comparison, results)],
        rankings=[rounded(one) for one in rankings],
        matrices=[rounded(one) for one in _of(Matrix, results)],
        layer_findings=summarise_layers([one for one in tests if one.evidence == "association"], method.alpha),
        warnings=[
            *plan.warnings,
            *check_examples(collected),
            *warnings,
            *(note.sentence for note in _of(Note, results)),
        ],
        verdict=Verdict(outcome=None, lines=[]),
    )


def gradient_checks(checks: Iterable[Check], tolerance: float) -> list[GradientCheck]:
    """Gradients against finite differences, as documents show them."""
    return [
        rounded(
            GradientCheck(
                layer=check.layer,
                target=check.target,
                relative_error=check.residual,
                cosine=float(np.clip(check.cosine, -1, 1)),
                tolerance=tolerance,
            )
        )
        for check in checks
    ]


def _of(kind: type[Kind], results: Sequence[AnyResult]) -> list[Kind]:
    return [one for one in results if isinstance(one, kind)]


def _corrected(tests: Sequence[ConceptTest], correction: str) -> list[ConceptTest]:
    """Every test by association with its p-value corrected over all of them, whichever method gave it."""
    places = [number for number, test in enumerate(tests) if test.evidence == "association"]
    p = correct(np.array([tests[number].effect.p for number in places]), correction)
    corrected = dict(zip(places, p.tolist(), strict=True))
    return [
        test.model_copy(update={"effect": test.effect.model_copy(update={"p_corrected": corrected[number]})})
        if number in corrected
        else test
        for number, test in enumerate(tests)
    ]


def _pictured(ranking: Ranking, thumbnail: Thumbnail) -> Ranking:
    """The ranking with a thumbnail of each example that has one."""

    def shown(ranked: Sequence[RankedExample]) -> list[RankedExample]:
        return [one.model_copy(update={"thumbnail": thumbnail(ranking.examples, one.position)}) for one in ranked]

    return ranking.model_copy(update={"most": shown(ranking.most), "least": shown(ranking.least)})


def _plan(collected: Collected, sets: Sequence[ExampleSetSummary]) -> PlanSummary:
    plan = collected.plan
    return PlanSummary(
        layers=[
            LayerSummary(
                layer=layer.name,
                tensor=layer.tensor,
                operator=layer.operator,
                shape=["?" if size is None else size for size in layer.shape],
                features=collected.features[layer.name],
                depth=layer.depth,
                chosen=layer.chosen,
            )
            for layer in plan.layers
        ],
        targets=[_target(collected, name) for name in plan.resolved],
        examples=list(sets),
        gradient_checks=gradient_checks(collected.checks, plan.audit.method.gradient_tolerance),
        passes=PassCounts(forward=plan.passes.forward, backward=plan.passes.backward, partial=plan.passes.partial),
    )


def _target(collected: Collected, name: str) -> TargetSummary:
    """A target with its mean and scale over its examples, where those went through the model."""
    plan, resolved = collected.plan, collected.plan.resolved[name]
    known = collected.knows_values(name)
    values = collected.values(name) if known else np.zeros(2)
    return rounded(
        TargetSummary(
            target=name,
            tensor=resolved.tensor,
            sentence=resolved.sentence,
            unit=collected.unit(name),
            mean=float(values.mean()),
            sd=scale(values),
            examples=list(collected.examples[plan.audit.targets[name].examples].names) if known else [],
            commonest_class=commonest_class(collected, name),
        )
    )
