"""Finite-step interventions on activations: what targets do when a layer moves from the reference to the concept.

An effect extends a slope over that step; here the rest of the model runs at its end. Where the two differ, the model
bends in between.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caveat_spec.audit import SHARES, Audit, ConceptLine
from caveat_spec.results import FiniteStep
from caveat_worker.engine.activations.array_keys import Array
from caveat_worker.engine.activations.batches import batch_size, side_by_side
from caveat_worker.engine.activations.collected import Collected, Runtime, StepDirection
from caveat_worker.engine.activations.pooling import marked, moved, scores
from caveat_worker.engine.activations.requirements import Layer
from caveat_worker.engine.autodiff.differentiate import cut_at, expose
from caveat_worker.engine.base.arrays import Float64Array
from caveat_worker.engine.base.store import key_of
from caveat_worker.engine.base.threads import parallel_map
from caveat_worker.engine.concepts.cav import direction
from caveat_worker.engine.concepts.counterfactual import ChangedShares, changed_shares, in_decisions, in_probability
from caveat_worker.engine.onnx.session import Provider, Session, open_session
from caveat_worker.engine.statistics.intervals import mean_interval, scaled_mean_interval
from caveat_worker.engine.statistics.scale import scale

SALT = "walk"
"""Part of the seed of each interval; it stays as it is, so that figures stay as they were."""


Place = tuple[str, str, str]
"""(concept, layer, target)."""
Feeds = tuple[slice, dict[str, NDArray[Any]]]
"""Which of the target's examples, and what a graph reads of them."""


def take_steps(collected: Collected, runtime: Runtime, steps: Sequence[StepDirection]) -> dict[Place, FiniteStep]:
    """The change of every target by every step; changes that the store has are not computed again.

    Places where the model gives no finite number are left out. A step is the difference of means whatever the
    estimator is, so that another estimator does not run the model. Raises Evicted where the store no longer has the
    activations that a step is made of.
    """
    plan, store = collected.plan, runtime.store
    keys = {
        (step.concept, step.layer.name, target): _key(collected, step, target)
        for step in steps
        for target in plan.targets
    }
    changes = {place: kept for place, key in keys.items() if (kept := store.get(key)) is not None}
    for examples in dict.fromkeys(asked.examples for asked in plan.audit.targets.values()):
        targets = [name for name, asked in plan.audit.targets.items() if asked.examples == examples]
        left = [step for step in steps if any((step.concept, step.layer.name, name) not in changes for name in targets)]
        for layers in [plan.layers] if plan.model.weights_in_file else [(layer,) for layer in plan.layers]:
            if here := {layer: of for layer in layers if (of := [step for step in left if step.layer == layer])}:
                changes |= _changes(collected, runtime, examples, targets, here)
    for place, key in keys.items():
        if store.get(key) is None:
            store.put(key, changes[place])
    return {place: _summary(collected, place, change) for place, change in changes.items() if np.isfinite(change).all()}


def asks_for_shares(audit: Audit) -> bool:
    """Whether a line of the gate asks for a step's change in probabilities or decisions."""
    return any(isinstance(line, ConceptLine) and line.unit in SHARES for line in audit.gate)


def _changes(
    collected: Collected,
    runtime: Runtime,
    examples: str,
    targets: Sequence[str],
    steps: Mapping[Layer, Sequence[StepDirection]],
) -> dict[Place, Float64Array]:
    """The change of each target at each of its examples [1, m], by every step from some layers.

    Where the gate asks for shares, the change of the probability and whether the decision flips are rows too [3, m]; a
    row is 0 for a target that has none. Layers that were not kept whole are found by one pass for all of them.
    """
    plan, provider, need = collected.plan, runtime.provider, collected.plan.needs[examples]
    deltas = {layer: _deltas(collected, runtime, of) for layer, of in steps.items()}
    count, threads = side_by_side(plan, runtime.threads, provider)
    rests = _rests(collected, examples, targets, list(steps), provider, threads)
    before = {name: collected.values(name) for name in targets}
    rows_each = 3 if asks_for_shares(plan.audit) else 1
    changes = {
        (step.concept, layer.name, name): np.zeros((rows_each, len(before[name])))
        for layer, of in steps.items()
        for step in of
        for name in targets
    }
    size = batch_size(plan, replace(need, gradients=()) if plan.model.weights_in_file else need)

    def take(head: Session | None, layers: Sequence[Layer], at: Feeds) -> None:
        rows, feeds = at
        if head is not None:
            feeds = {**feeds, **head.run(feeds)}
        for layer in layers:
            here, tokens = feeds[layer.tensor], marked(feeds, layer.mask)
            for step, delta in zip(steps[layer], deltas[layer], strict=True):
                there = moved(here, delta.astype(here.dtype), layer.reduce, layer.channels, tokens)
                found = rests[layer].run({**feeds, layer.tensor: there})
                for name in targets:
                    change = changes[step.concept, layer.name, name]
                    change[:, rows] = _changed(collected, name, (rows, feeds), found, before[name][rows])

    others = []
    for layer, rest in rests.items():
        kept = _kept(collected, runtime, layer, examples)
        if kept is None:
            others.append(layer)
            continue
        at_layer = _at_layer(collected, runtime, examples, (layer, kept), rest, size)
        for _ in parallel_map(partial(take, None, [layer]), at_layer, count):
            pass
    if others:
        graph = expose(plan.model, [layer.tensor for layer in others])
        head = open_session(graph, provider=provider, threads=threads)
        for _ in parallel_map(partial(take, head, others), _inputs(collected, runtime, examples, size), count):
            pass
    return changes


def _rests(
    collected: Collected,
    examples: str,
    targets: Sequence[str],
    layers: Sequence[Layer],
    provider: Provider,
    threads: int,
) -> dict[Layer, Session]:
    """The model from each layer on to some targets, which share an example set."""
    plan = collected.plan
    asked, alone = [plan.targets[name] for name in targets], plan.alone(plan.needs[examples])
    graphs = {
        layer: cut_at(plan.model, layer.tensor, asked, scores=asks_for_shares(plan.audit), alone=alone)
        for layer in layers
    }
    return {layer: open_session(graph, provider=provider, threads=threads) for layer, graph in graphs.items()}


def _changed(
    collected: Collected, target: str, at: Feeds, found: Mapping[str, NDArray[Any]], before: Float64Array
) -> Float64Array:
    """The change of a target at some of its examples from what it was [1, m]; with shares, theirs too [3, m]."""
    change = found[f"value/{target}"].reshape(1, -1).astype(np.float64) - before
    if not asks_for_shares(collected.plan.audit):
        return change
    shares, changed = np.zeros((2, len(before))), _shares(collected, target, at, found[f"scores/{target}"])
    if changed is not None:
        shares[0] = 0 if changed.probability is None else changed.probability
        shares[1] = changed.flipped
    return np.concatenate([change, shares])


def _shares(collected: Collected, target: str, at: Feeds, raw: NDArray[Any]) -> ChangedShares | None:
    """What a step does to the probability and the decision of some target examples; None for a regression."""
    if collected.plan.resolved[target].link == "values":
        return None
    asked, (rows, feeds) = collected.plan.targets[target], at
    tokens = marked(feeds, collected.plan.resolved[target].mask)
    after = scores(raw, asked.reduce, asked.axis(raw.ndim), tokens).astype(np.float64)
    before = collected.outputs(collected.plan.audit.targets[target].examples, target)[rows]
    of = collected.scores_of
    return changed_shares(of(before, target), of(after, target), asked.index, collected.link(target))


def _kept(collected: Collected, runtime: Runtime, layer: Layer, examples: str) -> NDArray[np.floating[Any]] | None:
    """The layer's tensor at all target examples [m, ...], if it was kept whole."""
    if layer.reduce != "flatten":
        tensor: Array = ("tensors", examples, layer.tensor)
        return collected.array(tensor, runtime.store) if tensor in collected.keys else None
    sizes = [size if isinstance(size, int) else collected.plan.lengths.get(str(size), 0) for size in layer.shape[1:]]
    kept = collected.array(("activations", examples, layer.name), runtime.store)
    return kept.reshape(len(kept), *sizes) if prod(sizes) == kept.shape[1] else None


def _at_layer(
    collected: Collected,
    runtime: Runtime,
    examples: str,
    at: tuple[Layer, NDArray[np.floating[Any]]],
    rest: Session,
    size: int,
) -> Iterator[Feeds]:
    """A layer's tensor that was kept, in batches, in the type in which the rest of the model reads it.

    Where the rest reads the model's inputs too, such as a mask, or the layer moves where a mask says, they are read
    again.
    """
    (layer, kept), tensor = at, at[0].tensor
    dtype = np.float64 if rest.reads_double(tensor) else np.float32
    starts = range(0, len(kept), size)
    alone: Iterable[Feeds] = ((slice(start, min(start + size, len(kept))), {}) for start in starts)
    by_itself = rest.inputs == (tensor,) and layer.mask is None
    for rows, feeds in alone if by_itself else _inputs(collected, runtime, examples, size):
        yield rows, {**feeds, tensor: kept[rows].astype(dtype, copy=False)}


def _inputs(collected: Collected, runtime: Runtime, examples: str, size: int) -> Iterator[Feeds]:
    """The inputs of the whole model, in batches."""
    for _, batch in runtime.read({examples: size}):
        yield slice(batch.start, batch.start + len(batch.names)), collected.plan.feeds(batch.values)


def _deltas(collected: Collected, runtime: Runtime, steps: Sequence[StepDirection]) -> list[Float64Array]:
    """The steps themselves [d], combinations of activations; reference sets are often shared, and averaged once."""

    @cache
    def part(name: str, layer: str, alpha: bytes) -> Float64Array:
        return direction(np.frombuffer(alpha), collected.array(("activations", name, layer), runtime.store))

    return [
        np.sum(
            [
                part(name, step.layer.name, step.alpha[rows].tobytes())
                for name, rows in collected.plan.row_ranges.items()
                if step.alpha[rows].any()
            ],
            axis=0,
        )
        for step in steps
    ]


def _key(collected: Collected, step: StepDirection, target: str) -> str:
    """The key of a change: it depends on the step, a combination of activations, and on the target at its examples."""
    plan = collected.plan
    asked = plan.audit.targets[target]
    return key_of(
        finite_step=collected.keys["values", asked.examples, target],
        rows=3 if asks_for_shares(plan.audit) else 1,
        activations={
            collected.keys["activations", name, step.layer.name]: hashlib.sha256(step.alpha[rows].tobytes()).hexdigest()
            for name, rows in plan.row_ranges.items()
            if step.alpha[rows].any()
        },
    )


def _summary(collected: Collected, place: Place, rows: Float64Array) -> FiniteStep:
    method, change = collected.plan.audit.method, rows[0]
    rng, values, value = collected.generator(SALT, *place), collected.values(place[2]), float(change.mean())
    decides = len(rows) > 1 and collected.plan.resolved[place[2]].link != "values"
    probable = decides and collected.link(place[2]) is not None
    shares = ChangedShares(rows[1] if probable else None, rows[2] > 0) if decides else None
    return FiniteStep(
        value=value,
        interval=mean_interval(change, method.alpha),
        in_sd=value / (scale(values) or 1.0),
        interval_in_sd=scaled_mean_interval(change, values, method.alpha, method.bootstrap, rng, together=True),
        in_probability=None if shares is None else in_probability(shares, method.alpha),
        in_decisions=None if shares is None else in_decisions(shares, method.alpha),
    )
