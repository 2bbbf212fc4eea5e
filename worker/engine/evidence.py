"""What the model did → what it means: one row for each concept, layer and target, tested."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from worker.engine.cav import cosine_matrix, direction, projections, residual, sensitivity_by_position
from worker.engine.correction import correct
from worker.engine.errors import about
from worker.engine.gram import Floats, Indices, Product, inner
from worker.engine.plan import Layer, Plan
from worker.engine.probe import Seen, inner_key, inner_pairs
from worker.engine.shelf import Shelf
from worker.engine.stats import ConceptData, RowResult, Settings, TargetData, Tested, cav_of, examine
from worker.engine.threads import on_one_thread

Multiply = Callable[[Sequence[Product], int], None]
"""Computes inner products with so many threads."""
SIDE_BY_SIDE_BYTES = 64 * 2**20
"""The largest Gram matrix of which several threads may hold copies at a time; of a larger one there is one copy."""


@dataclass(frozen=True)
class Row:
    """One concept at one layer for one target."""

    concept: str
    layer: str
    target: str
    result: RowResult
    positions: Floats | None
    """Each position's part of the effect, in the layer's shape; None where that was not asked for or has no meaning."""
    p_corrected: float
    """The effect's p, corrected over all rows of the audit."""


@dataclass(frozen=True)
class Sorted:
    """A target's examples [n] along a concept at the layer that encodes it best, in standard deviations."""

    concept: str
    layer: str
    target: str
    along: Floats


@dataclass(frozen=True)
class Step:
    """The way from the pool's mean to the concept's at a layer, `Xᵀα`, less what lies along concepts it is beyond."""

    concept: str
    layer: Layer
    alpha: Floats = field(repr=False)  # [N]


@dataclass(frozen=True)
class Evidence:
    """The statistics of a whole audit."""

    rows: list[Row]
    cosines: dict[str, Floats]
    """Layer → cosines between the concepts' CAVs [q, q]."""
    strips: list[Sorted]
    steps: list[Step]


@dataclass(frozen=True)
class _Finding:
    """One concept at one layer: a result a target, how well it is encoded, and target examples along it."""

    concept: str
    layer: str
    results: Mapping[str, RowResult]
    accuracy: float
    along: Mapping[str, Floats]
    positions: Mapping[str, Floats]
    step: Step


@on_one_thread
def weigh(
    plan: Plan,
    seen: Seen,
    shelf: Shelf,
    settings: Settings,
    progress: Callable[[int], None],
    *,
    threads: int,
    multiply: Multiply = inner,
) -> Evidence:
    """Tests every concept at every layer for every target; `progress` hears of each concept at each layer."""
    findings: list[_Finding] = []
    cosines = {}
    k = shelf.spare((plan.examples, plan.examples), np.float64)
    work = shelf.spare((k.size,), np.float64) if k.nbytes > SIDE_BY_SIDE_BYTES else None
    for layer in plan.layers:
        gx = inner_products(plan, seen, layer, shelf, k, threads=threads, multiply=multiply)
        targets = [TargetData(gx[name], seen.values[name]) for name in plan.targets]
        found, cosines[layer.name] = _at_layer(plan, seen, layer, k, work, targets, settings, progress, threads)
        findings += found
    rows = [
        (one.concept, one.layer, target, result, one.positions.get(target))
        for one in findings
        for target, result in one.results.items()
    ]
    corrected = correct(np.array([result.effect.p for *_, result, _ in rows]), plan.audit.method.correction)
    return Evidence(
        rows=[Row(*row, float(p)) for row, p in zip(rows, corrected, strict=True)],
        cosines=cosines if len(plan.audit.concepts) > 1 else {},
        strips=[_strip(plan, findings, concept) for concept in plan.audit.concepts],
        steps=[one.step for one in findings],
    )


def inner_products(
    plan: Plan, seen: Seen, layer: Layer, shelf: Shelf, k: Floats, *, threads: int, multiply: Multiply = inner
) -> dict[str, Floats]:
    """Fills the Gram matrix `k` [N, N] of all examples that have a place; returns for each target `G Xᵀ` [m, N].

    They are put together from blocks, one for each two arrays, so that a block does not depend on what else is asked;
    those that are not on the shelf are computed together, and kept there.
    """
    gx = {name: np.empty((len(seen.values[name]), plan.examples)) for name in plan.targets}
    pairs = [pair for pair in inner_pairs(plan) if pair[0][-1] == layer.name]
    wanted: list[tuple[str, Product]] = []
    for left, right in pairs:
        beside = plan.places[right[1]]
        block = gx[left[2]][:, beside] if left[0] == "gradients" else k[plan.places[left[1]], beside]
        key = inner_key(seen.keys[left], seen.keys[right])
        found = shelf.find(key)
        if found is None:
            wanted.append((key, Product(seen.arrays[left], seen.arrays[right], block)))
        else:
            block[...] = found
    multiply([product for _, product in wanted], threads)
    for key, product in wanted:
        shelf.keep(key, product.out)
    for left, right in pairs:
        if left[0] != "gradients" and left != right:
            above, beside = plan.places[left[1]], plan.places[right[1]]
            k[beside, above] = k[above, beside].T
    return gx


def _at_layer(
    plan: Plan,
    seen: Seen,
    layer: Layer,
    k: Floats,
    work: Floats | None,
    targets: list[TargetData],
    settings: Settings,
    progress: Callable[[int], None],
    threads: int,
) -> tuple[list[_Finding], Floats]:
    """All concepts at one layer, from one Gram matrix, and the cosines between their CAVs; side by side if small."""

    def test(concept: str) -> tuple[Tested, Floats]:
        data = _concept_data(plan, k, work, concept)
        return _tested(plan, data, concept, targets, settings, _generator(plan, layer.name, concept))

    findings, alphas = [], []
    with ThreadPoolExecutor(threads if work is None else 1) as workers:
        for concept, (tested, step) in zip(plan.audit.concepts, workers.map(test, plan.audit.concepts), strict=True):
            alphas.append(tested.alpha)
            findings.append(
                _Finding(
                    concept=concept,
                    layer=layer.name,
                    results=dict(zip(plan.targets, tested.rows, strict=True)),
                    accuracy=tested.accuracy.held_out,
                    along={
                        name: projections(k[_rows(plan, _of_target(plan, name))], tested.alpha) for name in plan.targets
                    },
                    positions=_positions(plan, seen, layer, tested),
                    step=Step(concept, layer, step),
                )
            )
            progress(1)
    return findings, cosine_matrix(k, np.stack(alphas), out=None if work is None else work.reshape(k.shape))


def _tested(
    plan: Plan, data: ConceptData, concept: str, targets: list[TargetData], settings: Settings, rng: np.random.Generator
) -> tuple[Tested, Floats]:
    """A concept's test at a layer, in what other concepts leave of it where it is tested beyond them.

    With it goes the difference of the means as a combination of examples [N].
    """
    beyond = plan.audit.concepts[concept].beyond
    step = np.zeros(len(data.k))
    step[data.concept], step[data.pool] = 1 / len(data.concept), -1 / len(data.pool)
    if not beyond:
        return examine(data, targets, settings, rng), step
    with about(f"/concepts/{concept}/beyond"):
        others = [cav_of(_concept_data(plan, data.k, data.work, other), settings) for other in beyond]
        left = residual(data.k, np.stack(others))
    there = [TargetData(left.products(target.gx), target.values) for target in targets]
    tested = examine(replace(data, k=left.k), there, settings, rng)
    return replace(tested, alpha=left.lifted(tested.alpha)), left.lifted(step)


def _positions(plan: Plan, seen: Seen, layer: Layer, tested: Tested) -> dict[str, Floats]:
    """Target → each position's part of the effect, where the audit asks and the layer keeps its positions."""
    shape = [size for size in layer.shape[1:] if isinstance(size, int)]
    if not plan.audit.method.positions or layer.reduce != "flatten" or not 2 <= len(shape) == len(layer.shape) - 1:
        return {}
    v = np.zeros(int(np.prod(shape)))
    for name, place in plan.places.items():
        if tested.alpha[place].any():
            v += direction(tested.alpha[place], seen.arrays["activations", name, layer.name])
    return {
        name: tested.step
        * sensitivity_by_position(seen.arrays["gradients", asked.examples, name, layer.name], v, shape)
        for name, asked in plan.audit.targets.items()
    }


def _concept_data(plan: Plan, k: Floats, work: Floats | None, concept: str) -> ConceptData:
    """Who is who in the layer's Gram matrix; where the pool holds the concept's twins, they alone are the pool.

    Twins differ in the concept and in nothing else, and swapping them leaves both sides as large as they were, so that
    the null distribution is centred on zero.
    """
    asked = plan.audit.concepts[concept]
    pairing = plan.pairings.get(concept)
    pool = np.concatenate([_rows(plan, name) for name in asked.pools])
    paired = pairing is not None and asked.pools == [pairing.base]
    of_targets = {_of_target(plan, name) for name in plan.targets}
    return ConceptData(
        k=k,
        concept=_rows(plan, asked.examples),
        pool=pool[list(pairing.without)] if pairing is not None and paired else pool,
        pairs=np.arange(len(pairing.without)) if pairing is not None and paired else None,
        targets=_rows(plan, next(iter(of_targets))) if len(of_targets) == 1 else None,
        work=work,
    )


def _rows(plan: Plan, examples: str) -> Indices:
    place = plan.places[examples]
    return np.arange(place.start, place.stop)


def _of_target(plan: Plan, target: str) -> str:
    return plan.audit.targets[target].examples


def _generator(plan: Plan, *names: str) -> np.random.Generator:
    """Draws of their own for each layer and concept, so that asking for one more does not change the others."""
    digest = hashlib.sha256("\0".join(names).encode()).digest()
    words: NDArray[np.uint32] = np.frombuffer(digest, np.uint32)
    return np.random.default_rng([plan.audit.method.seed, *words.tolist()])


def _strip(plan: Plan, findings: list[_Finding], concept: str) -> Sorted:
    """The first target's examples along the concept, at the layer that encodes it best."""
    best = max((one for one in findings if one.concept == concept), key=lambda one: one.accuracy)
    target = next(iter(plan.targets))
    return Sorted(concept, best.layer, target, best.along[target])
