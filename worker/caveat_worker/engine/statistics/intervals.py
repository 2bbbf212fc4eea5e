"""Intervals from resamples."""

from __future__ import annotations

import numpy as np

from caveat_worker.engine.base.arrays import Float64Array


def percentile_interval(resamples: Float64Array, alpha: float) -> tuple[float, float]:
    """The middle 1 − alpha of resampled values; values that are not numbers (an empty group) are left out.

    Basic, normal and bias-corrected intervals of an effect were compared with it in simulation (docs/validation.md):
    all cover alike, and this one cannot leave the range of the statistic.
    """
    low, high = np.nanquantile(resamples, [alpha / 2, 1 - alpha / 2])
    return float(low), float(high)


def studentised_interval(
    values: Float64Array, resamples: int, alpha: float, rng: np.random.Generator
) -> tuple[float, float]:
    """The bootstrap-t interval of a mean (Efron and Tibshirani 1993, section 12.5), which small skewed samples need.

    Resamples without spread (one example drawn n times) have no t and are left out.
    """
    n, mean = len(values), float(values.mean())
    error = float(values.std(ddof=1)) / np.sqrt(n)
    if error == 0:
        return mean, mean
    drawn = values[rng.integers(0, n, size=(resamples, n))]
    errors = drawn.std(axis=1, ddof=1) / np.sqrt(n)
    kept = errors > 1e-9 * error
    low, high = np.quantile((drawn[kept].mean(1) - mean) / errors[kept], [alpha / 2, 1 - alpha / 2])
    return float(mean - high * error), float(mean - low * error)
