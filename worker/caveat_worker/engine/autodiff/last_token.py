"""The last token of each example: the last place that the model's attention mask marks, or the last place of all."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from caveat_worker.engine.autodiff.builder import Tensor, op
from caveat_worker.engine.autodiff.model import Model
from caveat_worker.engine.autodiff.shapes import size_of
from caveat_worker.engine.base.errors import InvalidInput

LAST = "last"


def mask_input(model: Model) -> str | None:
    """The input [n, tokens] that tells tokens from padding, by its name; None if the model has none.

    Raises `InvalidInput` where several inputs are called masks, as those of an encoder and a decoder.
    """
    masks = [one.name for one in model.inputs if len(one.shape) == 2 and "mask" in one.name.lower()]
    if len(masks) > 1:
        raise InvalidInput(
            "ambiguous-mask",
            f"'{LAST}' is the last place that a mask marks, and the model has several masks: {', '.join(masks)}.",
            f"Hold all but one constant, such as `constants: {{{masks[0]}: 1}}`, or use 'mean'.",
            "reduce",
        )
    return masks[0] if masks else None


def scores_next_token(model: Model, classes: int | str | None) -> bool:
    """Whether so many classes are the tokens that the model reads, beside a mask that says where each text ends."""
    tables = [node.inputs[0] for node in model.ir.graph if node.op_type == "Gather" and node.inputs[0] is not None]
    rows = [table.const_value.shape[0] for table in tables if table.const_value is not None and table.const_value.shape]
    return classes in rows and sum("mask" in one.name.lower() for one in model.inputs) == 1


def write_last(values: Tensor, mask: Tensor | None) -> Tensor:
    """Writes the value [n] at the last token of each example from its values at all tokens [n, tokens]."""
    if mask is None:
        return op.Gather(values, np.int64(-1), axis=1)
    marked = op.Cast(mask, to=int(ir.DataType.BOOL))
    places = op.Range(np.int64(0), op.Squeeze(size_of(marked, 1), [0]), np.int64(1))
    last = op.ReduceMax(op.Where(marked, places, np.int64(0)), [1], keepdims=1)
    return op.Squeeze(op.GatherElements(values, last, axis=1), [1])
