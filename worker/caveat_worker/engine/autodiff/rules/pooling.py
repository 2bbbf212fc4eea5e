# mypy: allow-untyped-defs, allow-untyped-calls
# ruff: noqa: D103
"""Poolings over windows, and over all spatial axes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from caveat_worker.engine.autodiff.builder import op, ops
from caveat_worker.engine.autodiff.rules.convolution import crop, spread, window
from caveat_worker.engine.autodiff.rules.table import UnsupportedOperator, vjp
from caveat_worker.engine.autodiff.shapes import count, dims, expand_like, ones, reshape_like, sum_over, zeros


@vjp("MaxPool")
def max_pool(g, y, x, *, auto_pad, ceil_mode, dilations=None, kernel_shape, pads=None, storage_order, strides=None):
    """Each window's cotangent goes to its largest element, whose index is the operator's second output."""
    if storage_order:  # the indices are by column, and are needed by row
        _, largest = ops.MaxPool(
            x, outputs=2, auto_pad=auto_pad, ceil_mode=ceil_mode, dilations=dilations, kernel_shape=kernel_shape,
            pads=pads, strides=strides,
        )  # fmt: skip
    else:
        largest = y.sibling(1, ir.DataType.INT64)
    largest = op.Reshape(largest, [-1])
    flat = op.ScatterElements(
        zeros(op.Reshape(op.Size(x), [1]), x), largest, op.Reshape(g, [-1]), axis=0, reduction="add"
    )
    return (reshape_like(flat, x),)


@vjp("AveragePool")
def average_pool(
    g, y, x, *, auto_pad, ceil_mode, count_include_pad, dilations=None, kernel_shape, pads=None, strides=None
):
    """Spreads G over the windows, divided by the number of elements in each average."""
    win = pooled_window(x, kernel_shape, auto_pad, pads, strides, dilations)
    if not any(win.pads) and not ceil_mode and max(win.dilations) == 1:
        return (spread_evenly(g / float(np.prod(win.kernel)), x, y, win),)
    plane = ones(op.Concat([1, 1], op.Gather(dims(x), list(range(2, x.rank))), axis=0), x)
    averaged = op.AveragePool(
        plane, auto_pad=auto_pad, ceil_mode=ceil_mode, count_include_pad=count_include_pad,
        dilations=dilations, kernel_shape=kernel_shape, pads=pads, strides=strides,
    )  # fmt: skip
    return (spread_evenly(g * averaged / _valid(plane, y, win, ceil_mode), x, y, win),)


@vjp("LpPool")
def lp_pool(g, y, x, *, auto_pad, ceil_mode, dilations=None, kernel_shape, p, pads=None, strides=None):
    """y = (Σ|x|^p)^(1/p): dx = x |x|^(p-2) times g y^(1-p) spread over the windows."""
    win = pooled_window(x, kernel_shape, auto_pad, pads, strides, dilations)
    if p == 1:
        return (op.Sign(x) * spread_evenly(g, x, y, win),)
    share = g * (y > 0) * op.Pow(op.Max(y, 1e-30), float(1 - p))
    return (op.Sign(x) * op.Pow(op.Abs(x), float(p - 1)) * spread_evenly(share, x, y, win),)


@vjp("GlobalAveragePool")
def global_average_pool(g, y, x):
    return (expand_like(g / count(x, range(2, x.rank)), x),)


@vjp("GlobalMaxPool")
def global_max_pool(g, y, x):
    """Elements that attain the maximum share its cotangent equally."""
    attained = op.Cast(op.Equal(x, y), to=int(x.dtype))
    return (attained * (g / sum_over(attained, range(2, x.rank))),)


@vjp("GlobalLpPool")
def global_lp_pool(g, y, x, *, p):
    if p == 1:
        return (op.Sign(x) * g,)
    return (op.Sign(x) * op.Pow(op.Abs(x) / op.Max(y, 1e-30), float(p - 1)) * g,)


@vjp("MaxUnpool")
def max_unpool(g, y, x, indices, output_shape=None, *, kernel_shape, pads=None, strides=None):
    return op.Reshape(op.Gather(op.Reshape(g, [-1]), indices), dims(x)), None


def pooled_window(x, kernel_shape, auto_pad, pads, strides, dilations):
    """The windows of a pooling."""
    if auto_pad.startswith("SAME") and max(dilations or [1]) > 1:
        raise UnsupportedOperator(f"its auto_pad is {auto_pad} with dilations, which runtimes read differently")
    return window(x, kernel_shape, auto_pad, pads, strides, dilations)


def spread_evenly(g, x, y, win):
    """Adds each element of g [like y] to every element of its window, in x's size."""
    channels = x.shape[1]
    if not isinstance(channels, int):
        raise UnsupportedOperator("the number of its channels is not known")
    each = x.builder.constant(np.ones((channels, 1, *win.kernel), x.dtype.numpy()))
    reach = [e - 1 - p for e, p in zip(win.extent * 2, win.pads, strict=True)]
    if win.dense and min(reach) >= 0:
        return op.Conv(g, each, pads=reach, dilations=list(win.dilations), group=channels)
    return spread(g, each, x, y, win, channels)


def _valid(plane, y, win, ceil_mode):
    """How many elements of each window lie on the plane [1, 1, spatial...], at least 1."""
    each = y.builder.constant(np.ones((1, 1, *win.kernel), y.dtype.numpy()))
    overhang = [s - 1 if ceil_mode else 0 for s in win.strides]
    pads = [*win.begin, *(e + o for e, o in zip(win.end, overhang, strict=True))]
    counts = op.Conv(plane, each, pads=pads, strides=list(win.strides), dilations=list(win.dilations))
    return op.Max(crop(counts, y) if ceil_mode else counts, 1.0)
