# mypy: allow-untyped-defs, allow-untyped-calls
"""Relaxed pooling for pictures that people look at: not the model's gradient (Olah et al. 2018).

A max pooling's cotangent goes to each element in proportion to its activation, not all of it to the largest. The second
table also blurs it, which cancels the checkerboard of strided poolings.
"""

from __future__ import annotations

import numpy as np

from caveat_worker.engine.autodiff.builder import op
from caveat_worker.engine.autodiff.rules.pooling import pooled_window, spread_evenly
from caveat_worker.engine.autodiff.rules.table import VJP, Rule, Table, UnsupportedOperator

_LEAST = 1e-6
_BLUR = np.outer([1, 2, 1], [1, 2, 1]) / 16


def _relaxed(g, y, x, *, auto_pad, ceil_mode, dilations=None, kernel_shape, pads=None, storage_order, strides=None):
    """max(x, 0) times g / Σ max(x, 0), spread over the window."""
    positive = op.Max(x, 0.0)
    mean = op.AveragePool(
        positive, auto_pad=auto_pad, ceil_mode=ceil_mode, count_include_pad=1, dilations=dilations,
        kernel_shape=kernel_shape, pads=pads, strides=strides,
    )  # fmt: skip
    total = mean * float(np.prod(kernel_shape))
    win = pooled_window(x, kernel_shape, auto_pad, pads, strides, dilations)
    return (positive * spread_evenly(g / (total + _LEAST), x, y, win),)


def _relaxed_and_blurred(g, y, x, **attributes):
    """The same, under a binomial blur of 3 x 3."""
    (spread,) = _relaxed(g, y, x, **attributes)
    channels = x.shape[1]
    if not isinstance(channels, int) or x.rank != 4:
        raise UnsupportedOperator("only pictures with a known number of channels can be blurred")
    kernel = np.broadcast_to(_BLUR, (channels, 1, 3, 3)).astype(x.dtype.numpy())
    return (op.Conv(spread, kernel, pads=[1, 1, 1, 1], group=channels),)


_MAX_POOL = ("", "MaxPool")
RELAXED: Table = {**VJP, _MAX_POOL: Rule(_MAX_POOL, _relaxed)}
RELAXED_AND_BLURRED: Table = {**VJP, _MAX_POOL: Rule(_MAX_POOL, _relaxed_and_blurred)}
