"""Tensors whose first axis is not the batch, and that have parts of each example's own all the same.

Windows, frames, channels or choices are rows of their own in many models: [4·n, tokens, channels] of n examples has
four rows of the first example, then four of the second. Others have the batch as a later axis: [tokens, n, channels].
As layers they are [n, 4, tokens, channels] and [n, tokens, channels]: a graph that reads one so has the operators for
it and back behind the tensor, whose name stands for what is between. That parts are examples' own is tried on noise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from caveat_worker.engine.autodiff.builder import GraphBuilder, Tensor, op
from caveat_worker.engine.autodiff.model import USUAL, Model, Placement
from caveat_worker.engine.autodiff.noise import by_rounding, noises, runs
from caveat_worker.engine.autodiff.shapes import size_of, transpose
from caveat_worker.engine.base.arrays import Float64Array
from caveat_worker.engine.onnx.graph import Graph, prune
from caveat_worker.engine.onnx.session import Feeds, open_session
from caveat_worker.engine.onnx.values import Dim, factors_of, shape_of_value

_EXAMPLES = 3
"""Of noise: as few as runs take that no two are changed in together."""
_CLEARER = 3
"""How many times as much as a row of an unchanged example one of a changed example has to differ."""


def rows_of_examples(model: Model, values: Iterable[ir.Value]) -> dict[str, Placement | None]:
    """Where each tensor has its examples, by name; None where that is nowhere.

    By the tensors' shapes, and on noise where those do not tell. The model remembers what it was asked.
    """
    named = {value.name or "": value for value in values}
    unknown = {name: value for name, value in named.items() if name not in model.rows}
    model.rows.update({name: told for name, value in unknown.items() if (told := _told(model, value)) is not None})
    if left := [value for name, value in unknown.items() if name not in model.rows]:
        model.rows.update(_tried(model, left))
    return {name: model.rows[name] for name in named}


def _told(model: Model, value: ir.Value) -> Placement | None:
    """Where a tensor has its examples by its shape, if that is the usual place; of a fixed batch, sizes do not tell."""
    shape, batch = shape_of_value(value), _batch(model)
    first = shape[0] if shape and model.symbolic_batch else None
    return USUAL if value.is_graph_input() or shape is None or first == batch is not None else None


def _batch(model: Model) -> Dim:
    return model.inputs[0].shape[0] if model.inputs and model.inputs[0].shape else None


def own_rows(model: Model, tensor: str) -> Placement | None:
    """`rows_of_examples` of one tensor."""
    value = model.value(tensor)
    return None if value is None else rows_of_examples(model, [value])[value.name or ""]


def shape_by_example(model: Model, tensor: str) -> tuple[Dim, ...] | None:
    """A tensor's shape as a layer [n, …], with an axis for an example's rows if it has several; None if unknown."""
    value = model.value(tensor)
    return None if value is None else shape_of_layer(model, value)


def shape_of_layer(model: Model, value: ir.Value) -> tuple[Dim, ...] | None:
    """The same of a value of the model's graph."""
    shape, rows = shape_of_value(value), rows_of_examples(model, [value])[value.name or ""]
    if not shape or rows is None or rows == USUAL:
        return shape
    others = (*shape[: rows.axis], *shape[rows.axis + 1 :])
    if rows.count == 1:
        return (_batch(model), *others)
    fixed = all(isinstance(size, int) for one in model.inputs for size in one.shape[1:])
    return (_batch(model), rows.count if fixed else _beside(shape[rows.axis], _batch(model)), *others)


def group_by_example(model: Model, tensors: Iterable[str]) -> None:
    """Gives those of the tensors that have examples elsewhere than usual the shape that they have as layers, in place.

    What read such a tensor reads it as it was.
    """
    graph = model.ir.graph
    values = {name: value for name in tensors if (value := model.value(name)) is not None}
    placed = rows_of_examples(model, values.values())
    for name, value in values.items():
        maker, rows, shape = value.producer(), placed[name], shape_of_layer(model, value)
        if maker is None or rows is None or rows == USUAL or shape is None:
            continue
        readers, builder = list(value.uses()), GraphBuilder(graph, prefix=f"{name}/by_example")
        value.name = f"{name}/rows"
        order = rows.order(len(shape_of_value(value) or ()))
        ordered = transpose(Tensor(builder, value), order)
        ahead = (-1, shape[1]) if isinstance(shape[1], int) else (size_of(Tensor(builder, graph.inputs[0]), 0), -1)
        grouped = ordered if rows.count == 1 else op.Reshape(ordered, _sizes(ahead, ordered, 1))
        layer = builder.named(grouped, name)
        layer.shape, layer.type = ir.Shape(shape), value.type
        together = Tensor(builder, layer)
        parted = together if rows.count == 1 else op.Reshape(together, _sizes((-1,), together, 2))
        again = transpose(parted, [int(axis) for axis in np.argsort(order)]).value
        again.shape, again.type = value.shape, value.type
        for use in readers:
            use.node.replace_input_with(use.idx, again)
        graph.insert_after(maker, builder.nodes)


def _sizes(ahead: Sequence[Tensor | int], like: Tensor, axis: int) -> Tensor:
    """The sizes that a Reshape is given: some ahead of those of a tensor from an axis on."""
    first = [one if isinstance(one, Tensor) else like.builder.constant(np.array([one], np.int64)) for one in ahead]
    return op.Concat(*first, *(size_of(like, one) for one in range(axis, like.rank)), axis=0)


def _tried(model: Model, values: Sequence[ir.Value]) -> dict[str, Placement | None]:
    """`rows_of_examples` on noise: along the likeliest axis of each tensor, and along others where that is not it."""
    axes = {value: _likely_axes(value, _batch(model)) for value in values}
    found = _tried_along(model, {value: some[:1] for value, some in axes.items()})
    others = {value: some[1:] for value, some in axes.items() if some[1:] and found[value.name or ""] is None}
    return found | (_tried_along(model, others) if others else {})


def _likely_axes(value: ir.Value, batch: Dim) -> list[int]:
    """The axes along which examples may follow each other, by their sizes, the likeliest first."""
    shape = (shape_of_value(value) if isinstance(value.type, ir.TensorType) else None) or ()
    may = [not isinstance(size, int) or (isinstance(batch, int) and size % batch == 0) for size in shape]
    likely = [axis for axis, size in enumerate(shape) if may[axis]]
    return sorted(likely, key=lambda axis: (shape[axis] != batch, str(batch) not in str(shape[axis]), axis))


def _tried_along(model: Model, axes: Mapping[ir.Value, Sequence[int]]) -> dict[str, Placement | None]:
    """The same along these axes; of a model that runs on no noise, the usual place where no size contradicts it."""
    copy = model.ir.clone()
    made = {value.name: value for node in copy.graph for value in node.outputs}
    builder, traces = GraphBuilder(copy.graph, prefix="trace"), {}
    for value, some in axes.items():
        if value.name in made:
            x = Tensor(builder, made[value.name])
            traces[value] = {axis: _trace(x, axis) for axis in some}
    found: dict[str, Placement | None] = dict.fromkeys(value.name or "" for value in axes)
    outputs = [trace for of_axes in traces.values() for trace in of_axes.values()]
    if not outputs:
        return found
    copy.graph.extend(builder.nodes)
    session = open_session(Graph(prune(copy, outputs)), threads=1, optimise=False)
    feeds, before = next(runs(session, noises(model.ir, batch=_EXAMPLES, seed=5)), ({}, {}))
    if not before:
        sizes = {value.name or "": (shape_of_value(value) or (0,))[0] for value in axes}
        return {name: None if isinstance(size, int) or "*" in str(size) else USUAL for name, size in sizes.items()}
    changed = _codes(len(next(iter(feeds.values()))))
    after = [outputs for _, outputs in runs(session, (_with_others(feeds, these) for these in changed))]
    tolerance = by_rounding(model.ir)
    for value, of_axes in traces.items() if len(after) == len(changed) else ():
        names = {axis: trace.name or "" for axis, trace in of_axes.items()}
        changes = {axis: np.array([_changes(before[one], run[one]) for run in after]) for axis, one in names.items()}
        rows = _rows(changes, changed, tolerance, lenient=model.interacts)
        found[value.name or ""] = None if value.is_graph_output() and rows != USUAL else rows
    return found


def _trace(x: Tensor, axis: int) -> ir.Value:
    """Two numbers for each place of an axis [places, 2], which are others where what is there is another.

    Both differ where a layer has been normalised to one mean and one variance.
    """
    rows = op.Flatten(transpose(x, Placement(axis, 1).order(x.rank)), axis=1)
    return op.Concat(op.ReduceL1(rows, [1], keepdims=1), op.ReduceLogSumExp(rows, [1], keepdims=1), axis=1).value


def _codes(examples: int) -> NDArray[np.bool_]:
    """Which examples are others in each run [runs, examples]: each in some, and no two in the same."""
    numbers = np.arange(1, examples + 1)
    return np.array([numbers >> bit & 1 for bit in range(examples.bit_length())], bool)


def _with_others(feeds: Mapping[str, NDArray[Any]], changed: NDArray[np.bool_]) -> Feeds:
    """Feeds in which some examples are 1 - x, or each of their texts another one's."""
    found = {}
    for name, values in feeds.items():
        found[name] = values.copy()
        if values.shape[:1] == changed.shape:
            others = np.roll(values, 1, axis=-1) if values.dtype == object else (1 - values).astype(values.dtype)
            found[name][changed] = others[changed]
    return found


def _changes(before: NDArray[Any], after: NDArray[Any]) -> Float64Array:
    """By how much each row's traces [rows, 2] differ, relative to the largest [rows]."""
    if before.shape != after.shape:
        return np.full(len(before), np.inf)
    finite = np.isfinite(before) & np.isfinite(after)
    largest = np.abs(before, where=finite, out=np.zeros(before.shape)).max(axis=0, initial=1e-30)
    difference = np.subtract(after, before, where=finite, out=np.zeros(before.shape), dtype=np.float64)
    return np.asarray(np.abs(difference / largest).max(axis=1, initial=0))


def _rows(
    changes: Mapping[int, Float64Array], changed: NDArray[np.bool_], tolerance: float, *, lenient: bool
) -> Placement | None:
    """Where the examples are, by the changes [runs, places] along each axis, of those that were changed.

    `changed` [runs, examples] are those. One row for each along the first axis is taken for their own also where the
    noise does not change it, or if it is `lenient` with a model whose examples influence each other. A place for each
    is likelier than several.
    """
    examples = changed.shape[1]
    for axis, along in sorted(changes.items(), key=lambda one: (one[1].shape[1] != examples, one[0])):
        count, rest = divmod(along.shape[1], examples)
        if rest or not count:
            continue
        by_example, rows = along.reshape(*changed.shape, count).max(axis=2), Placement(axis, count)
        still, moved = by_example[~changed].max(initial=0), by_example[changed].min()
        if rows == USUAL and (lenient or still <= tolerance):
            return rows
        if still <= tolerance and moved > _CLEARER * still:
            return rows
    return None


def _beside(size: Dim, batch: Dim) -> Dim:
    """What a size such as `4*batch` is times the batch; None where that cannot be read from it."""
    factors = factors_of(size)
    others = [factor for factor in factors if factor != batch]
    return others[0] if len(factors) == 2 and len(others) == 1 else None
