"""The scale of a target over its examples: a standard deviation that a few extreme examples do not decide."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from caveat_worker.engine.base.arrays import Float64Array

TAIL = 0.15
"""The share of examples that is left out at either end: not that of a class of five or ten, where a quantile falls
between the examples of the class and all others."""
NORMAL_WIDTH = float(-2 * ndtri(TAIL))
"""The width of the middle 70 % of a normal distribution, in its standard deviations."""


def scale(values: Float64Array) -> float:
    """The standard deviation of `values` [m], by their middle 70 %: exact for a normal distribution.

    Of heavy tails the ordinary standard deviation is hardly known, and no interval in its units covers what it promises
    (docs/decisions/0034). It is taken where the middle 70 % are one number; 0 for values that are all the same.
    """
    return float(_scales(np.sort(values)[None])[0])


def resampled_scales(values: Float64Array, counts: Float64Array) -> Float64Array:
    """The scale [B] of each resample, in which example i of `values` [m] is drawn `counts[b, i]` times."""
    order = np.argsort(values, kind="stable")
    times = counts[:, order].astype(np.intp)
    positions = np.broadcast_to(np.arange(len(values)), times.shape)
    return _scales(values[order][np.repeat(positions.ravel(), times.ravel())].reshape(times.shape))


def _scales(rising: NDArray[np.float64]) -> Float64Array:
    """The scales [B] of rows of sorted values [B, m]."""
    robust = (_quantile(rising, 1 - TAIL) - _quantile(rising, TAIL)) / NORMAL_WIDTH
    usual = rising.std(axis=1, ddof=1) if rising.shape[1] > 1 else np.zeros(len(rising))
    found: Float64Array = np.where(robust > 0, robust, usual)
    return found


def _quantile(rising: NDArray[np.float64], share: float) -> Float64Array:
    """Quantiles [B] of sorted rows, unbiased for the median (Hyndman and Fan 1996, definition 8)."""
    last = rising.shape[1] - 1
    at = min(max((last + 4 / 3) * share - 2 / 3, 0.0), float(last))
    below = int(at)
    above = min(below + 1, last)
    found: Float64Array = rising[:, below] + (at - below) * (rising[:, above] - rising[:, below])
    return found
