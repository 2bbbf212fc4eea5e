"""Values of a graph: their shapes and types."""

from __future__ import annotations

from typing import TypeAlias

import onnx_ir as ir

Dim: TypeAlias = int | str | None
"""The size of an axis: a number, the name of a symbolic size, or None if it is unknown."""
HALF_PRECISION = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def shape_of_value(value: ir.Value) -> tuple[Dim, ...] | None:
    """The dimensions of a graph's value; None if its rank is unknown."""
    if value.shape is None:
        return None
    return tuple(d if isinstance(d, int) else d.value for d in value.shape)
