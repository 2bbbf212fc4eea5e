"""TCAV: tests layer by layer whether the model is sensitive to a concept (Kim et al. 2018)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from caveat_spec.audit import Audit
from caveat_spec.methods import NoOptions
from caveat_spec.results import (
    AnyResult,
    ConceptTest,
    Flag,
    FlagCode,
    Matrix,
    Note,
    OutputGap,
    RankedExample,
    Ranking,
    SpatialMap,
)
from caveat_worker.engine.activations.array_keys import works_on_features
from caveat_worker.engine.activations.collected import Collected, Runtime, StepDirection
from caveat_worker.engine.activations.feature_space import AnyProducts, FactoredProducts
from caveat_worker.engine.activations.layer_products import gram_room, layer_products
from caveat_worker.engine.activations.requirements import (
    Activations,
    FiniteSteps,
    Gradients,
    InnerProducts,
    Layer,
    Outputs,
    Plan,
    Requirement,
    Role,
    Values,
)
from caveat_worker.engine.base.arrays import Float64Array
from caveat_worker.engine.base.errors import error_context
from caveat_worker.engine.base.threads import on_one_thread
from caveat_worker.engine.concepts.activation_intervention import asks_for_shares, take_steps
from caveat_worker.engine.concepts.cav import (
    Residual,
    cosine_matrix,
    direction,
    projections,
    residual,
    sensitivity_by_position,
)
from caveat_worker.engine.concepts.concept_test import ConceptTested, cav_of, run_concept_test
from caveat_worker.engine.concepts.fit_problem import ConceptData, Settings, TargetData
from caveat_worker.engine.concepts.kept_draws import KeptDraws
from caveat_worker.engine.concepts.output_gap import output_gap
from caveat_worker.engine.methods import method
from caveat_worker.engine.statistics.correction import fewest_permutations

SIDE_BY_SIDE_BYTES = 64 * 2**20
"""The largest Gram matrix of which several threads may hold copies at a time; of a larger one there is one copy."""
KIND: FlagCode = "sets_differ_in_kind"
SHOWN = 8
"""Examples at either end of a ranking."""
COSINES = (
    "Cosines between concept activation vectors. Concepts that point the same way cannot be told apart at that layer: "
    "a finding about one may be due to the other."
)


@dataclass(frozen=True)
class LayerTest:
    """One concept at one layer: a result for each target, and the target examples along the concept."""

    concept: str
    layer: Layer
    tested: ConceptTested
    along: Mapping[str, Float64Array]
    """Target → its examples' projections on the concept activation vector [m], in standard deviations."""
    maps: Mapping[str, SpatialMap]
    step: StepDirection


def _requires(audit: Audit) -> Sequence[Requirement]:
    every: tuple[Role, ...] = ("concept", "reference", "target")
    arrays = (Activations(at=every),) if audit.method.spatial_map else ()
    return (
        InnerProducts(of=every),
        Gradients(),
        Values(),
        Outputs(at=every if asks_for_shares(audit) else ("concept", "reference")),
        FiniteSteps(),
        *arrays,
    )


@method(requires=_requires, units=lambda plan: len(plan.layers) * len(plan.audit.concepts))
def tcav(collected: Collected, runtime: Runtime, options: NoOptions) -> Iterator[AnyResult]:
    """A test of every concept at every layer for every target, rankings of examples, and cosines between concepts."""
    plan = collected.plan
    settings, notes = settings_of(plan)
    tests, cosines = _layer_tests(collected, runtime, settings)
    tests = spread_kinds(tests)
    output_gaps = {name: _output_gaps(collected, settings, name) for name in plan.audit.concepts}
    directions = [one.step for one in tests]
    if runtime.later is not None:
        runtime.later.extend(directions)
    steps = take_steps(collected, runtime, directions) if runtime.later is None else {}
    for one in tests:
        for target, figures in zip(plan.targets, one.tested.figures, strict=True):
            yield ConceptTest(
                method="tcav",
                evidence="association",
                concept=one.concept,
                target=target,
                layer=one.layer.name,
                estimator=settings.estimator,
                finite_step=steps.get((one.concept, one.layer.name, target)),
                output_gap=output_gaps[one.concept].get(target),
                spatial_map=one.maps.get(target),
                **dict(figures),
            )
    yield from (_ranking(collected, tests, concept) for concept in plan.audit.concepts)
    yield from cosines
    yield from (Note(method="tcav", sentence=sentence) for sentence in notes)


def spread_kinds(tests: Sequence[LayerTest]) -> list[LayerTest]:
    """Sets that differ in kind at one layer do so at every layer: one that does not show it is led astray as well."""
    of_concept: dict[str, tuple[str, Flag]] = {}
    for one in tests:
        for flag in one.tested.figures[0].flags:
            if flag.code == KIND:
                of_concept.setdefault(one.concept, (one.layer.name, flag))
    spread = []
    for one in tests:
        if one.concept not in of_concept or any(flag.code == KIND for flag in one.tested.figures[0].flags):
            spread.append(one)
            continue
        layer, seen = of_concept[one.concept]
        flag = seen.model_copy(update={"sentence": f"At {layer}: {seen.sentence}"})
        figures = [each.model_copy(update={"flags": [*each.flags, flag]}) for each in one.tested.figures]
        spread.append(replace(one, tested=replace(one.tested, figures=figures)))
    return spread


def _output_gaps(collected: Collected, settings: Settings, concept: str) -> dict[str, OutputGap]:
    """Target → how the model's own numbers for the concept differ from those for its reference set.

    None where pairs measure the change, and for a concept that controls for others, which its numbers hold as well.
    """
    plan, asked = collected.plan, collected.plan.audit.concepts[concept]
    if asked.controlling_for or concept in plan.pairings:
        return {}
    return {
        target: output_gap(
            collected.target_values(asked.examples, target),
            np.concatenate([collected.target_values(name, target) for name in asked.reference_sets]),
            collected.values(target),
            settings,
            collected.generator("output gap", concept, target),
        )
        for target in plan.targets
    }


@on_one_thread
def _layer_tests(collected: Collected, runtime: Runtime, settings: Settings) -> tuple[list[LayerTest], list[Matrix]]:
    """Every concept at every layer, and the cosines between concepts at each."""
    plan, store = collected.plan, runtime.store
    tests: list[LayerTest] = []
    matrices = []
    room = gram_room(plan, store)
    work = None if room is None or room.nbytes <= SIDE_BY_SIDE_BYTES else store.scratch((room.size,), np.float64)
    for layer in plan.layers:
        k, gx = layer_products(collected, runtime, layer, room)
        targets = [TargetData(gx[name], collected.values(name)) for name in plan.targets]
        found, cosines = _at_layer(collected, runtime, layer, k, work, targets, settings)
        tests += found
        if len(plan.audit.concepts) > 1:
            matrices.append(
                Matrix(
                    method="tcav",
                    title="Entanglement",
                    caption=COSINES,
                    layer=layer.name,
                    names=list(plan.audit.concepts),
                    values=np.clip(cosines, -1, 1).tolist(),
                )
            )
    return tests, matrices


def _at_layer(
    collected: Collected,
    runtime: Runtime,
    layer: Layer,
    k: AnyProducts,
    work: Float64Array | None,
    targets: list[TargetData],
    settings: Settings,
) -> tuple[list[LayerTest], Float64Array]:
    """All concepts at one layer from one Gram matrix, in parallel if it is small; and the cosines of their CAVs."""
    plan = collected.plan

    def test(concept: str) -> tuple[ConceptTested, Float64Array]:
        data = concept_data(plan, k, work, concept)
        kept = KeptDraws(runtime.store, _depends_on(collected, layer, concept))
        rng = collected.generator(layer.name, concept)
        return _tested(plan, data, concept, targets, settings, rng, threads, kept)

    tests, alphas = [], []
    side_by_side = min(runtime.cores, len(plan.audit.concepts)) if k.nbytes <= SIDE_BY_SIDE_BYTES else 1
    threads = max(1, runtime.cores // side_by_side)
    with ThreadPoolExecutor(side_by_side) as workers:
        for concept, (tested, step) in zip(plan.audit.concepts, workers.map(test, plan.audit.concepts), strict=True):
            alphas.append(tested.alpha)
            tests.append(
                LayerTest(
                    concept=concept,
                    layer=layer,
                    tested=tested,
                    along={
                        name: projections(k[plan.rows(asked.examples)], tested.alpha)
                        for name, asked in plan.audit.targets.items()
                    },
                    maps=_spatial_maps(collected, layer, tested),
                    step=StepDirection(concept, layer, step),
                )
            )
            runtime.progress(1)
    room = None if work is None or isinstance(k, FactoredProducts) else work.reshape(k.shape)
    return tests, cosine_matrix(k, np.stack(alphas), out=room)


def _tested(
    plan: Plan,
    data: ConceptData,
    concept: str,
    targets: list[TargetData],
    settings: Settings,
    rng: np.random.Generator,
    threads: int,
    kept: KeptDraws,
) -> tuple[ConceptTested, Float64Array]:
    """A concept's test at a layer, after the directions of the concepts it controls for are taken out.

    With it goes the difference of the means as a combination of examples [N].
    """
    step, left = mean_step(data), without_controlled(plan, data, concept, settings)
    if left is None:
        return run_concept_test(data, targets, settings, rng, threads, kept), step
    there = [TargetData(left.products(target.gx), target.values) for target in targets]
    tested = run_concept_test(replace(data, k=left.k), there, settings, rng, threads, kept)
    return replace(tested, alpha=left.lifted(tested.alpha)), left.lifted(step)


def _depends_on(collected: Collected, layer: Layer, concept: str) -> dict[str, Any]:
    """What the draws of a concept's test depend on beside the settings of each part."""
    plan, audit = collected.plan, collected.plan.audit
    sets = list(dict.fromkeys(asked.examples for asked in audit.targets.values()))
    return {
        "draws_of": [audit.method.seed, layer.name, concept],
        "factored": works_on_features(plan, layer),
        "concepts": [
            [
                [collected.keys["activations", name, layer.name] for name in (asked.examples, *asked.reference_sets)],
                None if pairing is None else [pairing.base, list(pairing.without)],
            ]
            for name in (concept, *audit.concepts[concept].controlling_for)
            for asked, pairing in [(audit.concepts[name], plan.pairings.get(name))]
        ],
        "regularisation": audit.method.regularisation,
        "estimator": audit.method.estimator,
        "targets": [
            [
                collected.keys["gradients", asked.examples, name, layer.name],
                collected.keys["values", asked.examples, name],
            ]
            for name, asked in audit.targets.items()
        ],
        "placed": [collected.keys["activations", name, layer.name] for name in sets if name in plan.row_ranges],
    }


def mean_step(data: ConceptData) -> Float64Array:
    """The difference of the means of concept and reference, as a combination of examples [N]."""
    step = np.zeros(len(data.k))
    step[data.concept], step[data.reference] = 1 / len(data.concept), -1 / len(data.reference)
    return step


def without_controlled(plan: Plan, data: ConceptData, concept: str, settings: Settings) -> Residual | None:
    """The layer without the directions of the concepts that this one controls for; None where there are none."""
    others = plan.audit.concepts[concept].controlling_for
    if not others:
        return None
    with error_context(f"/concepts/{concept}/controlling_for"):
        alphas = [cav_of(concept_data(plan, data.k, data.work, other), settings) for other in others]
        return residual(data.k, np.stack(alphas))


def _spatial_maps(collected: Collected, layer: Layer, tested: ConceptTested) -> dict[str, SpatialMap]:
    """Target → each position's part of the effect, where the audit asks and the layer keeps its positions."""
    plan = collected.plan
    shape = [size for size in layer.shape[1:] if isinstance(size, int)]
    if not plan.audit.method.spatial_map or layer.reduce != "flatten" or not 2 <= len(shape) == len(layer.shape) - 1:
        return {}
    v = np.zeros(int(np.prod(shape)))
    for name, rows in plan.row_ranges.items():
        if tested.alpha[rows].any():
            v += direction(tested.alpha[rows], collected.arrays["activations", name, layer.name])
    maps = {}
    for name, asked in plan.audit.targets.items():
        gradients = collected.arrays["gradients", asked.examples, name, layer.name]
        parts = tested.step * sensitivity_by_position(gradients, v, shape, layer.channels - 1)
        maps[name] = SpatialMap(shape=list(parts.shape), parts=parts.ravel().tolist())
    return maps


def concept_data(plan: Plan, k: AnyProducts, work: Float64Array | None, concept: str) -> ConceptData:
    """Which rows of the layer's Gram matrix are the concept, the reference and the targets.

    Where the reference set holds the concept's matched pairs, they alone are the reference: they differ in the concept
    and in nothing else, and swapping them leaves both sides as large as they were, so that the null distribution is
    centred on zero.
    """
    asked = plan.audit.concepts[concept]
    pairing = plan.pairings.get(concept)
    reference = np.concatenate([plan.rows(name) for name in asked.reference_sets])
    paired = pairing is not None and asked.reference_sets == [pairing.base]
    of_targets = {target.examples for target in plan.audit.targets.values()}
    return ConceptData(
        k=k,
        concept=plan.rows(asked.examples),
        reference=reference[list(pairing.without)] if pairing is not None and paired else reference,
        pairs=np.arange(len(pairing.without)) if pairing is not None and paired else None,
        targets=plan.rows(next(iter(of_targets)))
        if len(of_targets) == 1 and of_targets <= plan.row_ranges.keys()
        else None,
        work=work,
    )


def _ranking(collected: Collected, tests: Sequence[LayerTest], concept: str) -> Ranking:
    """The first target's examples along the concept, at the layer that encodes it best."""
    best = max((one for one in tests if one.concept == concept), key=lambda one: one.tested.accuracy.held_out)
    target, asked = next(iter(collected.plan.audit.targets.items()))
    along, names = best.along[target], collected.examples[asked.examples].names
    order = np.argsort(-along, kind="stable")
    shown = min(SHOWN, len(order) // 2)

    def ranked(position: int) -> RankedExample:
        return RankedExample(example=names[position], position=position, projection=float(along[position]))

    return Ranking(
        method="tcav",
        title=concept,
        caption="Examples along the concept's direction, in standard deviations from the mean of their set.",
        layer=best.layer.name,
        examples=asked.examples,
        most=[ranked(int(i)) for i in order[:shown]],
        least=[ranked(int(i)) for i in order[::-1][:shown]],
    )


def settings_of(plan: Plan) -> tuple[Settings, list[str]]:
    """The method as the statistics take it, with as many permutations as the correction needs, and notes on that."""
    asked = plan.audit.method
    rows = len(plan.layers) * len(plan.targets) * len(plan.audit.concepts)
    fewest = fewest_permutations(rows, asked.alpha) if rows and asked.correction != "none" else 0
    settings = replace(
        Settings.of(asked),
        permutations=max(asked.permutations, fewest),
        cross_check=asked.cross_check if asked.cross_check != asked.estimator else None,
    )
    notes = []
    if fewest > asked.permutations:
        notes.append(
            f"{fewest} permutations were drawn in place of {asked.permutations}: with fewer, a single one that exceeds "
            f"an effect could lose a row of {rows} at {asked.alpha:g} after the correction."
        )
    if rows and asked.estimator.startswith("scikit_learn."):
        notes.append(
            f"How often intervals by {asked.estimator} cover the truth was not measured, unlike those by "
            "mean_difference and logistic (docs/validation.md): read its effects as a second opinion."
        )
    return settings, notes
