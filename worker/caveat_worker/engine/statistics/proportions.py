"""Intervals of proportions, and of how far those of several groups lie apart.

A single proportion has the exact interval of Clopper and Pearson (1934), which covers at least what it promises for any
count. Two proportions are compared by the method of Zou and Donner (2008) from their score intervals (Wilson 1927):
Newcombe's hybrid for a difference, its counterpart for a ratio (Donner and Zou 2012). The largest difference among
several groups is one of the differences of two. The end that says how large it may be is that of the widest pair; the
end that says how large it is at least picks the most extreme pair, so that it is corrected for their number.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, ndtri

from caveat_worker.engine.base.arrays import Float64Array


def exact_interval(hits: int, n: int, alpha: float) -> tuple[float, float]:
    """The interval of a proportion with `hits` of `n`, exact for any count (Clopper and Pearson 1934)."""
    low = betaincinv(hits, n - hits + 1, alpha / 2) if hits else 0.0
    high = betaincinv(hits + 1, n - hits, 1 - alpha / 2) if hits < n else 1.0
    return float(low), float(high)


def largest_difference(hits: Float64Array, n: Float64Array, alpha: float) -> tuple[float, float]:
    """The interval of the largest difference between the proportions `hits / n` of two groups or more [k]."""
    first, second = _pairs(len(n))
    rates = hits / n
    differences = rates[first] - rates[second]

    def ends(tail: float) -> Float64Array:
        """The lower ends [k(k-1)] at this one-sided level; the upper ones are those of the reversed pairs."""
        low, high = _score_intervals(hits, n, tail)
        found: Float64Array = differences - np.hypot((rates - low)[first], (high - rates)[second])
        return found

    return float(max(0.0, ends(_corrected(alpha, len(n))).max())), float(min(1.0, -ends(alpha / 2).min()))


def smallest_ratio(hits: Float64Array, n: Float64Array, alpha: float) -> tuple[float, float]:
    """The interval of the smallest ratio between the proportions `hits / n` of two groups or more [k], of which one is
    not 0."""
    first, second = _pairs(len(n))

    def ends(tail: float) -> Float64Array:
        """The lower ends [k(k-1)] at this one-sided level; the upper ones are one over those of the reversed pairs."""
        low, high = _score_intervals(hits, n, tail)
        rates = hits / n
        below = (low * (2 * rates - low))[first]
        above = (high * (2 * rates - high))[second]
        product = rates[first] * rates[second]
        root = np.sqrt(np.maximum(product**2 - below * above, 0))
        found: Float64Array = np.divide(below, product + root, out=np.zeros_like(product), where=below > 0)
        return found

    return float(min(1.0, ends(alpha / 2).min())), float(min(1.0, 1 / ends(_corrected(alpha, len(n))).max()))


def _score_intervals(hits: Float64Array, n: Float64Array, tail: float) -> tuple[Float64Array, Float64Array]:
    """The ends of the score interval of each proportion [k], with `tail` outside at either end (Wilson 1927)."""
    z = float(-ndtri(tail))
    middle = (hits + z**2 / 2) / (n + z**2)
    half = z / (n + z**2) * np.sqrt(hits * (n - hits) / n + z**2 / 4)
    low: Float64Array = np.where(hits > 0, middle - half, 0.0)
    high: Float64Array = np.where(hits < n, middle + half, 1.0)
    return low, high


def _pairs(groups: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The first and the second of every ordered pair of groups [k(k-1)]."""
    first, second = np.nonzero(~np.eye(groups, dtype=bool))
    return first, second


def _corrected(alpha: float, groups: int) -> float:
    """The one-sided level at which the most extreme of all pairs errs in `alpha` of cases, if all are alike."""
    return alpha / (groups * (groups - 1))
