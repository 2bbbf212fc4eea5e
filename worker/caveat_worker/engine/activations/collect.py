"""A plan and batches of examples → activations, gradients and outputs; each example goes through the model once.

Arrays that the store has are not computed again: where every inner product of two example sets is known, neither of
them goes through the model.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from itertools import groupby
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caveat_worker.engine.activations.array_keys import (
    CHECK_FIGURES,
    Array,
    all_keys,
    arrays_read,
    inner_key,
    inner_pairs,
    kept_tensors,
    layer_tensors,
    other_tensors,
    piece_key,
    target_content,
)
from caveat_worker.engine.activations.batches import Batch, Read, batch_size, side_by_side
from caveat_worker.engine.activations.collected import Collected, Examples
from caveat_worker.engine.activations.constant_layers import constant_layers
from caveat_worker.engine.activations.pooling import marked, reduced, reduced_gradient, scores
from caveat_worker.engine.activations.requirements import Plan, SetRequirements
from caveat_worker.engine.activations.target_values import reduced_value
from caveat_worker.engine.autodiff.differentiate import differentiate, expose
from caveat_worker.engine.autodiff.external_gradients import refuse_wrong
from caveat_worker.engine.autodiff.gradient_check import (
    GradientCheck,
    check_external_gradients,
    check_gradients,
    readers,
)
from caveat_worker.engine.autodiff.layers import NO_ROW_FOR_EACH_EXAMPLE
from caveat_worker.engine.autodiff.noise import runs
from caveat_worker.engine.autodiff.rules import TABLES
from caveat_worker.engine.autodiff.segments import Rows
from caveat_worker.engine.base.arrays import Float32Array
from caveat_worker.engine.base.errors import InvalidInput, error_context
from caveat_worker.engine.base.store import ArrayStore
from caveat_worker.engine.base.threads import parallel_map
from caveat_worker.engine.onnx.session import Provider, Session, Sessions, open_session

Allocate = Callable[..., NDArray[Any]]
"""Makes room for an array, by what it is, its shape and its dtype (float32 where left out)."""

CHECKED_EXAMPLES = 4


def collect(
    plan: Plan,
    counts: Mapping[str, int],
    read: Read,
    store: ArrayStore,
    *,
    provider: Provider,
    versions: Mapping[str, str],
    threads: int,
    progress: Callable[[int], None],
    examples: Mapping[str, Examples],
    before: Collected | None = None,
) -> Collected:
    """Runs the model over every example set that the plan needs and the store cannot replace.

    `before` is what an earlier look collected of the first of these examples, which go through the model no more.

    `progress` counts examples. Raises InvalidInput for numbers that are not finite (naming the example), for gradients
    that fail their check, and for layers that are the same at all examples; layers that the plan chose itself are left
    out instead, with a warning.
    """
    keys = all_keys(plan, provider, versions)
    arrays, unseen = recalled(plan, keys, counts, store)
    rows = {name: range(_known_rows(name, keys, before), counts[name]) for name in unseen}
    progress(sum(counts[name] for name in plan.needs) - sum(map(len, rows.values())))
    allocate = _grown(_allocator(store, arrays, keys.__getitem__), arrays, rows, before)
    some = {name: of for name, of in rows.items() if of}
    _run_rows(plan, some, partial(read, rows=rows), allocate, provider=provider, threads=threads, progress=progress)
    return _collected(plan, keys, arrays, examples, store)


def _known_rows(name: str, keys: Mapping[Array, str], before: Collected | None) -> int:
    """How many examples of a set an earlier look has every array of."""
    if before is None or before.plan.look is None:
        return 0
    known = all(array in before.arrays for array in keys if array[1] == name)
    return before.plan.look.counts[name][-1] if known else 0


def _grown(
    allocate: Allocate, arrays: Mapping[Array, NDArray[Any]], rows: Mapping[str, range], before: Collected | None
) -> Allocate:
    """Makes allocate give room for new rows behind those of an earlier look, which are copied first."""
    if before is None:
        return allocate

    def of_new_rows(array: Array, shape: tuple[int, ...], dtype: type = np.float32) -> NDArray[Any]:
        known, fresh = rows[array[1]].start, array not in arrays
        whole = allocate(array, (known + shape[0], *shape[1:]), dtype)
        if known and fresh:
            whole[:known] = before.arrays[array]
        return whole[known:]

    for array, values in before.arrays.items():
        of = rows.get(array[1], range(0))
        if of.start and (not of or array[0] in ("features", "checks")):
            allocate(array, values.shape, values.dtype.type)[...] = values
    return of_new_rows


def collect_rows(
    plan: Plan,
    rows: Mapping[str, range],
    read: Read,
    store: ArrayStore,
    *,
    provider: Provider,
    versions: Mapping[str, str],
    threads: int,
    progress: Callable[[int], None],
) -> None:
    """Runs the model over some rows of example sets, and keeps pieces of the arrays that `collect` would make.

    Rows that begin and end between batches are in the same batches as there. Raises InvalidInput as `collect` does.
    """
    keys = all_keys(plan, provider, versions)
    allocate = _allocator(store, {}, lambda array: piece_key(keys[array], rows[array[1]].start))
    _run_rows(plan, rows, read, allocate, provider=provider, threads=threads, progress=progress)


def recalled(
    plan: Plan, keys: Mapping[Array, str], counts: Mapping[str, int], store: ArrayStore
) -> tuple[dict[Array, NDArray[Any]], list[str]]:
    """The arrays that the store has, and the sets that have to go through the model, those with gradients first."""
    needed = {array for array in keys if array[0] not in ("activations", "gradients", "tensors")}
    if plan.requires.arrays:
        needed.update(keys)
    needed.update(arrays_read(plan))
    for pair in inner_pairs(plan):
        if store.get(inner_key(keys[pair[0]], keys[pair[1]])) is None:
            needed.update(pair)
    rows = {array: counts[array[1]] for array in needed if array[0] not in ("features", "checks")}
    found = {
        array: kept
        for array in needed
        if (kept := store.get(keys[array])) is not None and len(kept) == rows.get(array, len(kept))
    }
    unseen = {name for _, name, *_ in needed - found.keys()}
    alike = list(dict.fromkeys(plan.needs.values()))
    order = sorted(unseen, key=lambda name: (not plan.needs[name].gradients, alike.index(plan.needs[name])))
    return {array: kept for array, kept in found.items() if array[1] not in unseen}, order


def _allocator(store: ArrayStore, arrays: dict[Array, NDArray[Any]], key: Callable[[Array], str]) -> Allocate:
    """Makes allocate in a store for each array that has none yet."""

    def allocate(array: Array, shape: tuple[int, ...], dtype: type = np.float32) -> NDArray[Any]:
        if array not in arrays:
            arrays[array] = store.allocate(key(array), shape, dtype)
        return arrays[array]

    return allocate


def _run_rows(
    plan: Plan,
    rows: Mapping[str, range],
    read: Read,
    allocate: Allocate,
    *,
    provider: Provider,
    threads: int,
    progress: Callable[[int], None],
) -> None:
    """Runs the model over rows of example sets; gradients are checked beside that, which comes first in a fault.

    A model that is too large to run twice at a time checks them in between.
    """
    count, threads_each = side_by_side(plan, threads, provider)
    turn: AbstractContextManager[Any] = Lock() if plan.model.weights_in_file else nullcontext()
    batches = _batches(plan, rows, read, provider=provider, threads=threads_each)
    checks: list[Future[None]] = []
    with ThreadPoolExecutor(1) as beside:
        try:
            for name, batch, found in parallel_map(partial(_run_batch, plan, turn), batches, count):
                if batch.start == 0 and plan.needs[name].gradients:
                    check_first = partial(_check_gradients, plan, turn, name, batch, found, allocate, threads_each)
                    checks.append(beside.submit(check_first))
                _store_batch(plan, name, rows[name], batch, found, allocate)
                progress(len(batch.names))
                for check in filter(Future.done, checks):
                    check.result()
        finally:
            for check in checks:
                check.result()


def _open(plan: Plan, need: SetRequirements, *, provider: Provider, threads: int) -> Session | Sessions:
    """The one graph that yields all that is needed of an example set, or two where gradients are supplied."""
    targets = sorted(need.gradients, key=lambda target: target_content(plan, target))
    layers = sorted(layer_tensors(plan.layers)) if need.gradients else []
    external = plan.external if need.gradients else None
    asked = [plan.targets[target] for target in targets]
    graph = differentiate(
        plan.model,
        layers if external is None else [],
        asked,
        also=other_tensors(plan, need),
        rules=TABLES[need.rules],
        alone=plan.alone(need),
    )
    session = open_session(graph, provider=provider, threads=threads)
    if external is None:
        return session
    return Sessions((session, open_session(external.of(targets, layers), provider=provider, threads=threads)))


def _batches(
    plan: Plan, rows: Iterable[str], read: Read, *, provider: Provider, threads: int
) -> Iterator[tuple[Session | Sessions, str, Batch]]:
    """Each batch of example sets with the graph that it goes through: one for all sets of which the same is needed."""
    for (need, size), names in groupby(rows, key=lambda name: (plan.needs[name], batch_size(plan, plan.needs[name]))):
        session = _open(plan, need, provider=provider, threads=threads)
        for name, batch in read(dict.fromkeys(names, size)):
            yield session, name, batch


def _run_batch(
    plan: Plan, turn: AbstractContextManager[Any], one: tuple[Session | Sessions, str, Batch]
) -> tuple[str, Batch, dict[str, Float32Array]]:
    """A batch of an example set with what the model makes of it, in its turn."""
    session, name, batch = one
    with turn:
        try:
            found = session.run(plan.feeds(batch.values))
        except InvalidInput:  # the file may say of its scores what they are not, and gradients rely on that
            _check_scores(plan, plan.needs[name].gradients, batch)
            raise
    for target in plan.needs[name].gradients:
        _check_rows(plan, target, found[f"value/{target}"], len(batch.names))
    _check_finite(found, name, batch)
    return name, batch, found


def _check_scores(plan: Plan, targets: Collection[str], batch: Batch) -> None:
    """Raises InvalidInput where scores, computed alone, do not have a row for each example."""
    tensors = {target: plan.resolved[target].tensor for target in targets}
    if tensors:
        session = open_session(expose(plan.model, [*tensors.values()]), threads=1, optimise=False)
        for _, found in runs(session, [plan.feeds(batch.values)]):
            for target, tensor in tensors.items():
                _check_rows(plan, target, found[tensor], len(batch.names))


def _check_rows(plan: Plan, target: str, raw: NDArray[Any], examples: int) -> None:
    """Raises InvalidInput where a target's scores do not have a row for each example."""
    if raw.shape[:1] != (examples,):
        raise InvalidInput(
            NO_ROW_FOR_EACH_EXAMPLE,
            f"The scores of target '{target}' have no row for each example: tensor '{plan.resolved[target].tensor}' "
            f"is {' x '.join(map(str, raw.shape)) or 'a single number'} for {examples} example{'s' * (examples != 1)}.",
            "Name another output, or export the model with the batch as the first axis of its scores.",
            f"/targets/{target}/output",
        )


def _store_batch(
    plan: Plan,
    name: str,
    of: range,
    batch: Batch,
    found: Mapping[str, Float32Array],
    allocate: Allocate,
) -> None:
    """Puts one batch's results where they belong among those of its set's rows."""
    need, count = plan.needs[name], len(of)
    tokens = {layer: marked(batch.values, layer.mask) for layer in plan.layers}
    rows = slice(batch.start - of.start, batch.start - of.start + len(batch.names))
    widths = []
    for layer in plan.layers if need.activations else ():
        values = reduced(found[layer.tensor], layer.reduce, layer.channels, tokens[layer])
        widths.append(values.shape[1])
        allocate(("activations", name, layer.name), (count, values.shape[1]))[rows] = values
    for tensor in kept_tensors(plan, name):
        whole = found[tensor]
        allocate(("tensors", name, tensor), (count, *whole.shape[1:]), whole.dtype.type)[rows] = whole
    if batch.start == 0:
        allocate(("features", name), (len(plan.layers),), np.int64)[...] = widths or 0
    for target in need.gradients:
        allocate(("values", name, target), (count,), np.float64)[rows] = found[f"value/{target}"].reshape(-1)
        for layer in plan.layers:
            along = found[f"gradient/{target}/{layer.tensor}"]
            gradient = reduced_gradient(along, found[layer.tensor], layer.reduce, layer.channels, tokens[layer])
            allocate(("gradients", name, target, layer.name), (count, gradient.shape[1]))[rows] = gradient
    for target in need.outputs:
        raw = found[plan.resolved[target].tensor]
        _check_rows(plan, target, raw, len(batch.names))
        asked, axis = plan.targets[target], plan.targets[target].axis(raw.ndim)
        its = marked(batch.values, plan.resolved[target].mask)
        output = scores(raw, asked.reduce, axis, its)
        allocate(("outputs", name, target), (count, output.shape[1]), np.float64)[rows] = output
        if target in plan.reduced_at(need):
            number = reduced_value(raw, asked, axis, plan.resolved[target].link, its)
            allocate(("values", name, target), (count,), np.float64)[rows] = number


def _check_finite(found: Mapping[str, Float32Array], name: str, batch: Batch) -> None:
    """No NaN and no infinity goes on; raises InvalidInput that names the tensor and the example."""
    for tensor, values in found.items():
        with np.errstate(over="ignore", invalid="ignore"):
            if np.isfinite(values.sum()):
                continue  # one number that is not finite makes the sum so too
        finite = np.isfinite(values.reshape(len(batch.names), -1)).all(axis=1)
        if not finite.all():
            example = batch.names[int(np.argmin(finite))]
            raise InvalidInput(
                "not-finite",
                f"'{tensor}' is not a finite number for example '{example}' of '{name}'.",
                "Check the example and its preprocessing; if they are right, the model overflows there.",
                f"/examples/{name}",
            )


def _check_gradients(
    plan: Plan,
    turn: AbstractContextManager[Any],
    name: str,
    batch: Batch,
    found: Mapping[str, Float32Array],
    allocate: Allocate,
    threads: int,
) -> None:
    """Checks gradients at a few examples; raises InvalidInput if one at a layer that was asked for is wrong."""
    method, need = plan.audit.method, plan.needs[name]
    compare = check_gradients if plan.external is None else check_external_gradients
    if plan.external is None and plan.model.weights_in_file and not plan.model.interacts:
        rows = Rows(batch_size(plan, replace(need, gradients=())), batch_size(plan, need))
        compare = partial(check_gradients, rows=rows, alone=plan.alone(need))
    with turn:
        checks = compare(
            plan.model,
            layer_tensors(plan.layers),
            [plan.targets[target] for target in need.gradients],
            {name: values[:CHECKED_EXAMPLES] for name, values in plan.feeds(batch.values).items()},
            seed=method.seed,
            tolerance=method.gradient_tolerance,
            threads=threads,
            claimed={tensor: values[:CHECKED_EXAMPLES] for tensor, values in found.items()},
        )
    if plan.external is not None:
        with error_context("/gradient"):
            refuse_wrong(checks, method.gradient_tolerance)
    chosen = {layer.tensor for layer in plan.layers if layer.chosen}
    for check in checks:
        if not check.ok and check.layer not in chosen:
            raise InvalidInput(
                "gradient-check-failed",
                check.explain(method.gradient_tolerance),
                "Leave the layer out; `layers: auto` does so by itself. Please report the model: no figure is given on "
                "a gradient that may be wrong.",
                "/layers",
            )
    figures = np.array([[getattr(check, figure) for figure in CHECK_FIGURES] for check in checks])
    allocate(("checks", name), (len(checks), len(CHECK_FIGURES)), np.float64)[...] = figures.reshape(len(checks), -1)


def _collected(
    plan: Plan,
    keys: Mapping[Array, str],
    arrays: Mapping[Array, NDArray[Any]],
    examples: Mapping[str, Examples],
    store: ArrayStore,
) -> Collected:
    """The arrays with the sizes of the layers and the gradient checks, without layers that have no figures to give."""
    sizes = next((arrays["features", name] for name in plan.row_ranges), np.zeros(0, np.int64))
    features = {layer.name: int(size) for layer, size in zip(plan.layers, sizes, strict=bool(len(sizes)))}
    checks = list(_checks(plan, arrays))
    plan = _without_constant(_without_failed(plan, checks), constant_layers(plan, keys, arrays, store.get))
    return Collected(
        plan=plan,
        keys=keys,
        arrays=arrays,
        features={layer.name: features[layer.name] for layer in plan.layers if layer.name in features},
        checks=tuple(check for check in checks if check.layer in layer_tensors(plan.layers)),
        examples=examples,
    )


def _checks(plan: Plan, arrays: Mapping[Array, NDArray[Any]]) -> Iterator[GradientCheck]:
    """The gradient checks of all example sets, from their figures."""
    for name, need in plan.needs.items():
        if need.gradients:
            pairs = [(layer, target) for layer in layer_tensors(plan.layers) for target in need.gradients]
            for (layer, target), figures in zip(pairs, arrays["checks", name].tolist(), strict=True):
                known = dict(zip(CHECK_FIGURES, figures, strict=True))
                ok = bool(known.pop("ok"))
                yield GradientCheck(layer, target, ok=ok, suspect=None if ok else readers(plan.model, layer), **known)


def _without_failed(plan: Plan, checks: Iterable[GradientCheck]) -> Plan:
    """The plan without the layers whose gradients failed their check; raises InvalidInput if it has no others."""
    tolerance = plan.audit.method.gradient_tolerance
    failed = {check.layer: check.explain(tolerance) for check in checks if not check.ok}
    if failed and all(layer.tensor in failed for layer in plan.layers):
        raise InvalidInput(
            "gradient-check-failed",
            f"Every layer that `layers: auto` chose fails the gradient check. {next(iter(failed.values()))}",
            "Name other layers (`caveat layers` lists them), and please report the model.",
            "/layers",
        )
    return _without(plan, {layer.name: failed[layer.tensor] for layer in plan.layers if layer.tensor in failed})


def _without_constant(plan: Plan, constant: Mapping[str, str]) -> Plan:
    """The plan without chosen layers that do not vary; raises InvalidInput for one that the audit names, or for all."""
    here = [layer for layer in plan.layers if layer.name in constant]
    for layer in here:
        if not layer.chosen or len(here) == len(plan.layers):
            raise InvalidInput(
                "layer-constant",
                f"Layer '{layer.name}' cannot be audited. {constant[layer.name]}",
                "Name other layers (`caveat layers` lists them)."
                if layer.chosen
                else "Leave the layer out, or name another; `layers: auto` leaves such layers out by itself.",
                "/layers",
            )
    return _without(plan, {layer.name: constant[layer.name] for layer in here})


def _without(plan: Plan, reasons: Mapping[str, str]) -> Plan:
    """The plan without some of the layers that it chose, and with a sentence about each of them."""
    kept = tuple(layer for layer in plan.layers if layer.name not in reasons)
    if len(kept) == len(plan.layers):
        return plan
    partial_passes = plan.passes.partial * len(kept) // len(plan.layers)
    warnings = [f"Layer '{layer}' was chosen by `layers: auto` and left out. {why}" for layer, why in reasons.items()]
    return replace(
        plan,
        layers=kept,
        passes=replace(plan.passes, partial=partial_passes),
        warnings=(*plan.warnings, *warnings),
    )
