"""From numbers of a tensor to its atoms: which axis holds channels, and how it is reduced.

`layout` has put a picture's axes into the order [n, channels, height, width], and a sequence's into [n, positions,
channels]; rows of a table [n, columns] have no channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from caveat_worker.engine.base.arrays import AnyArray, Float64Array, Indices


def channel_axis(shape: Sequence[int]) -> int | None:
    """The axis of the channels in a tensor [n, …]; None if it has no positions."""
    if len(shape) < 3:
        return None
    return 2 if len(shape) == 3 else 1


def by_position(values: AnyArray) -> AnyArray:
    """Values [n, …] as [n, positions, channels]; those without positions as [n, 1, d]."""
    axis = channel_axis(values.shape)
    if axis is None:
        return values.reshape(len(values), 1, -1)
    last = np.moveaxis(values, axis, -1)
    return last.reshape(len(values), -1, last.shape[-1])


def strongest(values: AnyArray, tokens: Indices | None = None) -> tuple[Float64Array, Indices]:
    """The largest value of each channel over positions [n, channels], and the position's number [n, channels].

    Of sequences, `tokens` says how many positions of each are no padding [n].
    """
    wide = by_position(values)
    if tokens is not None and values.ndim == 3:
        wide = np.where(np.arange(wide.shape[1])[:, None] < np.maximum(tokens, 1)[:, None, None], wide, -np.inf)
    places = wide.argmax(1)
    return np.asarray(np.take_along_axis(wide, places[:, None], 1)[:, 0], float), places


def summed_over_channels(values: AnyArray) -> Float64Array:
    """Values [n, …] summed over channels: one number for each position."""
    axis = channel_axis(values.shape)
    wide = np.asarray(values, float)
    return wide if axis is None else np.asarray(wide.sum(axis))


def largest_over_channels(values: AnyArray) -> Float64Array:
    """The largest absolute value [n, …] over channels: one number for each position."""
    axis = channel_axis(values.shape)
    size = np.abs(np.asarray(values, float))
    return size if axis is None else np.asarray(size.max(axis))


def summed_over_positions(values: AnyArray) -> Float64Array:
    """Values [n, …] summed over positions: one number for each channel."""
    axis = channel_axis(values.shape)
    wide = np.asarray(values, float)
    if axis is None:
        return wide
    return np.asarray(wide.sum(tuple(other for other in range(1, wide.ndim) if other != axis)))


def placed(maps: Float64Array, shape: Sequence[int]) -> Float64Array:
    """Maps [positions, k] of a layer [n, …] as [k, *positions]."""
    places = [size for one, size in enumerate(shape) if one not in (0, channel_axis(shape))]
    return np.asarray(maps.T.reshape(-1, *places))


def everywhere(vectors: AnyArray, shape: Sequence[int]) -> AnyArray:
    """Vectors [k, channels], each at every position of a layer [n, …] that has some: [k, *layer]."""
    axis = channel_axis(shape) or 1
    places = [size for one, size in enumerate(shape) if one not in (0, axis)]
    wide = np.broadcast_to(vectors.reshape(len(vectors), *[1] * len(places), -1), (len(vectors), *places, shape[axis]))
    return np.ascontiguousarray(np.moveaxis(wide, -1, axis))
