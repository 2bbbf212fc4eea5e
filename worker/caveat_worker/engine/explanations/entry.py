"""What stands for the input of a model: the tensors whose numbers an explanation takes apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from caveat_worker.engine.autodiff.backward import reached_from
from caveat_worker.engine.autodiff.differentiate import gradient_state
from caveat_worker.engine.autodiff.model import Model
from caveat_worker.engine.autodiff.opaque import values_between
from caveat_worker.engine.autodiff.target import Target, resolve_target
from caveat_worker.engine.base.arrays import AnyArray, Float32Array
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.onnx.graph import TensorInfo, describe_value
from caveat_worker.engine.onnx.values import shape_of_value


@dataclass(frozen=True)
class Entry:
    """The tensors that stand for the input: one, or the columns of a table that a model takes one by one."""

    tensors: tuple[TensorInfo, ...]
    with_gradient: tuple[str, ...]
    """The names of those that a gradient reaches."""
    embeds: bool
    """Whether it is a tensor inside the model, behind token ids."""

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors' names."""
        return tuple(tensor.name for tensor in self.tensors)

    @property
    def has_texts(self) -> bool:
        """Whether a tensor holds texts, with which nothing can be calculated."""
        return any(tensor.dtype == "object" for tensor in self.tensors)

    def joined(self, feeds: Mapping[str, AnyArray]) -> AnyArray:
        """One array [n, …] of the model's inputs; columns beside one of texts become objects [n, columns]."""
        if len(self.tensors) == 1:
            return feeds[self.names[0]]
        columns = [np.asarray(feeds[name]).reshape(-1, 1) for name in self.names]
        return np.concatenate([column.astype(object) for column in columns] if self.has_texts else columns, axis=1)

    def split(self, x: AnyArray) -> dict[str, AnyArray]:
        """The reverse of `joined`: each tensor's array in its own type and shape."""
        if len(self.tensors) == 1:
            return {self.names[0]: x.astype(self.tensors[0].dtype, copy=False)}
        return {
            tensor.name: x[:, [index]].reshape(-1, *[1] * (len(tensor.shape) - 1)).astype(tensor.dtype)
            for index, tensor in enumerate(self.tensors)
        }

    def gathered(self, gradients: Mapping[str, AnyArray], outputs: Sequence[str], x: AnyArray) -> Float32Array:
        """Gradients in the shape of x, from those of each tensor; 0 where none reaches a column."""
        if len(self.tensors) == 1:
            return gradients[outputs[0]]
        whole = np.zeros(x.shape, np.float32)
        for name, output in zip(self.with_gradient, outputs, strict=True):
            whole[:, self.names.index(name)] = gradients[output].reshape(len(x))
        return whole

    def numbers(self, x: AnyArray) -> Float32Array:
        """x as numbers; 0 in place of a category, which has no derivative either."""
        if x.dtype != object:
            return x
        columns = [
            x[:, index].astype(np.float32) if tensor.dtype != "object" else np.zeros(len(x), np.float32)
            for index, tensor in enumerate(self.tensors)
        ]
        return np.stack(columns, axis=1)


def find_entry(model: Model, target: Target) -> Entry:
    """What stands for the input of a target; raises `InvalidInput` for a target that no input leads to."""
    on_path = values_between(model, resolve_target(model, target).tensor)
    inputs = [value for value in model.ir.graph.inputs if value in on_path]
    if not inputs:
        raise InvalidInput(
            "no-input",
            f"No input of the model leads to target '{target.name}', so nothing can be explained.",
            "Name an output that depends on the examples.",
        )
    floats = [value for value in inputs if value.dtype is not None and value.dtype.is_floating_point()]
    columns = all(_is_column(value) for value in inputs)
    if len(inputs) > 1 and columns:
        chosen = inputs
    elif floats:
        chosen = [max(floats, key=lambda value: len(shape_of_value(value) or ()))]
    else:
        embedded = _behind_ids(model, on_path)
        chosen = [embedded] if embedded is not None else inputs[:1]
    return Entry(
        tuple(map(describe_value, chosen)),
        _reached(model, target, chosen),
        embeds=not chosen[0].is_graph_input(),
    )


def _is_column(value: ir.Value) -> bool:
    """Whether an input has one number or text for each example."""
    shape = shape_of_value(value) or ()
    return len(shape) <= 1 or (len(shape) == 2 and shape[1] == 1)


def _behind_ids(model: Model, on_path: set[ir.Value]) -> ir.Value | None:
    """The embeddings [n, tokens, channels] behind inputs of token ids, on the way to the target.

    Of several that are looked up, as words, types and positions are, it is that with the most rows to choose from, else
    the first tensor of numbers of that form; a mask [n, tokens, 1] is none.
    """
    ids = [value for value in model.ir.graph.inputs if value in on_path and value.dtype is not None]
    behind = reached_from(list(model.ir.graph), [value for value in ids if value.dtype != ir.DataType.STRING])
    found = [
        node.outputs[0]
        for node in model.ir.graph
        if node.outputs[0] in behind and node.outputs[0] in on_path and _is_embedding(node.outputs[0])
    ]
    return max(found, key=_rows_to_choose_from, default=None)


def _is_embedding(value: ir.Value) -> bool:
    """Whether a tensor has several numbers for each token."""
    shape = shape_of_value(value) or ()
    number = value.dtype is not None and value.dtype.is_floating_point()
    return number and len(shape) == 3 and 1 not in shape[1:]


def _rows_to_choose_from(value: ir.Value) -> int:
    """How many rows the table has from which a tensor is looked up; 0 where it is not looked up."""
    maker = value.producer()
    table = None if maker is None or maker.op_type != "Gather" else maker.inputs[0]
    shape = () if table is None else shape_of_value(table) or ()
    return shape[0] if len(shape) == 2 and isinstance(shape[0], int) else 0


def _reached(model: Model, target: Target, chosen: Sequence[ir.Value]) -> tuple[str, ...]:
    """The names of the tensors that a gradient reaches."""
    names = [v.name or "" for v in chosen if v.dtype is not None and v.dtype.is_floating_point()]
    state = gradient_state(model, target, names) if names else {}
    return tuple(name for name in names if name in state and state[name] is None)
