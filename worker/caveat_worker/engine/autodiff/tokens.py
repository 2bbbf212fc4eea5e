"""The tokens of each example: the places that the model's attention mask marks, or all where it has no such input."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from caveat_worker.engine.autodiff.builder import Tensor, op
from caveat_worker.engine.autodiff.by_example import shape_by_example
from caveat_worker.engine.autodiff.channels import channels_of
from caveat_worker.engine.autodiff.model import Model
from caveat_worker.engine.autodiff.shapes import size_of
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.onnx.graph import TensorInfo
from caveat_worker.engine.onnx.values import Dim

LAST = "last"
INT64 = int(ir.DataType.INT64)


def mask_of(model: Model, *places: Dim) -> str | None:
    """The input [n, tokens] that tells tokens from padding, by its name; None if no single one has as many places.

    Or [n, texts, tokens], of examples of several texts.
    """
    found = [one.name for one in _masks(model, len(places)) if None not in places and one.shape[1:] == places]
    return found[0] if len(found) == 1 else None


def mask_of_layer(model: Model, tensor: str) -> str | None:
    """The mask of a layer's tokens: of its one axis beside the examples' and the channels', or of two, of texts."""
    shape = shape_by_example(model, tensor) or ()
    channels = channels_of(model, tensor, len(shape))
    if len(shape) == 3:
        return mask_of(model, shape[3 - channels])
    return mask_of(model, *shape[1:3]) if len(shape) == 4 and channels == 3 else None


def mask_of_last(model: Model, tokens: Dim) -> str | None:
    """The same where the last token is asked for, also of tensors whose number of places is not known; None for one.

    Raises `InvalidInput` where it could be one of several.
    """
    masks = [one.name for one in _masks(model)] if tokens != 1 else []
    if len(masks) > 1 and mask_of(model, tokens) is None:
        raise InvalidInput(
            "ambiguous-mask",
            f"'{LAST}' is the last place that a mask marks, and the model has several masks: {', '.join(masks)}.",
            f"Hold all but one constant, such as `constants: {{{masks[0]}: 1}}`, or use 'mean'.",
            "reduce",
        )
    return mask_of(model, tokens) or (masks[0] if masks else None)


def _masks(model: Model, axes: int = 1) -> list[TensorInfo]:
    """Inputs [n, tokens], or of more axes, that are called masks; one of padding marks what is none of the text."""
    names = [(one, one.name.lower().rstrip("_.0123456789")) for one in model.inputs if len(one.shape) == 1 + axes]
    return [one for one, name in names if name.endswith("mask") and "pad" not in name]


def write_reduced(values: Tensor, reduce: str, mask: Tensor | None, rank: int = 2) -> Tensor:
    """Writes the values of each example [n] from those at all its tokens [n, tokens], or at positions of more axes."""
    if mask is None:
        if reduce == LAST:
            return op.Gather(values, np.int64(-1), axis=1)
        over_all = {"mean": op.ReduceMean, "sum": op.ReduceSum, "max": op.ReduceMax}[reduce]
        return over_all(values, [*range(1, rank)], keepdims=0)
    marks = op.Cast(mask, to=int(ir.DataType.BOOL))
    none = op.Not(op.Cast(op.ReduceMax(op.Cast(marks, to=INT64), [1], keepdims=1), to=int(ir.DataType.BOOL)))
    marks = op.Or(marks, none)  # all tokens of an example of which none is marked
    if reduce == LAST:
        places = op.Range(np.int64(0), op.Squeeze(size_of(mask, 1), [0]), np.int64(1))
        last = op.ReduceMax(op.Where(marks, places, np.int64(0)), [1], keepdims=1)
        return op.Squeeze(op.GatherElements(values, last, axis=1), [1])
    if reduce == "max":
        return op.ReduceMax(op.Where(marks, values, np.asarray(-np.inf, values.dtype.numpy())), [1], keepdims=0)
    total = op.ReduceSum(op.Where(marks, values, np.asarray(0, values.dtype.numpy())), [1], keepdims=0)
    count = op.Cast(op.ReduceSum(op.Cast(marks, to=INT64), [1], keepdims=0), to=int(values.dtype))
    return total if reduce == "sum" else total / count


def scores_next_token(model: Model, classes: int | str | None) -> bool:
    """Whether so many classes are the tokens that the model reads, beside a mask that says where each text ends."""
    tables = [node.inputs[0] for node in model.ir.graph if node.op_type == "Gather" and node.inputs[0] is not None]
    rows = [table.const_value.shape[0] for table in tables if table.const_value is not None and table.const_value.shape]
    return classes in rows and len(_masks(model)) == 1
