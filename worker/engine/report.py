"""Arrays → the report, in figures that a person can compare."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from api_spec.audit import Group
from api_spec.report import (
    Consistency,
    Cosines,
    Engine,
    ExampleSetSummary,
    GradientCheck,
    GroupReport,
    Intervention,
    LayerSummary,
    Ranked,
    Report,
    Strip,
    TargetSummary,
    Verdict,
)
from api_spec.report import Plan as PlanSummary
from api_spec.report import Row as ReportRow
from worker.engine.check import GradientCheck as Check
from worker.engine.consistency import Said, story
from worker.engine.evidence import Evidence, Row, Sorted
from worker.engine.plan import Plan
from worker.engine.probe import Seen
from worker.engine.walk import Walked, WholeStep
from worker.engine.witness import Change

if TYPE_CHECKING:
    from worker.engine.groups import GroupComparison

DIGITS = 6
"""Significant digits of every figure: what lies beyond is rounding that differs between machines."""
SHOWN = 8
"""Examples at either end of a strip."""

Thumbnail = Callable[[str, int], str | None]
"""(example set, position) → a small picture as a data URI."""


def assemble(
    plan: Plan,
    seen: Seen,
    evidence: Evidence,
    walked: Walked,
    changes: Mapping[tuple[str, str], Change],
    groups: Mapping[str, GroupComparison],
    *,
    examples: Sequence[ExampleSetSummary],
    names: Mapping[str, Sequence[str]],
    thumbnail: Thumbnail,
    engine: Engine,
    warnings: Sequence[str],
    threads: int,
) -> Report:
    """The whole report but for its verdict; `names` are the examples' names in each set."""
    with ThreadPoolExecutor(threads) as workers:
        strips = list(workers.map(lambda strip: _strip(plan, strip, names, thumbnail), evidence.strips))
    rows = [
        _row(plan, row, walked.get((row.concept, row.layer, row.target)), _spread(seen, row.target)["sd"])
        for row in evidence.rows
    ]
    return Report(
        engine=engine,
        audit=plan.audit,
        plan=_plan(plan, seen, examples, names),
        rows=rows,
        consistency=_consistency(rows, plan.audit.method.alpha),
        interventions=[_intervention(*key, change) for key, change in changes.items()],
        groups=[_group(name, plan.audit.groups[name], compared) for name, compared in groups.items()],
        cosines=[
            Cosines(layer=layer, concepts=list(plan.audit.concepts), matrix=_rounded(matrix.tolist()))
            for layer, matrix in evidence.cosines.items()
        ],
        strips=strips,
        warnings=[*plan.warnings, *warnings, *_left_out(groups)],
        verdict=Verdict(outcome=None, lines=[]),
    )


def _plan(
    plan: Plan, seen: Seen, examples: Sequence[ExampleSetSummary], names: Mapping[str, Sequence[str]]
) -> PlanSummary:
    return PlanSummary(
        layers=[
            LayerSummary(
                layer=layer.name,
                tensor=layer.tensor,
                operator=layer.operator,
                shape=["?" if size is None else size for size in layer.shape],
                features=seen.features[layer.name],
                depth=layer.depth,
                chosen=layer.chosen,
            )
            for layer in plan.layers
        ],
        targets=[
            TargetSummary(
                target=name,
                tensor=resolved.tensor,
                sentence=resolved.sentence,
                unit=plan.targets[name].scale,
                examples=list(names[plan.audit.targets[name].examples]) if name in seen.values else [],
                **_rounded(_spread(seen, name)),
            )
            for name, resolved in plan.resolved.items()
        ],
        examples=list(examples),
        gradient_checks=gradient_checks(seen.checks, plan.audit.method.gradient_tolerance),
    )


def gradient_checks(checks: Sequence[Check], tolerance: float) -> list[GradientCheck]:
    """Gradients against finite differences, as documents show it."""
    return [
        GradientCheck(
            layer=check.layer,
            target=check.target,
            relative_error=_rounded(check.residual),
            cosine=_rounded(check.cosine),
            tolerance=tolerance,
        )
        for check in checks
    ]


def _spread(seen: Seen, target: str) -> dict[str, float]:
    """Mean and standard deviation of the target over its examples, where they were run."""
    if target not in seen.values:
        return {"mean": 0.0, "sd": 0.0}
    values = seen.values[target]
    return {"mean": float(values.mean()), "sd": float(values.std(ddof=1))}


def _row(plan: Plan, row: Row, whole: WholeStep | None, sd: float) -> ReportRow:
    """A row in the report's terms; `sd` is the target's standard deviation over its examples."""
    document = _rounded(_plain(row.result))
    document["effect"]["p_corrected"] = _rounded(row.p_corrected)
    if row.result.cross_check is not None:
        document["cross_check"]["effect_in_sd"] = _rounded(row.result.cross_check.effect / (sd or 1.0))
    document["whole_step"] = _rounded(_plain(whole))
    if row.positions is not None:
        shape, parts = list(row.positions.shape), row.positions.ravel().tolist()
        document["positions"] = {"shape": shape, "parts": _rounded(parts)}
    named = {"concept": row.concept, "layer": row.layer, "target": row.target}
    return ReportRow.model_validate({**named, "estimator": plan.audit.method.estimator, **document})


def _consistency(rows: Sequence[ReportRow], alpha: float) -> list[Consistency]:
    """What the layers say together of each concept and target that has two of them or more."""
    said: dict[tuple[str, str], list[Said]] = {}
    for row in rows:
        moves = row.effect.p_corrected < alpha
        one = Said(row.layer, row.accuracy.encoded, row.effect.value, moves)
        said.setdefault((row.concept, row.target), []).append(one)
    return [
        Consistency(concept=concept, target=target, **_plain(story(concept, target, layers)))
        for (concept, target), layers in said.items()
        if len(layers) > 1
    ]


def _intervention(concept: str, target: str, change: Change) -> Intervention:
    return Intervention.model_validate({"concept": concept, "target": target, **_rounded(_plain(change))})


def _group(name: str, asked: Group, compared: GroupComparison) -> GroupReport:
    decisions = (
        f"the recorded decisions ({asked.decision})"
        if asked.decision is not None
        else f"the model's own decisions ({asked.target} over {asked.threshold:g})"
    )
    figures = _rounded(_plain(compared))
    return GroupReport.model_validate(
        {
            "name": name,
            "decisions": decisions,
            "sensitive": asked.sensitive,
            "rows": figures["rows"],
            "metrics": figures["metrics"],
        }
    )


def _left_out(groups: Mapping[str, GroupComparison]) -> list[str]:
    return [
        f"{compared.left_out} people have no value in a column of '{name}' and are in none of its groups."
        for name, compared in groups.items()
        if compared.left_out
    ]


def _strip(plan: Plan, strip: Sorted, names: Mapping[str, Sequence[str]], thumbnail: Thumbnail) -> Strip:
    """The ends of a strip, the farthest example first on either side."""
    examples = plan.audit.targets[strip.target].examples
    order = np.argsort(-strip.along, kind="stable")
    shown = min(SHOWN, len(order) // 2)

    def ranked(position: int) -> Ranked:
        return Ranked(
            example=names[examples][position],
            projection=_rounded(float(strip.along[position])),
            thumbnail=thumbnail(examples, position),
        )

    return Strip(
        concept=strip.concept,
        layer=strip.layer,
        examples=examples,
        most=[ranked(int(i)) for i in order[:shown]],
        least=[ranked(int(i)) for i in order[::-1][:shown]],
    )


def _plain(value: Any) -> Any:
    """Frozen dataclasses as dictionaries, arrays as lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value.tolist() if isinstance(value, np.ndarray) else value


def _rounded(value: Any) -> Any:
    """Every float to `DIGITS` significant digits."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") + 0.0
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return value
