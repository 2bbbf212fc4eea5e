"""A plan and batches of examples → activations, gradients and outputs; each example goes through the model once.

What is on the shelf already is not computed again: where every inner product of two example sets is known, neither of
them goes through the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import combinations_with_replacement, groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.engine.check import GradientCheck, check_claims, check_gradients
from worker.engine.differentiate import differentiate
from worker.engine.errors import Refused, about
from worker.engine.layers import depths
from worker.engine.plan import Layer, Need, Plan
from worker.engine.reduction import reduced, reduced_gradient, scores
from worker.engine.session import Provider, Session, Sessions, open_session
from worker.engine.shelf import Shelf, key_of
from worker.engine.supplied import refuse_wrong
from worker.engine.tape import shape_of_value
from worker.engine.threads import in_lanes, lanes

Floats = NDArray[np.float32]
Array = tuple[str, ...]
"""What an array is, in the audit's names: ("activations", set, layer) [n, d], ("gradients", set, target, layer) [m, d],
("values", set, target) [m], ("outputs", set, target) [n, classes], ("features", set) [layers], ("checks", set)."""
Room = Callable[..., NDArray[Any]]
"""Where an array goes, by what it is, its shape and its dtype (float32 where left out)."""

BATCH_BYTES = 128 * 2**20
"""What the tensors of one batch may take while the model runs."""
LARGEST_BATCH = 1024
CHECKED_EXAMPLES = 4
BACKWARD_WORK = 2
"""Forward passes that a backward pass takes as long as, over the same nodes."""
UNKNOWN_SIZE = 64
"""How large a dimension is thought to be that the model leaves open."""


@dataclass(frozen=True)
class Batch:
    """Consecutive examples of one set: the model's inputs [n, …] by name, and the examples' names."""

    start: int
    names: tuple[str, ...]
    values: Mapping[str, NDArray[Any]]


Read = Callable[[Mapping[str, int]], Iterable[tuple[str, Batch]]]
"""Example sets and their batch sizes → their batches with the set's name, in that order."""


@dataclass(frozen=True)
class Seen:
    """What the model did with the examples."""

    keys: Mapping[Array, str]
    arrays: Mapping[Array, NDArray[Any]]
    """Activations and gradients are here only where an inner product of theirs is not on the shelf."""
    features: Mapping[str, int]
    """Layer → how many features it has."""
    values: Mapping[str, NDArray[np.float64]]
    """Target → its number h [m] at its examples."""
    outputs: Mapping[tuple[str, str], NDArray[np.float64]]
    """(example set, target) → the whole tensor the target is read from, [n, classes]."""
    checks: tuple[GradientCheck, ...]


def probe(
    plan: Plan,
    counts: Mapping[str, int],
    read: Read,
    shelf: Shelf,
    *,
    provider: Provider,
    versions: Mapping[str, str],
    threads: int,
    progress: Callable[[int], None],
) -> Seen:
    """Runs the model over every example set that the plan needs and the shelf does not make up for.

    `progress` hears of each example that is done. Raises `Refused` for numbers that are not finite (naming the example)
    and for gradients that fail their check.
    """
    keys = _all_keys(plan, provider, versions)
    arrays, unseen = _recalled(plan, keys, counts, shelf)
    progress(sum(counts[name] for name in plan.needs if name not in unseen))
    rows = {name: range(counts[name]) for name in unseen}
    room = _room(shelf, arrays, keys.__getitem__)
    _see(plan, rows, read, room, provider=provider, threads=threads, progress=progress)
    return _seen(plan, keys, arrays)


def probe_rows(
    plan: Plan,
    rows: Mapping[str, range],
    read: Read,
    shelf: Shelf,
    *,
    provider: Provider,
    versions: Mapping[str, str],
    threads: int,
    progress: Callable[[int], None],
) -> None:
    """Runs the model over some rows of example sets; what `probe` would make of them is kept as pieces of its arrays.

    Raises `Refused` as `probe` does. Where rows begin and end between batches they are in the same batches as there.
    """
    keys = _all_keys(plan, provider, versions)
    room = _room(shelf, {}, lambda array: piece_key(keys[array], rows[array[1]].start))
    _see(plan, rows, read, room, provider=provider, threads=threads, progress=progress)


def divide(
    plan: Plan,
    counts: Mapping[str, int],
    shelf: Shelf,
    *,
    provider: Provider,
    versions: Mapping[str, str],
    batches: int,
    most: int,
) -> list[dict[str, range]]:
    """The rows that have to go through the model, in at most so many parts of about so many whole batches each.

    There are two, four, eight or so of them, which workers in the usual numbers share evenly; each takes about as long.
    """
    _, unseen = _recalled(plan, _all_keys(plan, provider, versions), counts, shelf)
    sizes = {name: batch_size(plan, plan.needs[name]) for name in unseen}
    depth = depths(plan.model)
    work = {name: _work(plan, plan.needs[name], depth) for name in unseen}  # of an example
    needed = _over(sum(_over(counts[name], size) for name, size in sizes.items()), batches)
    each = sum(counts[name] * work[name] for name in unseen) / min(1 << (max(needed, 1) - 1).bit_length(), most)
    parts: list[dict[str, range]] = [{}]
    done = 0.0
    for name, size in sizes.items():
        for start in range(0, counts[name], size):
            if done >= each * len(parts):
                parts.append({})
            stop = min(start + size, counts[name])
            parts[-1][name] = range(parts[-1].get(name, range(start, stop)).start, stop)
            done += (stop - start) * work[name]
    return parts


def _work(plan: Plan, need: Need, depth: Mapping[str, int]) -> float:
    """How many forward passes a pass takes as long as; back to the first layer it goes through what is behind that."""
    first = min((layer.depth for layer in plan.layers), default=0)
    ends = [depth[plan.resolved[target].tensor] for target in need.gradients]
    return 1 + BACKWARD_WORK * sum(max(end - first, 0) / end for end in ends)


def _over(count: int, size: int) -> int:
    """How many of a size it takes to hold a count."""
    return -(-count // size)


def piece_key(key: str, start: int) -> str:
    """The key of the piece of an array that begins with an example."""
    return f"{key}.{start}"


def _room(shelf: Shelf, arrays: dict[Array, NDArray[Any]], key: Callable[[Array], str]) -> Room:
    """Room on a shelf for each array that is not there yet."""

    def room(array: Array, shape: tuple[int, ...], dtype: type = np.float32) -> NDArray[Any]:
        if array not in arrays:
            arrays[array] = shelf.room(key(array), shape, dtype)
        return arrays[array]

    return room


def _see(
    plan: Plan,
    rows: Mapping[str, range],
    read: Read,
    room: Room,
    *,
    provider: Provider,
    threads: int,
    progress: Callable[[int], None],
) -> None:
    """Runs the model over rows of example sets; gradients are checked beside that, which comes first in a fault."""
    side_by_side, threads_each = lanes(threads, device=provider != "cpu")
    batches = _batches(plan, rows, read, provider=provider, threads=threads_each)
    checks: list[Future[None]] = []
    with ThreadPoolExecutor(1) as beside:
        try:
            for name, batch, found in in_lanes(partial(_pass, plan), batches, side_by_side):
                if batch.start == 0 and plan.needs[name].gradients:
                    checks.append(beside.submit(_check_gradients, plan, name, batch, found, room, threads_each))
                _keep(plan, name, rows[name], batch, found, room)
                progress(len(batch.names))
                for check in filter(Future.done, checks):
                    check.result()
        finally:
            for check in checks:
                check.result()


def inner_key(left: str, right: str) -> str:
    """The key of the inner products of two arrays, by theirs."""
    return key_of(inner_products=[left, right])


def inner_pairs(plan: Plan) -> Iterator[tuple[Array, Array]]:
    """Every two arrays whose inner products the statistics read."""
    for layer in plan.layers:
        placed = [("activations", name, layer.name) for name in plan.places]
        yield from combinations_with_replacement(placed, 2)
        for target, asked in plan.audit.targets.items():
            yield from ((("gradients", asked.examples, target, layer.name), array) for array in placed)


def batch_size(plan: Plan, need: Need) -> int:
    """As many examples as keep a batch within bounds; one where the model's batch is fixed.

    A forward pass holds a few tensors at a time, a backward pass those of the forward pass. Larger batches than these
    are no faster on a CPU: what they hold does not fit its caches.
    """
    if not plan.model.symbolic_batch or (need.gradients and plan.supplied is not None and plan.supplied.batch == 1):
        return 1
    tensors = [_floats(shape_of_value(value) or ()) for node in plan.model.ir.graph for value in node.outputs]
    held = sum(tensors) if need.gradients else 4 * max(tensors, default=0)
    layers = sum(_floats(layer.shape) for layer in plan.layers) * (1 + len(need.gradients))
    inputs = 3 * sum(_floats(tensor.shape) for tensor in plan.inputs)
    return int(np.clip(BATCH_BYTES // (4 * (held + layers + inputs)), 1, LARGEST_BATCH))


def _floats(shape: Sequence[int | str | None]) -> int:
    """How many numbers one example of a tensor has."""
    return int(np.prod([size if isinstance(size, int) else UNKNOWN_SIZE for size in shape[1:]]))


def _all_keys(plan: Plan, provider: Provider, versions: Mapping[str, str]) -> dict[Array, str]:
    """The key of every array that the audit needs of its example sets."""
    by = {"provider": provider, **versions}
    return {array: key for name in plan.needs for array, key in _keys(plan, name, by).items()}


def _keys(plan: Plan, name: str, by: Mapping[str, str]) -> dict[Array, str]:
    """The key of every array that a run over one example set yields, by names that do not depend on this audit's.

    The graph as a whole and the batch's size are part of a key, because what else a graph yields may decide how ONNX
    Runtime fuses its nodes, and so the last bit of what it yields.
    """
    need, method = plan.needs[name], plan.audit.method
    examples = plan.audit.examples[name]
    targets = {target: _content(plan, target) for target in {*need.gradients, *need.outputs}}
    run = key_of(
        model=[plan.audit.model, plan.audit.gradient],
        examples=examples.model_dump(mode="json", exclude={"pairs_with"}),
        seed=method.seed if examples.limit is not None else None,
        gradients=[sorted(targets[target] for target in need.gradients), sorted(_tensors(plan.layers))],
        also=_also(plan, need),
        batch=batch_size(plan, need),
        by=dict(by),
    )
    shapes = key_of(run=run, features=[[layer.tensor, layer.reduce] for layer in plan.layers])
    keys: dict[Array, str] = {("features", name): shapes}
    for layer in plan.layers:
        where = [layer.tensor, layer.reduce]
        if need.activations:
            keys["activations", name, layer.name] = key_of(run=run, activations=where)
        for target in need.gradients:
            keys["gradients", name, target, layer.name] = key_of(run=run, gradient=[targets[target], where])
    for target in need.gradients:
        keys["values", name, target] = key_of(run=run, value=targets[target])
    for target in need.outputs:
        keys["outputs", name, target] = key_of(run=run, output=targets[target])
    if need.gradients:
        order = [targets[target] for target in need.gradients], _tensors(plan.layers)
        keys["checks", name] = key_of(run=run, checks=order, seed=method.seed, tolerance=method.gradient_tolerance)
    return keys


def _content(plan: Plan, target: str) -> list[str]:
    """What a target is, whatever it is called."""
    asked = plan.targets[target]
    return [str(part) for part in (asked.output, asked.index, asked.versus, asked.scale, asked.reduce)]


def _recalled(
    plan: Plan, keys: Mapping[Array, str], counts: Mapping[str, int], shelf: Shelf
) -> tuple[dict[Array, NDArray[Any]], list[str]]:
    """What the shelf has of what is needed, and the sets that have to go through the model, gradients first."""
    needed = {array for array in keys if array[0] not in ("activations", "gradients")}
    for pair in inner_pairs(plan):
        if plan.audit.method.positions or shelf.find(inner_key(keys[pair[0]], keys[pair[1]])) is None:
            needed.update(pair)
    rows = {array: counts[array[1]] for array in needed if array[0] not in ("features", "checks")}
    found = {
        array: kept
        for array in needed
        if (kept := shelf.find(keys[array])) is not None and len(kept) == rows.get(array, len(kept))
    }
    unseen = {name for _, name, *_ in needed - found.keys()}
    alike = list(dict.fromkeys(plan.needs.values()))
    order = sorted(unseen, key=lambda name: (not plan.needs[name].gradients, alike.index(plan.needs[name])))
    return {array: kept for array, kept in found.items() if array[1] not in unseen}, order


def _open(plan: Plan, need: Need, *, provider: Provider, threads: int) -> Session | Sessions:
    """The one graph that yields all that is needed of an example set, or two where gradients are supplied."""
    targets = sorted(need.gradients, key=lambda target: _content(plan, target))
    layers = sorted(_tensors(plan.layers)) if need.gradients else []
    supplied = plan.supplied if need.gradients else None
    asked = [plan.targets[target] for target in targets]
    graph = differentiate(plan.model, layers if supplied is None else [], asked, also=_also(plan, need))
    session = open_session(graph, provider=provider, threads=threads)
    if supplied is None:
        return session
    return Sessions((session, open_session(supplied.of(targets, layers), provider=provider, threads=threads)))


def _batches(
    plan: Plan, rows: Iterable[str], read: Read, *, provider: Provider, threads: int
) -> Iterator[tuple[Session | Sessions, str, Batch]]:
    """Each batch of example sets with the graph that it goes through: one for all sets of which the same is needed."""
    for (need, size), names in groupby(rows, key=lambda name: (plan.needs[name], batch_size(plan, plan.needs[name]))):
        session = _open(plan, need, provider=provider, threads=threads)
        for name, batch in read(dict.fromkeys(names, size)):
            yield session, name, batch


def _pass(plan: Plan, one: tuple[Session | Sessions, str, Batch]) -> tuple[str, Batch, dict[str, Floats]]:
    """A batch of an example set with what the model makes of it."""
    session, name, batch = one
    found = session.run(plan.feeds(batch.values))
    _check_finite(found, name, batch)
    return name, batch, found


def _also(plan: Plan, need: Need) -> list[str]:
    """The tensors that are read beside gradients: layers, and the targets' whole outputs."""
    layers = _tensors(plan.layers) if need.activations or need.gradients else []
    return sorted({*layers, *(plan.resolved[target].tensor for target in need.outputs)})


def _tensors(layers: Sequence[Layer]) -> list[str]:
    return list(dict.fromkeys(layer.tensor for layer in layers))


def _keep(
    plan: Plan,
    name: str,
    of: range,
    batch: Batch,
    found: Mapping[str, Floats],
    room: Room,
) -> None:
    """Puts one batch's results where they belong among those of its set's rows."""
    need, count = plan.needs[name], len(of)
    rows = slice(batch.start - of.start, batch.start - of.start + len(batch.names))
    widths = []
    for layer in plan.layers if need.activations else ():
        values = reduced(found[layer.tensor], layer.reduce)
        widths.append(values.shape[1])
        room(("activations", name, layer.name), (count, values.shape[1]))[rows] = values
    if batch.start == 0:
        room(("features", name), (len(plan.layers),), np.int64)[...] = widths or 0
    for target in need.gradients:
        room(("values", name, target), (count,), np.float64)[rows] = found[f"value/{target}"].reshape(-1)
        for layer in plan.layers:
            gradient = reduced_gradient(found[f"gradient/{target}/{layer.tensor}"], found[layer.tensor], layer.reduce)
            room(("gradients", name, target, layer.name), (count, gradient.shape[1]))[rows] = gradient
    for target in need.outputs:
        output = scores(found[plan.resolved[target].tensor], plan.targets[target].reduce)
        room(("outputs", name, target), (count, output.shape[1]), np.float64)[rows] = output


def _check_finite(found: Mapping[str, Floats], name: str, batch: Batch) -> None:
    """No NaN and no infinity goes on; raises `Refused` that names the tensor and the example."""
    for tensor, values in found.items():
        with np.errstate(over="ignore", invalid="ignore"):
            if np.isfinite(values.sum()):
                continue  # one number that is not finite makes the sum so too
        finite = np.isfinite(values.reshape(len(batch.names), -1)).all(axis=1)
        if not finite.all():
            example = batch.names[int(np.argmin(finite))]
            raise Refused(
                "not-finite",
                f"'{tensor}' is not a finite number for example '{example}' of '{name}'.",
                "Check the example and its preprocessing; if they are right, the model overflows there.",
                f"/examples/{name}",
            )


def _check_gradients(
    plan: Plan,
    name: str,
    batch: Batch,
    found: Mapping[str, Floats],
    room: Room,
    threads: int,
) -> None:
    """Gradients against finite differences of the forward graph at a few examples; raises `Refused` if they differ."""
    method = plan.audit.method
    checks = (check_gradients if plan.supplied is None else check_claims)(
        plan.model,
        _tensors(plan.layers),
        [plan.targets[target] for target in plan.needs[name].gradients],
        {name: values[:CHECKED_EXAMPLES] for name, values in plan.feeds(batch.values).items()},
        seed=method.seed,
        tolerance=method.gradient_tolerance,
        threads=threads,
        claimed={tensor: values[:CHECKED_EXAMPLES] for tensor, values in found.items()},
    )
    if plan.supplied is not None:
        with about("/gradient"):
            refuse_wrong(checks, method.gradient_tolerance)
    for check in checks:
        if not check.ok:
            raise Refused(
                "gradient-check-failed",
                f"The gradient of '{check.target}' at layer '{check.layer}' differs from finite differences by "
                f"{check.residual:.2g} of its size (tolerance {method.gradient_tolerance:g}); it is read by "
                f"{check.suspect}.",
                "Choose another layer, or report the model: no figure is given on a gradient that may be wrong.",
                "/layers",
            )
    figures = [[check.cosine, check.residual, check.step] for check in checks]
    room(("checks", name), (len(checks), 3), np.float64)[...] = figures


def _seen(plan: Plan, keys: Mapping[Array, str], arrays: Mapping[Array, NDArray[Any]]) -> Seen:
    """The arrays, with names of their own for those that are read by name."""
    placed = next((arrays["features", name] for name in plan.places), np.zeros(0, np.int64))
    return Seen(
        keys=keys,
        arrays=arrays,
        features={layer.name: int(size) for layer, size in zip(plan.layers, placed, strict=bool(len(placed)))},
        values={array[2]: values for array, values in arrays.items() if array[0] == "values"},
        outputs={(array[1], array[2]): values for array, values in arrays.items() if array[0] == "outputs"},
        checks=tuple(
            GradientCheck(layer, target, cosine, residual, step, ok=True, suspect=None)
            for name, need in plan.needs.items()
            if need.gradients
            for (layer, target), (cosine, residual, step) in zip(
                [(layer, target) for layer in _tensors(plan.layers) for target in need.gradients],
                arrays["checks", name].tolist(),
                strict=True,
            )
        ),
    )
