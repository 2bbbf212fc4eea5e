"""Recognises a softmax or log-softmax that an exporter wrote out as exponentials and sums."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from caveat_worker.engine.onnx.values import shape_of_value

_CARRIERS = {"Cast", "Expand", "Identity", "Reshape", "Squeeze", "Unsqueeze"}
_SOFTMAX, _LOG_SOFTMAX = {"Softmax"}, {"LogSoftmax"}


def written_softmax(node: ir.Node) -> ir.Value | None:
    """The logits x, if the node yields exp(x) / Σ exp(x) or the logarithm of it over the classes, else None.

    Subtracting x's maximum first changes neither; an Exp of a log-softmax and a Log of a softmax count too.
    """
    if node.op_type == "Div":
        return _probabilities(node)
    if node.op_type == "Sub":
        return _log_probabilities(node)
    inner = _producer(node.inputs[0]) if node.op_type in {"Exp", "Log"} else None
    if inner is None:
        return None
    if inner.op_type in (_SOFTMAX if node.op_type == "Log" else _LOG_SOFTMAX):
        return inner.inputs[0]
    return _probabilities(inner) if node.op_type == "Log" else _log_probabilities(inner)


def _probabilities(node: ir.Node) -> ir.Value | None:
    """x, where the node divides exp(x) by its sum."""
    powers = _producer(node.inputs[0]) if node.op_type == "Div" else None
    total = _carried(node.inputs[1]) if powers is not None else None
    if powers is None or powers.op_type != "Exp" or total is None or not _sums(total, node.inputs[0]):
        return None
    return _unshifted(powers.inputs[0])


def _log_probabilities(node: ir.Node) -> ir.Value | None:
    """x, where the node subtracts log Σ exp(x) from x, or log Σ exp(x - m) from x - m."""
    logarithm = _carried(node.inputs[1]) if node.op_type == "Sub" else None
    if logarithm is None:
        return None
    if logarithm.op_type == "ReduceLogSumExp" and logarithm.inputs[0] is node.inputs[0] and _over_classes(logarithm):
        return node.inputs[0]
    total = _carried(logarithm.inputs[0]) if logarithm.op_type == "Log" else None
    powers = _producer(total.inputs[0]) if total is not None else None
    if total is None or powers is None or powers.op_type != "Exp" or powers.inputs[0] is not node.inputs[0]:
        return None
    return _unshifted(node.inputs[0]) if _sums(total, total.inputs[0]) else None


def _sums(total: ir.Node, powers: ir.Value | None) -> bool:
    return total.op_type in {"ReduceSum", "ReduceL1"} and total.inputs[0] is powers and _over_classes(total)


def _over_classes(node: ir.Node) -> bool:
    """Whether a reduction runs over one axis, the last one or the channels of a picture."""
    axes = node.inputs[1].const_value if len(node.inputs) > 1 and node.inputs[1] is not None else None
    shape = shape_of_value(node.inputs[0]) if node.inputs[0] is not None else None
    if axes is None or axes.size != 1 or shape is None:
        return False
    axis = int(np.asarray(axes.numpy()).item()) % len(shape)
    return axis == (1 if len(shape) == 4 else len(shape) - 1) and axis > 0


def _unshifted(value: ir.Value | None) -> ir.Value | None:
    """x, where the value is x less its own maximum; otherwise the value itself, which is as good."""
    node = _producer(value)
    if node is None or node.op_type != "Sub":
        return value
    largest = _carried(node.inputs[1])
    while largest is not None and largest.op_type == "Max":  # a maximum that is bounded from below, as jax writes it
        varying = [x for x in largest.inputs if x is not None and not x.is_initializer()]
        largest = _carried(varying[0]) if len(varying) == 1 else None
    if largest is None or largest.op_type != "ReduceMax" or largest.inputs[0] is not node.inputs[0]:
        return value
    return node.inputs[0] if _over_classes(largest) else value


def _producer(value: ir.Value | None) -> ir.Node | None:
    return value.producer() if value is not None else None


def _carried(value: ir.Value | None) -> ir.Node | None:
    """The node that makes a value, before operators that only reshape it or repeat it."""
    node = _producer(value)
    while node is not None and node.op_type in _CARRIERS:
        node = _producer(node.inputs[0])
    return node
