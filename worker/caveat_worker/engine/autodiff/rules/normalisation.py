# mypy: allow-untyped-defs, allow-untyped-calls
# ruff: noqa: D103
"""Normalisations by the moments or norms of the input."""

from __future__ import annotations

import numpy as np

from caveat_worker.engine.autodiff.builder import op
from caveat_worker.engine.autodiff.rules.table import UnsupportedOperator, vjp
from caveat_worker.engine.autodiff.shapes import sum_over, sum_to


@vjp("BatchNormalization")
def batch_normalization(g, y, x, scale, bias, mean, variance, *, epsilon, momentum, training_mode):
    """With recorded moments it is affine for each channel: dx = g γ / √(σ² + ε)."""
    if training_mode:
        raise UnsupportedOperator("it normalises by the batch itself (training_mode), so examples are not independent")
    gain = scale / op.Sqrt(variance + epsilon)
    z = (x - _per_channel(mean, x)) / _per_channel(op.Sqrt(variance + epsilon), x)
    others = [0, *range(2, x.rank)]
    total = sum_over(g, others, keepdims=False)
    return g * _per_channel(gain, x), sum_over(g * z, others, keepdims=False), total, -gain * total, None


@vjp("InstanceNormalization")
def instance_normalization(g, y, x, scale, bias, *, epsilon):
    axes = list(range(2, x.rank))
    z, deviation = _standardised(x, axes, epsilon)
    others = [0, *axes]
    return (
        _through_moments(g * _per_channel(scale, x), z, deviation, axes),
        sum_over(g * z, others, keepdims=False),
        sum_over(g, others, keepdims=False),
    )


@vjp("LayerNormalization")
def layer_normalization(g, y, x, scale, bias=None, *, axis, epsilon, stash_type):
    """dx = (v - mean(v) - z mean(v z)) / σ, with v = g γ and z the normalised x."""
    axes = list(range(axis % x.rank, x.rank))
    inverse = y.sibling(2, x.dtype)
    z = (x - y.sibling(1, x.dtype)) * inverse
    v = g * scale
    dx = (v - op.ReduceMean(v, axes) - z * op.ReduceMean(v * z, axes)) * inverse
    return dx, sum_to(g * z, scale, x.shape), bias and sum_to(g, bias, x.shape)


@vjp("RMSNormalization")
def rms_normalization(g, y, x, scale, *, axis, epsilon, stash_type):
    """dx = (v - z mean(v z)) / r, with r the root mean square of x, z = x / r and v = g γ."""
    axes = list(range(axis % x.rank, x.rank))
    inverse = 1.0 / op.Sqrt(op.ReduceMean(x * x, axes) + epsilon)
    z, v = x * inverse, g * scale
    return (v - z * op.ReduceMean(v * z, axes)) * inverse, sum_to(g * z, scale, x.shape)


@vjp("GroupNormalization")
def group_normalization(g, y, x, scale, bias, *, epsilon, num_groups, stash_type):
    """Instance normalisation of groups of channels, with a gain for each channel."""
    grouped = op.Reshape(x, [0, num_groups, -1])
    z, deviation = _standardised(grouped, [2], epsilon)
    v = op.Reshape(g * _per_channel(scale, x), [0, num_groups, -1])
    dx = op.Reshape(_through_moments(v, z, deviation, [2]), op.Shape(x))
    others = [0, *range(2, x.rank)]
    gz = g * op.Reshape(z, op.Shape(x))
    return dx, sum_over(gz, others, keepdims=False), sum_over(g, others, keepdims=False)


@vjp("MeanVarianceNormalization")
def mean_variance_normalization(g, y, x, *, axes):
    """The derivative of y = (x - mean) / (σ + 1e-9), as the ONNX spec defines it."""
    axes = [a % x.rank for a in axes]
    if 0 in axes:
        raise UnsupportedOperator("it normalises over the batch, so examples are not independent")
    centred = x - op.ReduceMean(x, axes)
    deviation = op.Sqrt(op.ReduceMean(centred * centred, axes))
    z = centred / deviation
    shrunk = deviation + 1e-9
    return ((g - op.ReduceMean(g, axes) - z * op.ReduceMean(g * z, axes)) / shrunk,)


@vjp("LpNormalization")
def lp_normalization(g, y, x, *, axis, p):
    """y = x / |x|: dx = (g - y Σ g y) / |x|₂, or (g - sign(x) Σ g y) / |x|₁."""
    norm = op.ReduceL1(x, [axis]) if p == 1 else op.ReduceL2(x, [axis])
    away = op.Sign(x) if p == 1 else y
    return ((g - away * sum_over(g * y, [axis])) / norm * (norm > 0),)


@vjp("LRN")
def lrn(g, y, x, *, alpha, beta, bias, size):
    """y = x s^-β with s = bias + α/size Σ x² over neighbouring channels, a 1x1 convolution with a band of ones."""
    channels = x.shape[1]
    if not isinstance(channels, int):
        raise UnsupportedOperator("the number of its channels is not known")
    offset = np.arange(channels)[None, :] - np.arange(channels)[:, None]
    band = ((offset >= -((size - 1) // 2)) & (offset <= size // 2)).astype(x.dtype.numpy())
    neighbours = lambda t, band: op.Conv(t, band.reshape(channels, channels, *[1] * (x.rank - 2)))  # noqa: E731
    s = bias + alpha / size * neighbours(x * x, band)
    return (g * op.Pow(s, -beta) - (2 * alpha * beta / size) * x * neighbours(g * y / s, band.T),)


def _standardised(x, axes, epsilon):
    """(x - mean) / deviation, and the deviation √(variance + ε)."""
    centred = x - op.ReduceMean(x, axes)
    deviation = op.Sqrt(op.ReduceMean(centred * centred, axes) + epsilon)
    return centred / deviation, deviation


def _through_moments(v, z, deviation, axes):
    """The cotangent of x where z = (x - mean) / deviation and v is the cotangent of z."""
    return (v - op.ReduceMean(v, axes) - z * op.ReduceMean(v * z, axes)) / deviation


def _per_channel(v, x):
    """A vector [c] that broadcasts against x [n, c, spatial...]."""
    return op.Unsqueeze(v, list(range(1, x.rank - 1))) if x.rank > 2 else v
