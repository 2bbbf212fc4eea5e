"""Settles branches that the sizes of the examples decide, such as a squeeze of what has length one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import onnx_ir as ir

from caveat_worker.engine.autodiff.lowering import lower
from caveat_worker.engine.autodiff.model import Model
from caveat_worker.engine.onnx.graph import forget_shapes, infer_shapes
from caveat_worker.engine.onnx.values import shape_of_value


def settle_branches(model: Model, shapes: Mapping[str, tuple[int, ...]]) -> Model:
    """The model for examples of these shapes (an input's name → its shape without the batch).

    Only a model with branches is changed: behind one whose result has no known rank, no gradient can be written.
    """
    if not any(node.op_type == "If" for node in model.ir.graph):
        return model
    fixed = model.ir.clone()
    if not sum(_fix_sizes(value, shapes.get(value.name or "", ())) for value in fixed.graph.inputs):
        return model
    forget_shapes(fixed)
    infer_shapes(fixed)
    fixed = lower(fixed)
    for value, before in zip(fixed.graph.outputs, model.ir.graph.outputs, strict=True):
        value.shape = value.shape or before.shape
    return replace(model, ir=fixed)


def _fix_sizes(value: ir.Value, given: tuple[int, ...]) -> bool:
    """Puts these sizes in place of those behind the batch that are free; whether there were any."""
    known = shape_of_value(value) or ()
    if len(known) != len(given) + 1 or all(isinstance(size, int) for size in known[1:]):
        return False
    sizes = [one if isinstance(one, int) else size for one, size in zip(known[1:], given, strict=True)]
    value.shape = ir.Shape([known[0], *sizes])
    return True
