"""Which axis of a tensor holds its channels, by the operators around it.

A convolution has its channels second and a dense layer has them last, whatever the tensor's shape looks like: a signal
[n, channels, length] and a text [n, tokens, channels] have three axes each. Operators that keep axes in their places
lead on to the next ones, in both directions, and a Transpose moves what is found behind it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import onnx_ir as ir

from caveat_worker.engine.autodiff.by_example import own_rows, shape_by_example
from caveat_worker.engine.autodiff.model import USUAL, Model
from caveat_worker.engine.onnx.values import shape_of_value

_SECOND = {
    "AveragePool", "BatchNormalization", "Conv", "ConvInteger", "ConvTranspose", "DepthToSpace", "GlobalAveragePool",
    "GlobalLpPool", "GlobalMaxPool", "GroupNormalization", "InstanceNormalization", "LRN", "LpPool", "MaxPool",
    "MaxUnpool", "QLinearAveragePool", "QLinearConv", "QLinearGlobalAveragePool", "SpaceToDepth",
}  # fmt: skip
"""Operators whose first input and output have channels as their second axis."""
_LAST = {
    "Attention", "BiasGelu", "EmbedLayerNormalization", "FastGelu", "GRU", "GroupQueryAttention", "LSTM",
    "LayerNormalization", "MultiHeadAttention", "RMSNormalization", "RNN", "SimplifiedLayerNormalization",
    "SkipLayerNormalization",
}  # fmt: skip
"""Operators whose first input has channels as its last axis."""
_RECURRENT = {"GRU", "LSTM", "RNN"}
"""Those of which the output has another shape than the input."""
_PRODUCTS = {"MatMul", "MatMulInteger", "QLinearMatMul", "MatMulNBits"}
"""Operators that sum over the last axis of an input, if the other one is a constant matrix."""
_WITHIN = 4
"""Operators that may stand between a weight as it is kept, such as int8, and the product that reads it."""
_IN_PLACE = {
    "Abs", "Add", "Cast", "Celu", "Clip", "Concat", "CumSum", "DequantizeLinear", "Div", "Dropout", "Elu", "Erf", "Exp",
    "FastGelu", "Gelu", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Log", "Max", "Mean", "Min", "Mish", "Mul",
    "Neg", "PRelu", "Pad", "Pow", "QuantizeLinear", "QuickGelu", "Reciprocal", "Relu", "Resize", "Selu", "Sigmoid",
    "Sin", "Slice", "Softplus", "Softsign", "Split", "Sqrt", "Sub", "Sum", "Swish", "Tanh", "ThresholdedRelu",
    "Upsample", "Where",
}  # fmt: skip
"""Operators that leave every axis in its place."""

Order = tuple[int, ...]
"""For each axis of a tensor, which axis of the tensor that was asked about it is."""


def channel_axis(model: Model, tensor: str) -> int | None:
    """The axis of a layer [n, …] that holds its channels; None where no operator says so.

    Of a tensor that has its examples elsewhere than usual, operators see its own axes, and the last one counts where
    none tells.
    """
    rows, rank = own_rows(model, tensor) or USUAL, len(shape_by_example(model, tensor) or ())
    own = channels_in_place(model, tensor)
    if rank < 3 or own == rows.axis:
        return None
    if own is None:
        return None if rows == USUAL else rank - 1
    return own + (own < rows.axis) + (rows.count > 1)


def channels_in_place(model: Model, tensor: str) -> int | None:
    """The same of a tensor's own axes, wherever its examples are.

    The nearest operator decides: those that make or read the tensor before those that are one operator further away.
    """
    start = model.value(tensor)
    if start is None:
        return None
    rank = len(shape_of_value(start) or ())
    found: dict[ir.Value, Order] = {start: tuple(range(rank))}
    queue = deque(found)
    while queue:
        value = queue.popleft()
        told = next(_told(value, rank), None)
        if told is not None:
            return found[value][told]
        for other, order in _beside(value, found[value]):
            if other not in found:
                found[other] = order
                queue.append(other)
    return None


def usual_axis(rank: int) -> int:
    """The axis that is taken for the channels' where no operator says so: the last of three, or else the second."""
    return 2 if rank == 3 else min(1, rank - 1)


def channels_of(model: Model, tensor: str, rank: int) -> int:
    """The axis of a tensor [n, …] of a rank that is taken for the channels'."""
    found = channel_axis(model, tensor)
    return usual_axis(rank) if found is None else found


def _told(value: ir.Value, rank: int) -> Iterator[int]:
    """What the operators that make and read a tensor say about its channels."""
    maker = value.producer()
    if maker is not None and maker.outputs[0] is value:
        if maker.op_type in _SECOND:
            yield 1
        elif maker.op_type in _LAST - _RECURRENT or _is_product(maker) or _is_lookup(maker):
            yield rank - 1
    for node, position in value.uses():
        if position == 0 and node.op_type in _SECOND:
            yield 1
        elif position == 0 and (node.op_type in _LAST or _is_product(node)):
            yield rank - 1


def _is_product(node: ir.Node) -> bool:
    """Whether a node multiplies by a constant matrix."""
    return node.op_type in _PRODUCTS and _is_matrix(node.inputs[1])


def _is_lookup(node: ir.Node) -> bool:
    """Whether a node looks rows of a constant matrix up, as embeddings are."""
    return node.op_type == "Gather" and _is_matrix(node.inputs[0])


def _is_matrix(value: ir.Value | None) -> bool:
    """Whether a value is a constant matrix, also one that is kept in another type."""
    return value is not None and len(shape_of_value(value) or ()) == 2 and _is_constant(value)


def _is_constant(value: ir.Value, within: int = _WITHIN) -> bool:
    """Whether a value is a weight of the model, as it is kept or behind a few operators that write it otherwise."""
    maker = value.producer()
    if maker is None:
        return value.is_initializer()
    return within > 0 and all(_is_constant(one, within - 1) for one in maker.inputs if one is not None)


def _beside(value: ir.Value, order: Order) -> Iterator[tuple[ir.Value, Order]]:
    """The tensors one operator away that have the same axes, and which axis of the first tensor each of theirs is."""
    maker = value.producer()
    if maker is not None:
        for other in maker.inputs:
            if other is not None and not other.is_initializer():
                yield from _moved(maker, other, order, forward=False)
    for node, _ in value.uses():
        for other in (*node.outputs, *(x for x in node.inputs if x is not None and not x.is_initializer())):
            yield from _moved(node, other, order, forward=any(other is output for output in node.outputs))


def _moved(node: ir.Node, other: ir.Value, order: Order, *, forward: bool) -> Iterator[tuple[ir.Value, Order]]:
    """The other tensor of a node, if its axes are known from those of the first."""
    if len(shape_of_value(other) or ()) != len(order):
        return
    if node.op_type in _IN_PLACE:
        yield other, order
    elif node.op_type == "Transpose":
        given = node.attributes.get("perm")
        perm = tuple(given.as_ints()) if given is not None else tuple(reversed(range(len(order))))
        if forward:
            yield other, tuple(order[axis] for axis in perm)
        elif other is node.inputs[0] and node.outputs:
            back = [0] * len(order)
            for position, axis in enumerate(perm):
                back[axis] = order[position]
            yield other, tuple(back)
