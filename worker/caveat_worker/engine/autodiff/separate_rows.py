"""A proof from a graph that the examples of a batch do not influence each other, where its operators allow one.

An example is a row: what it has along the first axis of every input. An operator that makes row i of its output from
row i of its inputs and from weights alone keeps rows apart, and a graph of such operators does. Each rule says when one
operator is such; an operator without a rule, or of which too little is known, only means that there is no proof.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from caveat_worker.engine.onnx.values import constant_of, shape_of_value

Rows: TypeAlias = Collection[ir.Value]
"""The tensors that have a row for each example; any other that a graph computes is the same for all examples."""
Rule: TypeAlias = Callable[[ir.Node, Rows], bool]
"""Whether a node, which reads rows, keeps them apart and gives a row for each example."""

RULES: dict[str, Rule] = {}
RANDOM = {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}


def rows_stay_apart(model: ir.Model) -> bool:
    """Whether each output has a row for each example, made of that example alone; False where this is not proven.

    Shapes have to be inferred and constants to be folded before.
    """
    inputs = [value for value in model.graph.inputs if not value.is_initializer()]
    rows = {value for value in inputs if _rank(value)}
    if len(rows) < len(inputs):
        return False
    for node in model.graph:
        if node.domain or any(one.type in _GRAPHS for one in node.attributes.values()):
            return False
        if any(value in rows for value in node.inputs if value is not None):
            rule = RULES.get(node.op_type)
            if rule is None or not rule(node, rows):
                return False
            rows.update(node.outputs)
        elif node.op_type in RANDOM:
            return False
    return all(value in rows for value in model.graph.outputs)


_GRAPHS = {ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS}


def rule(*operators: str) -> Callable[[Rule], Rule]:
    """Registers the rule of some operators."""

    def register(found: Rule) -> Rule:
        RULES.update(dict.fromkeys(operators, found))
        return found

    return register


@rule(
    "Abs", "Acos", "Acosh", "Add", "And", "Asin", "Asinh", "Atan", "Atanh", "BitShift", "BitwiseAnd", "BitwiseNot",
    "BitwiseOr", "BitwiseXor", "Cast", "CastLike", "Ceil", "Celu", "Clip", "Cos", "Cosh", "Div", "Elu", "Equal", "Erf",
    "Exp", "Floor", "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN",
    "LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Mean", "Min", "Mish", "Mod", "Mul", "Neg", "Not", "Or", "PRelu",
    "Pow", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign",
    "Sqrt", "Sub", "Sum", "Swish", "Tan", "Tanh", "ThresholdedRelu", "Where", "Xor",
)  # fmt: skip
def _element_by_element(node: ir.Node, rows: Rows) -> bool:
    """Axes are aligned from the last one: rows of one rank, and nothing of a higher one, leave them first."""
    of_rows = {_rank(value) for value in node.inputs if value in rows}
    others = [_rank(value) for value in node.inputs if value is not None and value not in rows]
    (most, *more) = of_rows
    return most is not None and not more and all(rank is not None and rank <= most for rank in others)


@rule(
    "AveragePool", "BatchNormalization", "Conv", "ConvTranspose", "DepthToSpace", "GlobalAveragePool", "GlobalLpPool",
    "GlobalMaxPool", "GroupNormalization", "InstanceNormalization", "LRN", "LpPool", "MaxPool", "SpaceToDepth",
)  # fmt: skip
def _channels_second(node: ir.Node, rows: Rows) -> bool:
    """Operators over [n, channels, ...]; a batch normalisation that is being trained has the statistics of a batch."""
    return _only_first(node, rows) and not _whole(node, "training_mode", 0)


@rule("DequantizeLinear", "QuantizeLinear")
def _by_a_fixed_scale(node: ir.Node, rows: Rows) -> bool:
    return _only_first(node, rows)


@rule("Dropout")
def _dropout(node: ir.Node, rows: Rows) -> bool:
    return _only_first(node, rows) and len([one for one in node.inputs if one is not None]) < 3  # else it is trained


@rule("Softmax", "LogSoftmax", "Hardmax", "LayerNormalization", "RMSNormalization", "LpNormalization", "TopK")
def _along_a_late_axis(node: ir.Node, rows: Rows) -> bool:
    return _only_first(node, rows) and _is_late(_whole(node, "axis", -1), _rank(node.inputs[0]))


@rule("ArgMax", "ArgMin", "Split")
def _along_an_axis(node: ir.Node, rows: Rows) -> bool:
    return _only_first(node, rows) and _is_late(_whole(node, "axis", 0), _rank(node.inputs[0]))


@rule("Concat")
def _concat(node: ir.Node, rows: Rows) -> bool:
    return all(one in rows for one in node.inputs) and _is_late(_whole(node, "axis", 0), _rank(node.inputs[0]))


@rule("Gather")
def _gather(node: ir.Node, rows: Rows) -> bool:
    """Parts of each row that are the same for all, or entries of a table that each row names."""
    table, places = node.inputs
    if places not in rows:
        return _is_late(_whole(node, "axis", 0), _rank(table))
    return table not in rows and _whole(node, "axis", 0) == 0


@rule("Gemm")
def _gemm(node: ir.Node, rows: Rows) -> bool:
    left, right, *added = node.inputs
    if left not in rows or right in rows or _whole(node, "transA", 0):
        return False
    return all(one is None or one not in rows or _rank(one) == 2 for one in added)


@rule("MatMul")
def _matmul(node: ir.Node, rows: Rows) -> bool:
    """Rows times a matrix, or one product for each example; the last two axes are multiplied, so that any are first."""
    left, right = node.inputs
    of_left, of_right = _rank(left), _rank(right)
    if of_left is None or of_right is None:
        return False
    if left in rows and right in rows:
        return of_left == of_right > 2
    return 2 <= of_left >= of_right if left in rows else 3 <= of_right >= of_left


@rule(
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
    "ReduceSum", "ReduceSumSquare", "Squeeze",
)  # fmt: skip
def _over_axes(node: ir.Node, rows: Rows) -> bool:
    """Without axes, an operator reduces all of them, or squeezes also a batch of one."""
    return _only_first(node, rows) and _are_late(_constant(node, 1), _rank(node.inputs[0]))


@rule("Unsqueeze")
def _unsqueeze(node: ir.Node, rows: Rows) -> bool:
    return _only_first(node, rows) and _are_late(_constant(node, 1), _rank(node.outputs[0]))


@rule("Slice")
def _slice(node: ir.Node, rows: Rows) -> bool:
    return _only_first(node, rows) and _are_late(_constant(node, 3), _rank(node.inputs[0]))


@rule("Pad")
def _pad(node: ir.Node, rows: Rows) -> bool:
    """Paddings [2 rank]: before each axis, then behind each."""
    pads, rank = _constant(node, 1), _rank(node.inputs[0])
    if pads is None or rank is None or len(pads) != 2 * rank or len(node.inputs) > 3:
        return False
    return _only_first(node, rows) and not pads[0] and not pads[rank]


@rule("Transpose")
def _transpose(node: ir.Node, rows: Rows) -> bool:
    given = node.attributes.get("perm")
    return given is not None and given.as_ints()[0] == 0


@rule("Flatten")
def _flatten(node: ir.Node, rows: Rows) -> bool:
    rank = _rank(node.inputs[0])
    return rank is not None and _whole(node, "axis", 1) in (1, 1 - rank)


@rule("Reshape")
def _reshape(node: ir.Node, rows: Rows) -> bool:
    """To a shape that keeps the first axis, or infers it where all others keep their number of elements."""
    shape, before = _constant(node, 1), shape_of_value(node.inputs[0]) if node.inputs[0] is not None else None
    if not _only_first(node, rows) or shape is None or not len(shape) or before is None:
        return False
    if shape[0] == 0:
        return not _whole(node, "allowzero", 0)
    known = [size for size in before[1:] if isinstance(size, int)]
    if shape[0] != -1 or len(known) < len(before) - 1 or (shape[1:] < 1).any():
        return False
    return int(np.prod(known)) == int(np.prod(shape[1:]))


def _only_first(node: ir.Node, rows: Rows) -> bool:
    """Whether the first input has rows and no other, and its rank is known."""
    first, *others = node.inputs
    return first in rows and bool(_rank(first)) and not any(one in rows for one in others)


def _is_late(axis: int, rank: int | None) -> bool:
    """Whether an axis, counted from either end, is not the first."""
    return rank is not None and -rank < axis < rank and axis != 0


def _are_late(axes: NDArray[Any] | None, rank: int | None) -> bool:
    """Whether there are axes, and none is the first."""
    return axes is not None and axes.size > 0 and all(_is_late(int(axis), rank) for axis in axes.ravel())


def _rank(value: ir.Value | None) -> int | None:
    shape = None if value is None else shape_of_value(value)
    return None if shape is None else len(shape)


def _constant(node: ir.Node, position: int) -> NDArray[Any] | None:
    """An input that is a constant of the graph; None for any other, and where there is none."""
    return constant_of(node.inputs[position]) if position < len(node.inputs) else None


def _whole(node: ir.Node, name: str, default: int) -> int:
    """An attribute that is a whole number."""
    return node.attributes[name].as_int() if name in node.attributes else default
