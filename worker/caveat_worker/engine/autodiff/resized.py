"""A model's layers at pictures of another size than its own, for which many do not have to be made anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import onnx_ir as ir

from caveat_worker.engine.autodiff.differentiate import copy_of
from caveat_worker.engine.autodiff.model import Model
from caveat_worker.engine.onnx.graph import describe_value, forget_shapes, infer_shapes, prune


def resized(model: Model, entry: str, sizes: Sequence[int | None], layer: str) -> Model:
    """The model up to a layer, for an input of other sizes [n, …]; None leaves a size as it is.

    What a reshape or a table of positions has fixed still is: whether it runs is for the caller to try.
    """
    copy = copy_of(model)
    value, top = copy.value(entry), copy.value(layer)
    assert value is not None, "of this model"
    assert value.shape is not None, "of this model"
    assert top is not None, "of this model"
    cut = prune(copy.ir, [top])
    value.shape = ir.Shape([own if new is None else new for own, new in zip(value.shape, sizes, strict=True)])
    forget_shapes(cut)
    infer_shapes(cut)
    inputs = tuple(describe_value(one) for one in cut.graph.inputs if not one.is_initializer())
    return replace(copy, ir=cut, inputs=inputs, outputs=tuple(map(describe_value, cut.graph.outputs)), rows={})
