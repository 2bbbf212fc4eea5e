"""The scale of a target over its examples: a standard deviation that a few extreme examples do not decide."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from caveat_worker.engine.base.arrays import Float64Array, Indices
from caveat_worker.engine.statistics.resampling import BRACKET

TAIL = 0.15
"""The share of examples that is left out at either end: not that of a class of five or ten, where a quantile falls
between the examples of the class and all others."""
NORMAL_WIDTH = float(-2 * ndtri(TAIL))
"""The width of the middle 70 % of a normal distribution, in its standard deviations."""
ROUNDING = 8 * float(np.finfo(np.float32).eps)
"""How far values of float32 that are the same may lie apart, relative to the largest."""


def varies(values: Float64Array) -> bool:
    """Whether `values` [m] differ by more than rounding."""
    return bool(np.ptp(values) > ROUNDING * np.abs(values).max())


def scale(values: Float64Array) -> float:
    """The standard deviation of `values` [m], by their middle 70 %: exact for a normal distribution.

    Of heavy tails the ordinary standard deviation is hardly known, and no interval in its units covers what it promises
    (docs/decisions/0034). It is taken where the middle 70 % are one number; 0 for values that are all the same.
    """
    return float(_scales(np.sort(values)[None])[0])


class ResampledScales:
    """The scales of resamples of values [m], which are sorted once."""

    def __init__(self, values: Float64Array) -> None:
        self._order = np.argsort(values, kind="stable")
        self._rising = values[self._order]
        self._ends = [_ResampledQuantile(self._rising, self._order, share) for share in (TAIL, 1 - TAIL)]

    def of(self, counts: Float64Array) -> Float64Array:
        """The scales [B] of resamples in which example i is drawn `counts[b, i]` times."""
        (low, low_is_far), (high, high_is_far) = (end.of(counts) for end in self._ends)
        found: Float64Array = (high - low) / NORMAL_WIDTH
        others = np.flatnonzero(~(found > 0) | low_is_far | high_is_far)
        if len(others):
            times = counts[np.ix_(others, self._order)].astype(np.intp)
            resamples = np.repeat(np.tile(self._rising, len(others)), times.ravel()).reshape(times.shape)
            found[others] = _scales(resamples)
        return found

    def of_all(self, parts: Iterable[Float64Array]) -> Float64Array:
        """The same of resamples that are not held all at once."""
        return np.concatenate([self.of(counts) for counts in parts])


class _ResampledQuantile:
    """A quantile of resamples, which nearly always lies between a few of the values."""

    def __init__(self, rising: Float64Array, order: Indices, share: float) -> None:
        m, place = len(rising), _place(len(rising), share)
        self._below = int(place)
        self._above, self._part = min(self._below + 1, m - 1), place - self._below
        around = math.ceil(BRACKET * math.sqrt(m * share * (1 - share)))
        near = slice(max(0, self._below - around), self._above + around + 1)
        self._near, self._values = order[near], rising[near]
        self._smaller = np.zeros(m)
        self._smaller[order[: near.start]] = 1

    def of(self, counts: Float64Array) -> tuple[Float64Array, NDArray[np.bool_]]:
        """The quantile of each resample [B], and whether it lies elsewhere after all [B]."""
        smaller = counts @ self._smaller
        reached = smaller[:, None] + counts[:, self._near].cumsum(axis=1)
        below, above = ((reached <= place).sum(axis=1) for place in (self._below, self._above))
        low, high = (self._values[np.minimum(place, len(self._near) - 1)] for place in (below, above))
        return low + self._part * (high - low), (smaller > self._below) | (above == len(self._near))


def _scales(rising: NDArray[np.float64]) -> Float64Array:
    """The scales [B] of rows of sorted values [B, m]."""
    robust = (_quantile(rising, 1 - TAIL) - _quantile(rising, TAIL)) / NORMAL_WIDTH
    usual = rising.std(axis=1, ddof=1) if rising.shape[1] > 1 else np.zeros(len(rising))
    found: Float64Array = np.where(robust > 0, robust, usual)
    return found


def _quantile(rising: NDArray[np.float64], share: float) -> Float64Array:
    """Quantiles [B] of sorted rows, unbiased for the median (Hyndman and Fan 1996, definition 8)."""
    at, last = _place(rising.shape[1], share), rising.shape[1] - 1
    below = int(at)
    above = min(below + 1, last)
    found: Float64Array = rising[:, below] + (at - below) * (rising[:, above] - rising[:, below])
    return found


def _place(m: int, share: float) -> float:
    """Where that quantile lies among m sorted numbers, from 0."""
    return min(max((m + 1 / 3) * share - 2 / 3, 0.0), float(m - 1))
