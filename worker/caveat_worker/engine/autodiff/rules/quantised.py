# mypy: allow-untyped-defs, allow-untyped-calls
"""Rounding to integers and back: the gradient passes straight through the rounding, inside the range of the integers.

The straight-through estimator (Bengio et al. 2013): rounding has the derivative 1, clipping its own.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from caveat_worker.engine.autodiff.builder import op
from caveat_worker.engine.autodiff.rules.table import UnsupportedOperator, vjp

MS = "com.microsoft"
_RANGES = {
    ir.DataType.INT8: (-128, 127), ir.DataType.UINT8: (0, 255), ir.DataType.INT16: (-(2**15), 2**15 - 1),
    ir.DataType.UINT16: (0, 2**16 - 1), ir.DataType.INT4: (-8, 7), ir.DataType.UINT4: (0, 15),
}  # fmt: skip


@vjp("QuantizeLinear")
@vjp("QuantizeLinear", domain=MS)
def quantize_linear(g, q, x, scale, zero=None, *, axis=1, saturate=1, block_size=0, output_dtype=0, precision=0):
    """q = clip(round(x / s) + z): dx = g / s where x / s + z is inside the range."""
    if block_size:
        raise UnsupportedOperator("it quantises in blocks")
    low, high = range_of(q.dtype)
    scaled = unrounded(x, scale, zero, axis)
    inside = (scaled > low) & (scaled < high)
    return g / along(scale, x, axis) * inside, None, None


@vjp("DequantizeLinear")
@vjp("DequantizeLinear", domain=MS)
def dequantize_linear(g, y, q, scale, zero=None, *, axis=1, block_size=0, output_dtype=0):
    """y = (q - z) s: dq = g s."""
    if block_size:
        raise UnsupportedOperator("it quantises in blocks")
    maker = q.value.producer() if q.array is None else None
    if q.active and maker is not None and maker.op_type != "QuantizeLinear":
        raise UnsupportedOperator(f"it reads integers that a {maker.op_type} computes")
    return g * along(scale, q, axis), None, None


def range_of(dtype):
    """The smallest and the largest integer of a quantised type."""
    if dtype not in _RANGES:
        raise UnsupportedOperator(f"it quantises to {dtype.name.lower()}")
    return tuple(map(float, _RANGES[dtype]))


def unrounded(x, scale, zero, axis):
    """x / s + z, before it is rounded and clipped."""
    scaled = x / along(scale, x, axis)
    return scaled if zero is None else scaled + along(as_float(zero, x), x, axis)


def as_float(zero, like):
    """A zero point in the type of the numbers that are quantised."""
    return op.Cast(zero, to=int(like.dtype))


def along(v, x, axis):
    """A scale or zero point for each tensor, or for each slice of x along an axis, as it broadcasts against x."""
    if v.rank == 0 or v.shape == (1,):
        return v
    return op.Reshape(v, np.asarray([-1 if i == axis % x.rank else 1 for i in range(x.rank)], np.int64))
