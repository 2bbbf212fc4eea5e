# mypy: allow-untyped-defs, allow-untyped-calls
# ruff: noqa: D103
"""Operators from integers to integers: their inputs as numbers, the operator over these, and its result rounded.

ONNX Runtime's quantiser writes them (`QuantFormat.QOperator`), and the int8 models of the ONNX model zoo consist of
them. Where nothing reads what is in between, the runtime fuses the three parts to its kernel of integers again.
"""

from __future__ import annotations

import numpy as np

from caveat_worker.engine.autodiff.builder import op
from caveat_worker.engine.autodiff.rules.table import UnsupportedOperator, lowered

MS = "com.microsoft"


@lowered("QLinearConv")
def qlinear_conv(x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, bias=None, **window):
    """The bias has the scale of x times that of w, and no zero point."""
    if bias is not None:
        bias = numbers(bias, x_scale * w_scale, axis=0)
    return rounded(op.Conv(numbers(x, x_scale, x_zero), numbers(w, w_scale, w_zero, axis=0), bias, **window), y_scale,
                   y_zero)  # fmt: skip


@lowered("QLinearMatMul")
def qlinear_matmul(a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero):
    return rounded(numbers(a, a_scale, a_zero, axis=-2) @ numbers(b, b_scale, b_zero, axis=-1), y_scale, y_zero)


@lowered("QGemm", domain=MS)
def qgemm(a, a_scale, a_zero, b, b_scale, b_zero, c=None, y_scale=None, y_zero=None, *, alpha=1.0, transA=0, transB=0):
    """The bias has the scale of the product; without a scale the result is one of numbers."""
    if c is not None:
        c = numbers(c, a_scale * b_scale * np.float32(alpha), axis=-1)
    product = op.Gemm(numbers(a, a_scale, a_zero), numbers(b, b_scale, b_zero, axis=0 if transB else 1), c, alpha=alpha,
                      transA=transA, transB=transB)  # fmt: skip
    return product if y_scale is None else rounded(product, y_scale, y_zero)


@lowered("QLinearAdd", domain=MS)
def qlinear_add(a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero=None):
    return rounded(numbers(a, a_scale, a_zero) + numbers(b, b_scale, b_zero), y_scale, y_zero)


@lowered("QLinearMul", domain=MS)
def qlinear_mul(a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero=None):
    return rounded(numbers(a, a_scale, a_zero) * numbers(b, b_scale, b_zero), y_scale, y_zero)


@lowered("QLinearAveragePool", domain=MS)
def qlinear_average_pool(x, x_scale, x_zero, y_scale, y_zero=None, *, channels_last=0, **window):
    _channels_second(channels_last)
    return rounded(op.AveragePool(numbers(x, x_scale, x_zero), **window), y_scale, y_zero)


@lowered("QLinearGlobalAveragePool", domain=MS)
def qlinear_global_average_pool(x, x_scale, x_zero, y_scale, y_zero, *, channels_last=0):
    _channels_second(channels_last)
    return rounded(op.GlobalAveragePool(numbers(x, x_scale, x_zero)), y_scale, y_zero)


@lowered("QLinearSigmoid", domain=MS)
def qlinear_sigmoid(x, x_scale, x_zero, y_scale, y_zero=None):
    return rounded(op.Sigmoid(numbers(x, x_scale, x_zero)), y_scale, y_zero)


@lowered("QLinearLeakyRelu", domain=MS)
def qlinear_leaky_relu(x, x_scale, x_zero, y_scale, y_zero=None, *, alpha=0.01):
    return rounded(op.LeakyRelu(numbers(x, x_scale, x_zero), alpha=alpha), y_scale, y_zero)


@lowered("QLinearSoftmax", domain=MS)
def qlinear_softmax(x, x_scale, x_zero, y_scale, y_zero, *, axis=-1, opset):
    if opset < 13 and axis not in (-1, x.rank - 1):
        raise UnsupportedOperator("it normalises over several axes together")
    return rounded(op.Softmax(numbers(x, x_scale, x_zero), axis=axis), y_scale, y_zero)


@lowered("QLinearConcat", domain=MS)
def qlinear_concat(y_scale, y_zero, *parts, axis):
    return rounded(
        op.Concat(*(numbers(*parts[at : at + 3]) for at in range(0, len(parts), 3)), axis=axis), y_scale, y_zero
    )


@lowered("QLinearWhere", domain=MS)
def qlinear_where(condition, x, x_scale, x_zero, y, y_scale, y_zero, z_scale, z_zero):
    return rounded(op.Where(condition, numbers(x, x_scale, x_zero), numbers(y, y_scale, y_zero)), z_scale, z_zero)


def numbers(q, scale, zero=None, *, axis=None):
    """The numbers (q - z) s that integers stand for; `axis` is that of scales which are several."""
    several = scale.rank and scale.shape != (1,)
    return op.DequantizeLinear(q, _of(scale, several), _of(zero, several), axis=axis if several else None)


def rounded(x, scale, zero=None):
    """Integers that stand for numbers, all with one scale."""
    return op.QuantizeLinear(x, _of(scale, several=False), _of(zero, several=False))


def _of(constant, several):
    """A scale or zero point, of all or of each: ONNX has the one of all as a scalar, and here it may have one axis."""
    if constant is None or several or constant.rank == 0:
        return constant
    return op.Reshape(constant, np.zeros(0, np.int64))


def _channels_second(channels_last):
    if channels_last:
        raise UnsupportedOperator("it has its channels last")
