"""SmoothGrad: the target's derivative, averaged over noisy copies of the example (Smilkov et al. 2017)."""

from __future__ import annotations

import numpy as np

from caveat_spec.explanations import SmoothGradOptions
from caveat_worker.engine.base.arrays import AnyArray
from caveat_worker.engine.explanations import Shapes
from caveat_worker.engine.explanations.atoms import channel_axis
from caveat_worker.engine.explanations.attributed import Attributed
from caveat_worker.engine.explanations.checks import not_flat
from caveat_worker.engine.explanations.runs import GRADIENT, Runs

_AT_ONCE = 16


def cost(options: SmoothGradOptions, shapes: Shapes) -> int:
    """A gradient for each noisy copy."""
    return GRADIENT * options.samples


def smoothgrad(runs: Runs, x: AnyArray, options: SmoothGradOptions) -> Attributed:
    """The size of the mean derivative [n, *positions], that of the largest colour, with its standard error."""
    before = runs.passes
    moments = [_moments(runs, x[[row]], options) for row in range(len(x))]
    mean, error = (np.concatenate(parts) for parts in zip(*moments, strict=True))
    values, spread = np.abs(mean), error
    axis = channel_axis(mean.shape)
    if axis is not None:
        largest = np.expand_dims(values.argmax(axis), axis)
        values, spread = (np.take_along_axis(part, largest, axis).squeeze(axis) for part in (values, error))
    return Attributed(
        values,
        checks=(not_flat(mean),),
        spread=spread,
        passes=runs.passes - before,
        notes=(
            f"The mean of {options.samples} noisy copies, whose noise has {options.noise:.0%} of {_of(runs, x)} range.",
        ),
    )


def _moments(runs: Runs, x: AnyArray, options: SmoothGradOptions) -> tuple[AnyArray, AnyArray]:
    """Mean derivative and its standard error for one example, each [1, …]."""
    rng, scale = np.random.default_rng(options.seed), options.noise * _range(runs, x)
    total: AnyArray = np.zeros(())
    squares: AnyArray = np.zeros(())
    for start in range(0, options.samples, _AT_ONCE):
        count = min(_AT_ONCE, options.samples - start)
        noise = rng.standard_normal((count, *x.shape[1:]), np.float32)
        gradient = runs.gradient(np.asarray(x + np.float32(scale) * noise, x.dtype), options.layer)
        total, squares = total + gradient.sum(0, dtype=float), squares + np.square(gradient).sum(0, dtype=float)
    mean = total / options.samples
    variance = np.maximum(squares / options.samples - mean**2, 0)
    return mean[None], np.sqrt(variance / (options.samples - 1))[None]


def _range(runs: Runs, x: AnyArray) -> AnyArray:
    """What noise is a share of: the example's own range, or for a row of a table that of each of its columns."""
    if x.ndim == 2 and runs.ranges is not None:
        return runs.ranges
    return np.asarray(float(x.max() - x.min()))


def _of(runs: Runs, x: AnyArray) -> str:
    """Whose range that is, in words."""
    return "each column's" if x.ndim == 2 and runs.ranges is not None else "the example's"
