"""From numbers of a tensor to its atoms: which axis holds channels, and how it is reduced.

`layout` has put a picture's axes into the order [n, channels, height, width], and a sequence's into [n, positions,
channels]; rows of a table [n, columns] have no channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from caveat_worker.engine.base.arrays import AnyArray, Float64Array


def channel_axis(shape: Sequence[int]) -> int | None:
    """The axis of the channels in a tensor [n, …]; None if it has no positions."""
    if len(shape) < 3:
        return None
    return 2 if len(shape) == 3 else 1


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
