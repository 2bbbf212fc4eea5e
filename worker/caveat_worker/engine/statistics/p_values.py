"""p-values: how often chance alone gives a statistic as large."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtr

from caveat_worker.engine.base.arrays import Float64Array
from caveat_worker.engine.statistics.intervals import too_narrow
from caveat_worker.engine.statistics.resampling import parts

TIE = 1e-7
"""Statistics closer than this share are equal: the same set, fitted twice, must not count as beyond itself."""


def exceedance_p(observed: float, null: Float64Array) -> float:
    """(1 + #{|Tₘ| ≥ |T|}) / (M + 1): exact where the observed set is exchangeable with the M drawn ones.

    Phipson and Smyth 2010: never zero, and never under its nominal size, for any M.
    """
    beyond = int((np.abs(null) >= abs(observed) * (1 - TIE)).sum())
    return (1 + beyond) / (len(null) + 1)


def resampled_p(value: float, resamples: Float64Array, examples: int) -> float:
    """Two-sided p of `value` against zero by Student's t, with the standard deviation of its resamples.

    `examples` are those of the smallest set that was resampled, as for the interval (`intervals.expanded_interval`).
    Where they do not vary, as those of an affine model on matched pairs do not, no resample is nearer to zero.

    A concept that differs from the reference set in something the target ignores is not exchangeable with it, and its
    effect varies more than those of random sets; random sets cannot answer this doubt (docs/validation.md).
    """
    spread = float(resamples.std(ddof=1)) * too_narrow(examples)
    return float(2 * stdtr(examples - 1, -abs(value) / spread)) if spread > 0 else float(value == 0)


def sign_flip_p(change: Float64Array, sets: int, rng: np.random.Generator) -> float:
    """Two-sided p of the mean of paired changes [n]: exact where each could as well have had the other sign.

    That is so when without and with are exchangeable within a pair (Fisher 1935, chapter 3). All 2ⁿ signs are tried
    where they are no more than `sets`; otherwise `sets` random ones.
    """
    n = len(change)
    observed = abs(float(change.sum())) * (1 - TIE)
    if 2**n <= sets:
        signs = 1.0 - 2.0 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
        return float((np.abs(signs @ change) >= observed).mean())
    beyond = 0
    for some in parts(n, sets):
        signs = rng.integers(0, 2, size=(some, n)) * 2.0 - 1.0
        beyond += int((np.abs(signs @ change) >= observed).sum())
    return (1 + beyond) / (sets + 1)


def legacy_t_test(scores: ArrayLike, random_scores: ArrayLike) -> float:
    """The p-value of the published t-test of a concept's scores against random ones; without any spread, 0 or 1."""
    first, second = np.asarray(scores, dtype=float), np.asarray(random_scores, dtype=float)
    n = len(first) + len(second)
    between = float(first.mean() - second.mean())
    pooled = (((first - first.mean()) ** 2).sum() + ((second - second.mean()) ** 2).sum()) / (n - 2)
    error = math.sqrt(pooled * (1 / len(first) + 1 / len(second)))
    if error == 0:
        return float(between == 0)
    return float(2 * stdtr(n - 2, -abs(between) / error))
