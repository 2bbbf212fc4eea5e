"""Lists the tensors of a model that can be audited, and chooses a few of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from caveat_worker.engine.autodiff.backward import of_numbers, reached_from, read_by
from caveat_worker.engine.autodiff.by_example import rows_of_examples, shape_of_layer
from caveat_worker.engine.autodiff.differentiate import gradient_state
from caveat_worker.engine.autodiff.model import USUAL, Model
from caveat_worker.engine.autodiff.opaque import float_inputs, is_opaque, values_between
from caveat_worker.engine.autodiff.target import Target, resolve_target
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.onnx.values import Dim, shape_of_value

INPUT = "Input"
"""In place of an operator, for a layer that is an input of the model."""
_ACTIVATIONS = {
    "Celu", "Clip", "Elu", "Erf", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "PRelu", "Relu", "Selu",
    "Sigmoid", "Softplus", "Softsign", "Swish", "Tanh",
}  # fmt: skip

NO_ROW_FOR_EACH_EXAMPLE = "no-row-for-each-example"


@dataclass(frozen=True)
class Layer:
    """A tensor between the inputs and the target; `reason` is why it cannot be audited, if it cannot."""

    tensor: str
    op: str
    shape: tuple[Dim, ...]
    depth: int
    auditable: bool
    reason: str | None


def list_layers(
    model: Model, target: Target, among: Collection[str] | None = None, *, external: Collection[str] = ()
) -> tuple[Layer, ...]:
    """The float tensors on a path from the inputs to the target, in topological order; with `among` only those names.

    An input is a layer only where `among` names it.
    `external` names the tensors that have a gradient from an external graph, and therefore need no rules.
    """
    resolved = resolve_target(model, target)
    nodes = list(model.ir.graph)
    on_path = values_between(model, resolved.tensor)
    inputs = [(value, INPUT) for value in model.ir.graph.inputs if among is not None]
    candidates = [
        (output, operator)
        for output, operator in (*inputs, *((output, node.op_type) for node in nodes for output in node.outputs))
        if output in on_path and output.dtype is not None and output.dtype.is_floating_point()
        if among is None or output.name in among
    ]
    state = gradient_state(model, target, [output.name or "" for output, _ in candidates])
    depth = depths(model)
    layers = []
    scores = model.value(resolved.tensor)
    varying = reached_from(of_numbers(nodes), [v for v in model.ir.graph.inputs if not v.is_initializer()])
    rows = rows_of_examples(model, [output for output, _ in candidates] + ([scores] if scores else []))
    if rows.get(resolved.tensor) != USUAL and model.symbolic_batch:
        raise InvalidInput(
            NO_ROW_FOR_EACH_EXAMPLE,
            f"The scores of target '{target.name}' have no row for each example: the first axis of tensor "
            f"'{resolved.tensor}' is not the batch.",
            "Name another output, or export the model with the batch as the first axis of its scores.",
        )
    for output, operator in candidates:
        name = output.name or ""
        reason = state.get(name, "No gradient reaches it: its values pass through integers.")
        if name in external:
            reason = None
        shape = shape_of_layer(model, output) or ()
        if output not in varying:
            reason = "It is the same for every example: it depends on the sizes of the inputs alone."
        if reason is None and output.shape is None:
            reason = "Its shape could not be inferred."
        if reason is None and (rows[name] is None or (rows[name] != USUAL and name in external)):
            reason = "Its first axis is not the batch."
        layers.append(Layer(name, operator, shape, depth.get(name, 0), reason is None, reason))
    return tuple(layers)


def depths(model: Model) -> dict[str, int]:
    """The number of nodes on the longest path from the inputs to each tensor."""
    depth: dict[str, int] = {}
    for node in model.ir.graph:
        level = 1 + max((depth.get(x.name or "", 0) for x in read_by(node)), default=0)
        depth.update({output.name or "": level for output in node.outputs})
    return depth


def choose_layers(model: Model, target: Target, at_most: int = 4) -> tuple[str, ...]:
    """A few layers, spread over the depth: outputs of blocks on every path, with nonlinear operators after them.

    If the rest of the model is affine, every example has the same gradient; such a layer is chosen only if there is no
    other, and the input only if there is none at all, as in a logistic regression. Behind trees and whatever else no
    gradient passes, a layer of no more numbers than classes is the output by another name, and is not chosen.
    """
    resolved = resolve_target(model, target)
    logits = resolved.tensor
    open_layers = [layer for layer in list_layers(model, target) if layer.auditable and layer.tensor != logits]
    open_layers = _behind_all_columns(model, logits, open_layers)
    if is_opaque(model, target):
        open_layers = [layer for layer in open_layers if not _holds_as_few(layer, resolved.classes)]
    values = {layer.tensor: model.value(layer.tensor) for layer in open_layers}
    open_layers = [layer for layer in open_layers if not _is_on_its_way(model, layer, values[layer.tensor])]
    necks, affine = _necks(model, logits), _affine_heads(model, logits)
    as_fed = _rearranged_inputs(model)
    nonlinear = [
        layer.tensor
        for layer in open_layers
        if layer.op not in _REPEATS and values[layer.tensor] not in affine and values[layer.tensor] not in as_fed
    ]
    through = [name for name in nonlinear if values[name] in necks]
    sums = [name for name in through if not _continues(values[name], _BIASED)]
    blocks = [name for name in sums if not _continues(values[name], _CONTINUES)]
    joins = [name for name in blocks if _joins(values[name], values_between(model, logits))]
    if joins and blocks[-1] not in joins:
        joins.append(blocks[-1])  # the last block, although no other branch joins it
    straight = [layer.tensor for layer in open_layers if values[layer.tensor] in necks - as_fed]
    rest = nonlinear or straight or [layer.tensor for layer in open_layers]
    candidates = (joins if len(joins) > 2 else blocks or sums or rest) or _only_input(model, target)
    spread = np.linspace(0.3 if len(candidates) > at_most else 0, 1, min(at_most, len(candidates)))
    return tuple(candidates[i] for i in np.unique((spread * (len(candidates) - 1)).round().astype(int)))


def _is_on_its_way(model: Model, layer: Layer, value: ir.Value | None) -> bool:
    """Whether states of a cell, or what has been rearranged, are rearranged again until the batch is first."""
    readers = of_numbers(value.consumers()) if value is not None else []
    unusual = model.rows.get(layer.tensor, USUAL) != USUAL and layer.op in _REARRANGES | _RECURRENT
    return unusual and len(readers) == 1 and readers[0].op_type in _REARRANGES and readers[0].inputs[0] is value


def _rearranged_inputs(model: Model) -> set[ir.Value]:
    """The values that are inputs by another name, in another order or shape."""
    found = set(model.ir.graph.inputs)
    for node in model.ir.graph:
        if node.op_type in _REARRANGES and node.inputs[0] in found:
            found.update(node.outputs)
    return found


def _behind_all_columns(model: Model, target: str, layers: Sequence[Layer]) -> list[Layer]:
    """Of a model that takes columns as inputs of their own, the layers that all of them lead to, if there are such.

    Before those, columns have not all been encoded, and missing values not all been filled in.
    """
    between = values_between(model, target)
    inputs = [value for value in model.ir.graph.inputs if value in between]
    if all(len(shape_of_value(value) or ()) in (1, 2) for value in inputs):
        joint = (
            set.intersection(*(reached_from(list(model.ir.graph), [value]) for value in inputs)) if inputs else set()
        )
        return [layer for layer in layers if model.value(layer.tensor) in joint] or list(layers)
    return list(layers)


def _holds_as_few(layer: Layer, classes: int | None) -> bool:
    """Whether an example has no more numbers in the layer than the target has classes."""
    sizes = [size for size in layer.shape[1:] if isinstance(size, int)]
    return len(sizes) == len(layer.shape) - 1 and int(np.prod(sizes)) <= (classes or 1)


def _only_input(model: Model, target: Target) -> list[str]:
    """The only input of numbers, if it can be audited."""
    inputs = float_inputs(model, target)
    found = list_layers(model, target, inputs) if len(inputs) == 1 else ()
    return [layer.tensor for layer in found if layer.auditable]


def _necks(model: Model, target: str) -> set[ir.Value]:
    """The values on every path from the inputs to the target: those that at some point are the only live value.

    Sizes of inputs do not count, which a model may read to its end.
    """
    inputs = [value for value in model.ir.graph.inputs if not value.is_initializer()]
    between = values_between(model, target) & reached_from(of_numbers(model.ir.graph), inputs)
    last_use = {x: i for i, node in enumerate(model.ir.graph) for x in read_by(node)}
    alive = {v for v in model.ir.graph.inputs if v in between}
    necks = set()
    for i, node in enumerate(model.ir.graph):
        alive = {v for v in alive if last_use.get(v, -1) > i} | {v for v in node.outputs if v in between}
        if len(alive) == 1:
            necks |= alive
    return necks


_CONTINUES = _ACTIVATIONS | {"BatchNormalization"}
_BIASED = {"Add", "Div", "Mul", "Sub"}  # with a constant
_REPEATS = {"Cast", "Dropout", "Identity"}
_RECURRENT = {"GRU", "LSTM", "RNN"}
_REARRANGES = _REPEATS | {"Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
_AFFINE = {
    "Add", "AveragePool", "BatchNormalization", "Cast", "Concat", "Conv", "DequantizeLinear", "Dropout", "Flatten",
    "Gemm", "GlobalAveragePool", "Identity", "MatMul", "Mul", "Div", "QuantizeLinear", "ReduceMean", "ReduceSum",
    "Reshape", "Squeeze", "Sub", "Sum", "Transpose", "Unsqueeze", "Slice", "Gather", "Split",
}  # fmt: skip


def _affine_heads(model: Model, target: str) -> set[ir.Value]:
    """The values from which the target is an affine function."""
    between = values_between(model, target)
    nonlinear: set[ir.Value] = set()
    for node in reversed(list(model.ir.graph)):
        varying = [x for x in read_by(node) if x in between]
        product = node.op_type in {"Mul", "Div", "MatMul", "Gemm", "Conv"} and len(varying) > 1
        if any(y in between and y in nonlinear for y in node.outputs) or (
            any(y in between for y in node.outputs) and (node.op_type not in _AFFINE or product)
        ):
            nonlinear.update(varying)
    return between - nonlinear


def _continues(value: ir.Value | None, operators: AbstractSet[str]) -> bool:
    """Whether one of these operators, with constants as its other inputs, is the only reader of the value."""
    consumers = value.consumers() if value is not None else []
    if len(consumers) != 1 or consumers[0].op_type not in operators:
        return False
    return all(x is value or x is None or x.is_initializer() for x in consumers[0].inputs)


def _joins(value: ir.Value | None, between: set[ir.Value]) -> bool:
    """Whether branches of the network join in the value: an Add, Sum or Concat, or the activations after it."""
    node = value.producer() if value is not None else None
    while node is not None and node.op_type in _CONTINUES and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node is not None and node.op_type in {"Add", "Concat", "Sum"} and sum(x in between for x in node.inputs) > 1
