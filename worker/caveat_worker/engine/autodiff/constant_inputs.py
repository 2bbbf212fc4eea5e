"""Fixes inputs that no example feeds: those that an audit declares constant, and recurrent states, which are zero.

A cache of earlier tokens, such as the `past_key_values` of a decoder, is a state without any token in it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

import numpy as np
import onnx_ir as ir

from caveat_worker.engine.autodiff.builder import GraphBuilder, Tensor, op
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.onnx.values import Dim, shape_of_value

_BEFORE_OR_AFTER = {
    "", "0", "1", "cur", "i", "in", "init", "initial", "input", "n", "new", "next", "o", "out", "output", "past",
    "present", "prev", "previous", "t", "updated",
}  # fmt: skip


def fix_inputs(
    model: ir.Model, constants: Mapping[str, float], fed: Collection[str]
) -> tuple[dict[str, float], dict[str, int]]:
    """Replaces constant inputs by their numbers, in place; returns the numbers of all inputs that it replaced.

    With them goes the axis of each cache, along which it is empty. What a cache becomes is no output of a model that
    has others: it is for the next tokens, and holds no scores.

    Inputs in `fed` have values of their own, so they are no constants even if they are recurrent states. Raises
    `InvalidInput` for a constant that is no input, or whose size nothing tells.
    """
    inputs = {value.name or "": value for value in model.graph.inputs if not value.is_initializer()}
    for name in constants:
        if name not in inputs:
            raise InvalidInput(
                "unknown-input",
                f"The model has no input '{name}' to hold constant.",
                f"Its inputs are {', '.join(repr(one) for one in inputs)}.",
                f"/constants/{name}",
            )
    numbers = dict.fromkeys(recurrent_states(model, fed), 0.0) | dict(constants)
    empty = empty_axes(model, [name for name in numbers if name not in constants])
    builder = GraphBuilder(model.graph, "constant")
    others = [value for name, value in inputs.items() if name not in numbers]
    for name, number in numbers.items():
        value = inputs[name]
        model.graph.inputs.remove(value)
        filled = _filled(builder, value, number, others, empty.get(name))
        value.replace_all_uses_with(filled, replace_graph_outputs=True)
        if name in empty:
            later = [output for output in model.graph.outputs if _continues(value, output)]
            for output in later if len(later) < len(model.graph.outputs) else ():
                model.graph.outputs.remove(output)
        value.name = f"{name}/fed"
        filled.name = name
    nodes = list(model.graph)
    if builder.nodes and nodes:
        model.graph.insert_before(nodes[0], builder.nodes)
    return numbers, empty


def recurrent_states(model: ir.Model, fed: Collection[str] = ()) -> list[str]:
    """Float inputs after the first that have an output of their name (`h` and `hn`, `state` and `stateN`) and shape."""
    inputs = [value for value in model.graph.inputs if not value.is_initializer()]
    states = []
    for value in inputs[1:]:
        floats = value.dtype is not None and value.dtype.is_floating_point()
        if floats and value.name not in fed and any(_continues(value, output) for output in model.graph.outputs):
            states.append(value.name or "")
    return states


def empty_axes(model: ir.Model, states: Collection[str]) -> dict[str, int]:
    """The axis of earlier tokens of each state that is a cache: one of a size that nothing else has, behind the batch.

    At the start of a text there are none.
    """
    found = {}
    inputs = [value for value in model.graph.inputs if not value.is_initializer()]
    fed = {size for value in inputs if value.name not in states for size in shape_of_value(value) or ()}
    for value in inputs:
        shape = shape_of_value(value) or ()
        if value.name in states and len(shape) == _CACHE_RANK:
            axes = [axis for axis in range(1, _CACHE_RANK) if shape[axis] is None or _named_apart(shape[axis], fed)]
            if len(axes) == 1:
                found[value.name or ""] = axes[0]
    return found


def _named_apart(size: Dim, fed: Collection[Dim]) -> bool:
    """Whether an axis has a name that no axis of an input with examples has."""
    return isinstance(size, str) and size not in fed


_CACHE_RANK = 4
"""Keys and values of attention are [batch, heads, tokens, width]."""


def _continues(state: ir.Value, output: ir.Value) -> bool:
    """Whether an output is the next value of a state."""
    before, after = shape_of_value(state), shape_of_value(output)
    if before is None or after is None or len(before) != len(after) or _stem(state) != _stem(output):
        return False
    return all(a == b for a, b in zip(before, after, strict=True) if isinstance(a, int) and isinstance(b, int))


def _stem(value: ir.Value) -> tuple[str, ...]:
    """A name without the words for before and after: `h`, `h0`, `hn`, `in_h` and `h_out` are all one.

    So are `past_key_values.3.key` and `present.3.key`.
    """
    words = re.findall(
        r"[a-z]+|[A-Z]+[a-z]*|\d+", re.sub(r"past_key_values?|present_key_values?", "past", value.name or "")
    )
    stems = [word if len(word) != 2 or word[1] not in "n0" else word[0] for word in map(str.lower, words)]
    return tuple(stem for stem in stems if stem not in _BEFORE_OR_AFTER)


def _filled(
    builder: GraphBuilder, value: ir.Value, number: float, others: list[ir.Value], empty: int | None
) -> ir.Value:
    """The constant in the input's shape; sizes that are not fixed are those of the inputs that remain, or 0."""
    shape = tuple(0 if axis == empty else size for axis, size in enumerate(shape_of_value(value) or ()))
    scalar = np.asarray(number).astype(value.dtype.numpy() if value.dtype is not None else np.float32)
    known = [size for size in shape if isinstance(size, int)]
    if len(known) == len(shape):
        return builder.initializer(np.full(known, scalar))
    sizes = [_size(builder, value, size, others) for size in shape]
    filled = op.Expand(builder.constant(scalar), op.Concat(*sizes, axis=0)).value
    filled.shape, filled.type = ir.Shape(shape), value.type
    return filled


def _size(builder: GraphBuilder, value: ir.Value, size: Dim, others: list[ir.Value]) -> Tensor:
    """The length of one axis [1]: a number, an axis of the same name of another input, or for no name the batch."""
    if isinstance(size, int):
        return builder.constant(np.asarray([size], np.int64))
    for other in others:
        shape = shape_of_value(other) or ()
        axis = 0 if size is None else next((i for i, d in enumerate(shape) if d == size), None)
        if axis is not None and shape:
            return op.Gather(op.Shape(Tensor(builder, other)), np.asarray([axis], np.int64))
    raise InvalidInput(
        "constant-of-unknown-size",
        f"Input '{value.name}' cannot be constant: no other input has its size '{size}'.",
        "Export the model with that size fixed, or feed the input from an array.",
        f"/constants/{value.name}",
    )
