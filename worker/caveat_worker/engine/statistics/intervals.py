"""Intervals from resamples, and of means."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtr, stdtrit

from caveat_worker.engine.base.arrays import Float64Array
from caveat_worker.engine.statistics.resampling import bootstrap_means, bootstrap_parts
from caveat_worker.engine.statistics.scale import ResampledScales


def percentile_interval(resamples: Float64Array, alpha: float) -> tuple[float, float]:
    """The middle 1 − alpha of resampled values; values that are not numbers (an empty group) are left out.

    Basic, normal and bias-corrected intervals of an effect were compared with it in simulation (docs/validation.md):
    all cover alike, and this one cannot leave the range of the statistic.
    """
    low, high = np.nanquantile(resamples, [alpha / 2, 1 - alpha / 2])
    return float(low), float(high)


def expanded_interval(resamples: Float64Array, alpha: float, examples: int) -> tuple[float, float]:
    """Percentiles taken as far out as the fewest `examples` of any resampled set ask (Hesterberg 2015).

    Resamples of n examples vary by `√(1 − 1/n)` too little, and their percentiles stand for normal quantiles where
    Student's t is due. Both matter for the few examples that people have.
    """
    return percentile_interval(resamples, 2 * float(ndtr(stdtrit(examples - 1, alpha / 2) * too_narrow(examples))))


def too_narrow(examples: int) -> float:
    """By how much standard errors are larger than resamples of `examples` say."""
    return float(np.sqrt(examples / (examples - 1)))


def mean_interval(values: Float64Array, alpha: float) -> tuple[float, float]:
    """The interval of a mean of `values` [n]: at each end Student's or Hall's, whichever lies farther out.

    Hall (1992, *JRSS B* 54) takes the skewness out of Student's t, which few skewed examples need; of heavy tails the
    skewness is estimated so badly that his interval is too narrow, and Student's is not. No end lies farther out than
    some six standard errors, where resamples of nearly equal values send those of the studentised bootstrap anywhere.
    """
    n, mean = len(values), float(values.mean())
    centred = values - mean
    variance = float((centred**2).mean())
    if variance == 0:
        return mean, mean
    error = np.sqrt(variance / (n - 1))
    skewness = float((centred**3).mean()) / variance**1.5 / np.sqrt(n)
    t = stdtrit(n - 1, np.array([alpha / 2, 1 - alpha / 2]))
    by_hall = _without_skewness(t, skewness)
    return float(mean - max(t[1], by_hall[1]) * error), float(mean - min(t[0], by_hall[0]) * error)


def _without_skewness(t: Float64Array, skewness: float) -> Float64Array:
    """The inverse of Hall's cubic, `g(T) = T + aT² + a²T³/3 + skewness/6` with `a = skewness/3`, at each `t`."""
    a = skewness / 3
    if abs(a) < 1e-9:
        return t
    found: Float64Array = (np.cbrt(1 + 3 * a * (t - skewness / 6)) - 1) / a
    return found


def difference_interval(first: Float64Array, second: Float64Array, alpha: float) -> tuple[float, float]:
    """The interval of `mean(first) - mean(second)` by Welch (1947), whose skewness is what the two do not share."""
    variances = np.array([each.var(ddof=1) / len(each) for each in (first, second)])
    value = float(first.mean() - second.mean())
    if not variances.any():
        return value, value
    freedom = variances.sum() ** 2 / (variances**2 / (len(first) - 1, len(second) - 1)).sum()
    half = float(stdtrit(freedom, 1 - alpha / 2) * np.sqrt(variances.sum()))
    return value - half, value + half


def scaled_mean_interval(
    changes: Float64Array,
    values: Float64Array,
    alpha: float,
    resamples: int,
    rng: np.random.Generator,
    *,
    together: bool,
) -> tuple[float, float]:
    """The interval of `mean(changes) / scale(values)`, with the scale taken anew in every resample.

    `changes` [n] and `values` [m] are drawn `together` if they are of the same examples.
    """
    means, scales, scales_of = [], [], ResampledScales(values)
    for counts in bootstrap_parts(len(values), resamples, rng):
        scales.append(scales_of.of(counts))
        if together:
            means.append(counts @ changes / len(changes))
    if not together:
        means.append(bootstrap_means(changes, resamples, rng))
    ends = mean_interval(changes, alpha)
    return scaled_interval(float(changes.mean()), ends, np.concatenate(means), np.concatenate(scales), alpha)


def scaled_interval(
    value: float, ends: tuple[float, float], resamples: Float64Array, scales: Float64Array, alpha: float
) -> tuple[float, float]:
    """The interval of a figure over a scale, from resamples [B] of both; that of the figure if there is no scale.

    `ends` is the figure's own interval. Its resamples are stretched to it, so that both intervals agree where the scale
    hardly varies. Resamples without any scale are left out.
    """
    first, last = percentile_interval(resamples, alpha)
    below = (value - ends[0]) / (value - first) if first < value else 1.0
    above = (ends[1] - value) / (last - value) if last > value else 1.0
    if not scales.any():
        return ends
    away = resamples - value
    stretched = value + away * np.where(away < 0, below, above)
    return percentile_interval(np.divide(stretched, scales, out=np.full_like(scales, np.nan), where=scales > 0), alpha)
