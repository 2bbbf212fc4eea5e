"""A whole step, taken: what targets do when a layer moves by all that lies between a pool and a concept.

An effect extends a slope over that step; here the rest of the model runs at its end. Where the two differ, the model
bends in between.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from worker.engine.cav import direction
from worker.engine.differentiate import cut_at, expose
from worker.engine.evidence import Step
from worker.engine.gram import Floats
from worker.engine.intervals import studentised_interval
from worker.engine.plan import Layer, Plan
from worker.engine.probe import Array, Read, Seen, batch_size
from worker.engine.reduction import moved
from worker.engine.session import Provider, Session, open_session
from worker.engine.shelf import Evicted, Shelf, key_of
from worker.engine.threads import in_lanes, lanes


@dataclass(frozen=True)
class WholeStep:
    """The mean change of a target over its examples, in its own unit and in its standard deviations."""

    value: float
    interval: tuple[float, float]
    """Over target examples; the step itself is taken as given."""
    in_sd: float
    interval_in_sd: tuple[float, float]


Walked = Mapping[tuple[str, str, str], WholeStep]
"""(concept, layer, target) → what a whole step came to; nothing where the model does not give numbers there."""

Feeds = tuple[slice, dict[str, NDArray[np.float32]]]
"""Which of the target's examples, and what a graph reads of them."""


def walk(
    plan: Plan, seen: Seen, steps: Sequence[Step], shelf: Shelf, read: Read, *, provider: Provider, threads: int
) -> Walked:
    """Takes every step at every target; what the shelf has of it is not run again.

    A step is the difference of means whatever the estimator is, so that another estimator does not touch the model.
    Raises Evicted where the shelf no longer has the activations that a step is made of.
    """
    keys = {
        (step.concept, step.layer.name, target): _key(plan, seen, step, target)
        for step in steps
        for target in plan.targets
    }
    changes = {place: kept for place, key in keys.items() if (kept := shelf.find(key)) is not None}
    for layer in plan.layers:
        for examples in dict.fromkeys(asked.examples for asked in plan.audit.targets.values()):
            targets = [name for name, asked in plan.audit.targets.items() if asked.examples == examples]
            left = [
                step
                for step in steps
                if step.layer == layer and any((step.concept, layer.name, name) not in changes for name in targets)
            ]
            if left:
                changes |= _taken(plan, seen, layer, examples, targets, left, shelf, read, provider, threads)
    for place, key in keys.items():
        if shelf.find(key) is None:
            shelf.keep(key, changes[place])
    return {
        place: _summed_up(plan, seen, place, change) for place, change in changes.items() if np.isfinite(change).all()
    }


def _taken(
    plan: Plan,
    seen: Seen,
    layer: Layer,
    examples: str,
    targets: Sequence[str],
    steps: Sequence[Step],
    shelf: Shelf,
    read: Read,
    provider: Provider,
    threads: int,
) -> dict[tuple[str, str, str], Floats]:
    """The change of each target at each of its examples [m], by every step from one layer."""
    deltas = _deltas(plan, seen, steps, shelf)
    side_by_side, threads_each = lanes(threads, device=provider != "cpu")
    rest = open_session(
        cut_at(plan.model, layer.tensor, [plan.targets[name] for name in targets]),
        provider=provider,
        threads=threads_each,
    )
    count = len(seen.values[targets[0]])
    changes = {(step.concept, layer.name, name): np.empty(count) for step in steps for name in targets}
    kept, size = _kept(seen, layer, examples, rest, shelf), batch_size(plan, plan.needs[examples])
    if kept is None:
        head = open_session(expose(plan.model, [layer.tensor]), provider=provider, threads=threads_each)
        batches = _inputs(plan, examples, size, read)
    else:
        head, batches = None, _slices(kept, layer.tensor, size)

    def take(at: Feeds) -> None:
        rows, feeds = at
        if head is not None:
            feeds = {**feeds, **head.run(feeds)}
        for step, delta in zip(steps, deltas, strict=True):
            there = moved(feeds[layer.tensor], delta.astype(feeds[layer.tensor].dtype), layer.reduce)
            found = rest.run({**feeds, layer.tensor: there})
            for name in targets:
                values = found[f"value/{name}"].reshape(-1).astype(np.float64)
                changes[step.concept, layer.name, name][rows] = values - seen.values[name][rows]

    for _ in in_lanes(take, batches, side_by_side):
        pass
    return changes


def _kept(seen: Seen, layer: Layer, examples: str, rest: Session, shelf: Shelf) -> NDArray[np.float32] | None:
    """The layer at all of the target's examples, if that was kept whole and is all that the rest of the model reads."""
    shape = [one for one in layer.shape[1:] if isinstance(one, int)]
    if rest.inputs != (layer.tensor,) or layer.reduce != "flatten" or len(shape) != len(layer.shape) - 1:
        return None
    kept = _array(seen, ("activations", examples, layer.name), shelf)
    return kept.reshape(len(kept), *shape)


def _slices(kept: NDArray[np.float32], tensor: str, size: int) -> Iterator[Feeds]:
    """What was kept, in batches."""
    for start in range(0, len(kept), size):
        rows = slice(start, min(start + size, len(kept)))
        yield rows, {tensor: kept[rows]}


def _inputs(plan: Plan, examples: str, size: int, read: Read) -> Iterator[Feeds]:
    """What the whole model reads, in batches."""
    for _, batch in read({examples: size}):
        yield slice(batch.start, batch.start + len(batch.names)), plan.feeds(batch.values)


def _deltas(plan: Plan, seen: Seen, steps: Sequence[Step], shelf: Shelf) -> list[Floats]:
    """The steps themselves [d], from the activations that they are combinations of; pools are often the same."""

    @cache
    def part(name: str, layer: str, alpha: bytes) -> Floats:
        return direction(np.frombuffer(alpha), _array(seen, ("activations", name, layer), shelf))

    return [
        np.sum(
            [
                part(name, step.layer.name, step.alpha[place].tobytes())
                for name, place in plan.places.items()
                if step.alpha[place].any()
            ],
            axis=0,
        )
        for step in steps
    ]


def _array(seen: Seen, array: Array, shelf: Shelf) -> NDArray[np.float32]:
    found = seen.arrays.get(array)
    if found is None:
        found = shelf.find(seen.keys[array])
    if found is None:
        raise Evicted
    return found


def _key(plan: Plan, seen: Seen, step: Step, target: str) -> str:
    """A change depends on the step, which is a combination of activations, and on the target at its examples."""
    asked = plan.audit.targets[target]
    return key_of(
        walked=seen.keys["values", asked.examples, target],
        activations={
            seen.keys["activations", name, step.layer.name]: hashlib.sha256(step.alpha[place].tobytes()).hexdigest()
            for name, place in plan.places.items()
            if step.alpha[place].any()
        },
    )


def _summed_up(plan: Plan, seen: Seen, place: tuple[str, str, str], change: Floats) -> WholeStep:
    method = plan.audit.method
    words = np.frombuffer(hashlib.sha256("\0".join(("walk", *place)).encode()).digest(), np.uint32)
    rng = np.random.default_rng([method.seed, *words.tolist()])
    low, high = studentised_interval(change, method.bootstrap, method.alpha, rng)
    value, unit = float(change.mean()), float(seen.values[place[2]].std(ddof=1)) or 1.0
    return WholeStep(value, (low, high), value / unit, (low / unit, high / unit))
