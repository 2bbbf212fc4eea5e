# mypy: allow-untyped-defs, allow-untyped-calls
"""Rounding to integers and back: the gradient passes straight through the rounding, inside the range of the integers.

The straight-through estimator (Bengio et al. 2013): rounding has the derivative 1, clipping its own.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from caveat_worker.engine.autodiff.builder import op, ops
from caveat_worker.engine.autodiff.rules.table import VJP, UnsupportedOperator, lowered, vjp

MS = "com.microsoft"
OF_INTEGERS = {"ConvInteger": "Conv", "MatMulInteger": "MatMul"}
"""Products of integers less their zero points, and the same products of numbers."""
OF_BYTES = 4
"""The accuracy for which a product with weights of few bits rounds the numbers that it reads to bytes."""
UNROUNDED = "caveat.unrounded"
"""Marks an operator whose integers a model without rounding does not use, only their scale and zero point."""
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


@vjp("DynamicQuantizeLinear", several=3)
def dynamic_quantize_linear(g, outputs, x):
    """q = round(x / s) + z, with s and z from the range of x: dx = g / s.

    Less its zero point and times its scale, q is x but for the rounding, whatever the scale: so the scale and the zero
    point count as constants, and nothing is clipped.
    """
    maker = outputs[1].value.producer()
    if g[0] is None and (maker is None or UNROUNDED not in maker.metadata_props):
        raise UnsupportedOperator("no gradient reaches its integers, only their scale")
    return (None if g[0] is None else g[0] / outputs[1],)


@vjp("MatMulInteger")
def matmul_integer(g, y, a, b, a_zero=None, b_zero=None):
    """Y = (A - a)(B - b)."""
    return *_of_numbers("MatMul", g, y, a, b, a_zero, b_zero), None, None


@vjp("ConvInteger")
def conv_integer(g, y, x, w, x_zero=None, w_zero=None, **window):
    """Y = (X - x) * (W - w)."""
    dx, dw, *_ = _of_numbers("Conv", g, y, x, w, x_zero, w_zero, **window)
    return dx, dw, None, None


@lowered("MatMulIntegerToFloat", domain=MS)
def matmul_integer_to_float(a, b, a_scale, b_scale, a_zero=None, b_zero=None, bias=None):
    """(A - a)(B - b) times both scales, and a bias."""
    y = op.Cast(op.MatMulInteger(a, b, a_zero, b_zero), to=int(a_scale.dtype)) * (a_scale * b_scale)
    return y if bias is None else y + bias


@lowered("DynamicQuantizeMatMul", domain=MS)
def dynamic_quantize_matmul(a, b, b_scale, b_zero=None, bias=None):
    """A rounded by its own range, times B in numbers, and a bias."""
    quantised, scale, zero = ops.DynamicQuantizeLinear(a, outputs=3)
    return matmul_integer_to_float(quantised, b, scale, b_scale, zero, b_zero, bias)


@lowered("MatMulNBits", domain=MS)
def matmul_of_bits(a, b, scales, zeros=None, order=None, bias=None, *, K, N, bits=4, block_size, accuracy_level=0):
    """A Wᵀ, where W [N, K] has a scale for each block of a row, and 8 / bits of its integers in each byte.

    For an accuracy of 4 the runtime rounds A as well.
    """
    if order is not None:
        raise UnsupportedOperator("it has an order of columns")
    count = scales.array.size // N  # blocks of a row
    if zeros is None:
        zero = np.full((N, count), 2 ** (bits - 1))
    else:
        zero = zeros.array.reshape(N, -1)
        zero = _unpacked(zero, bits)[:, :count] if zero.dtype == np.uint8 else zero
    levels = _unpacked(b.array.reshape(N, count, -1), bits) - zero[:, :, None].astype(np.float32)
    w = (levels * scales.array.reshape(N, count, 1)).reshape(N, -1).T
    if accuracy_level == OF_BYTES:
        a = _rounded_in_blocks(op.Pad(a, [0] * (2 * a.rank - 1) + [len(w) - K]) if len(w) > K else a, block_size)
    else:
        w = w[:K]
    y = a @ w.astype(scales.array.dtype)
    return y if bias is None else y + bias


def _rounded_in_blocks(a, block):
    """The numbers nearest to `a` that are 127ths of the largest of each block along its last axis.

    Their type has room, so that no gradient is clipped at the largest.
    """
    blocks = op.Reshape(a, [-1, block])
    scale = op.Max(op.ReduceMax(op.Abs(blocks), [1], keepdims=0), 1e-30) / 127
    zero = op.Cast(scale * 0.0, to=int(ir.DataType.INT16))
    levels = op.QuantizeLinear(blocks, scale, zero, axis=0, domain=MS)
    return op.Reshape(op.DequantizeLinear(levels, scale, zero, axis=0, domain=MS), op.Shape(a))


def _unpacked(packed, bits):
    """The integers in bytes, the lowest bits first, along the last axis."""
    parts = [packed >> shift & (2**bits - 1) for shift in range(0, 8, bits)]
    return np.stack(parts, axis=-1).reshape(*packed.shape[:-1], -1)


def _of_numbers(kind, g, y, x, w, x_zero, w_zero, **attributes):
    """The cotangents of a product of integers by the rule for numbers; those of integers that `x` was rounded to."""
    for one in (x, w):
        maker = one.value.producer() if one.array is None else None
        if one.active and (maker is None or maker.op_type != "DynamicQuantizeLinear"):
            raise UnsupportedOperator(f"it reads integers that a {maker.op_type if maker else 'layer'} computes")
    left, right = less_zero(x, x_zero, g), less_zero(w, w_zero, g)
    return VJP["", kind].function(g, y, left, right, **attributes)


def less_zero(q, zero, like):
    """Integers less their zero point, as numbers of the type of `like`."""
    level = op.Cast(q, to=int(like.dtype))
    return level if zero is None else level - op.Cast(zero, to=int(like.dtype))


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
