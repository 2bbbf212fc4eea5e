"""Values of a graph: their shapes and types."""

from __future__ import annotations

from typing import Any, TypeAlias

import onnx_ir as ir
from numpy.typing import NDArray

Dim: TypeAlias = int | str | None
"""The size of an axis: a number, the name of a symbolic size, or None if it is unknown."""
LOWERED_FROM = "caveat.lowered_from"
"""The metadata of a formula's last node that names the operator in whose place it is."""
HALF_PRECISION = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def factors_of(size: Dim) -> tuple[int | str, ...]:
    """The factors of a size such as `4*batch`; none of one that is a number or unknown."""
    parts = [part.strip() for part in size.split("*")] if isinstance(size, str) else []
    return tuple(int(part) if part.isdigit() else part for part in parts)


def shape_of_value(value: ir.Value) -> tuple[Dim, ...] | None:
    """The dimensions of a graph's value; None if its rank is unknown."""
    if value.shape is None:
        return None
    return tuple(d if isinstance(d, int) else d.value for d in value.shape)


def constant_of(value: ir.Value | None) -> NDArray[Any] | None:
    """What a value always is, as a weight or by a node of a constant; None for any other, and for what can be fed."""
    if value is None or value.is_graph_input():
        return None
    tensor, producer = value.const_value, value.producer()
    if tensor is None and producer is not None and producer.op_type == "Constant" and "value" in producer.attributes:
        tensor = producer.attributes["value"].as_tensor()
    return None if tensor is None else tensor.numpy()
