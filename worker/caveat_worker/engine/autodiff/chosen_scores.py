"""The scores of a target's classes alone: what other classes have for themselves need not be computed for them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx_ir as ir

from caveat_worker.engine.autodiff.builder import GraphBuilder, Tensor, op
from caveat_worker.engine.autodiff.rules.activations import ACTIVATIONS
from caveat_worker.engine.autodiff.target import Resolved
from caveat_worker.engine.onnx.stored_weights import Stored
from caveat_worker.engine.onnx.values import shape_of_value

_EACH_ALONE = {*ACTIVATIONS, "Dropout", "Identity"} - {"PRelu"}
"""Operators that treat every number by itself, with the same parameters."""


def chosen_scores(
    builder: GraphBuilder, resolved: Resolved, scores: ir.Value, keep: Collection[ir.Value] = ()
) -> tuple[Resolved, Tensor] | None:
    """A target's scores [n, its classes, …], and the target that reads them; None where other classes matter too.

    The last product before the scores is written again, with the weights of these classes; so are the activations and
    poolings between them. Tensors of `keep`, as a layer that is asked about, are not written twice.
    """
    target, rank = resolved.target, len(shape_of_value(scores) or ())
    if target.index is None or rank < 2 or resolved.link == "two_sigmoids":
        return None
    if target.scale != "logit" and resolved.link != "sigmoid":
        return None
    classes = [target.index, *([] if target.versus is None else [target.versus])]
    written = _written(builder, scores, np.array(classes), target.axis(rank), keep)
    if written is None:
        return None
    alone = replace(target, index=0, versus=None if target.versus is None else 1)
    return replace(resolved, target=alone, classes=len(classes)), written


def _written(
    builder: GraphBuilder, value: ir.Value, classes: Any, axis: int, keep: Collection[ir.Value]
) -> Tensor | None:
    """A tensor's entries at some places along an axis, without the others; None if they cannot do without."""
    node, shape = value.producer(), shape_of_value(value)
    if node is None or node.domain or shape is None or value is not node.outputs[0] or value in keep:
        return None
    inputs = [builder.read(x, active=True) for x in node.inputs]
    found = _product(node, inputs, classes, axis)
    if found is None:
        below = _below(node, shape, axis)
        entries = None if below is None else _written(builder, below, classes, axis, keep)
        if entries is None:
            return None
        found = _again(node, inputs, entries, classes)
    found.value.shape = ir.Shape([len(classes) if one == axis else size for one, size in enumerate(shape)])
    found.value.type = value.type
    return found


def _product(node: ir.Node, inputs: list[Tensor | None], classes: Any, axis: int) -> Tensor | None:
    """The product that makes these entries, with their weights alone; None for another operator."""
    x, w, b, *_ = [*inputs, None, None, None]
    if x is None or w is None or not _is_weight(w) or (b is not None and b.array is None):
        return None
    given = _attributes(node)
    if node.op_type == "Conv" and axis == 1 and given.get("group", 1) == 1 and w.array is not None:
        return op.Conv(x, w.array[classes], b and b.array[classes], **given)
    if node.op_type == "Gemm" and axis == 1:
        of_classes = _taken(w, classes, 0 if given.get("transB") else 1)
        return op.Gemm(x, of_classes, b and _along_last(b.array, classes), **given)
    if node.op_type == "MatMul" and w.rank == 2 and axis == len(shape_of_value(node.outputs[0]) or ()) - 1:
        return op.MatMul(x, _taken(w, classes, 1))
    return None


def _is_weight(w: Tensor) -> bool:
    """Whether a tensor is a constant, also one that stays in the model's file."""
    return w.array is not None or isinstance(w.value.const_value, Stored)


def _taken(w: Tensor, classes: Any, axis: int) -> Any:
    """The weights of some classes; those that stay in the model's file are looked up there when the graph runs."""
    if w.array is not None:
        return np.take(w.array, classes, axis=axis)
    found = op.Gather(w, classes, axis=axis)
    found.value.shape = ir.Shape([len(classes) if one == axis else size for one, size in enumerate(w.shape or ())])
    found.value.type = w.value.type
    return found


def _below(node: ir.Node, shape: tuple[Any, ...], axis: int) -> ir.Value | None:
    """The tensor with the same classes along the same axis that a node makes its output from."""
    if node.op_type == "Add":
        moving = [x for x in node.inputs if x is not None and not x.is_initializer()]
        added = next((x.const_value for x in node.inputs if x is not None and x.is_initializer()), None)
        same = len(moving) == 1 and added is not None and axis == len(shape) - 1 and len(added.shape) <= 1
        return moving[0] if same else None
    before = shape_of_value(node.inputs[0]) if node.inputs and node.inputs[0] is not None else None
    if before is None or axis != 1:
        return node.inputs[0] if node.op_type in _EACH_ALONE else None
    flat = len(shape) == 2 and len(before) > 2 and before[1] == shape[1] and set(before[2:]) == {1}
    passes = node.op_type in _EACH_ALONE or node.op_type == "GlobalAveragePool"
    return node.inputs[0] if passes or (flat and node.op_type in {"Flatten", "Reshape", "Squeeze"}) else None


def _again(node: ir.Node, inputs: list[Tensor | None], entries: Tensor, classes: Any) -> Tensor:
    """A node once more, on some entries of its tensor."""
    if node.op_type == "Add":
        added = next(x.array for x in inputs if x is not None and x.array is not None)
        return op.Add(entries, _along_last(added, classes))
    if node.op_type in {"Flatten", "Reshape", "Squeeze"}:
        return op.Flatten(entries, axis=1)
    written: Tensor = getattr(op, node.op_type)(entries, *inputs[1:], **_attributes(node))
    return written


def _along_last(array: Any, classes: Any) -> Any:
    """The entries along the last axis; all of them have the same number where there is one only."""
    return array if array.ndim == 0 or array.shape[-1] == 1 else array[..., classes]


def _attributes(node: ir.Node) -> Mapping[str, Any]:
    return MappingProxyType({one.name: one.value for one in node.attributes.values()})
