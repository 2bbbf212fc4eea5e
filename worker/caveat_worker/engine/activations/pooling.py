"""How the positions of a layer become features: all kept, averaged, maximised, one token, or the last of each text.

Which axis holds the channels comes from the graph (`autodiff/channels.py`); all others but the examples' are positions.
The derivative belongs to the reduction: with `mean`, it is along "add v at every position", the sum of the
gradient over positions; with `max`, along "add v where each channel is largest". Where texts end is told by `last`,
[n] places counted from 0; without it they end at the last place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from caveat_worker.engine.autodiff.last_token import LAST
from caveat_worker.engine.base.errors import InvalidInput

Places: TypeAlias = NDArray[np.intp]


def features(shape: Sequence[int | str | None], reduce: str, channels: int) -> int | None:
    """How many features an example of a tensor of this shape has, where that is known; raises InvalidInput."""
    if reduce != "flatten" and len(shape) < 3:
        raise InvalidInput(
            "nothing-to-reduce",
            f"A layer with {len(shape)} dimensions has no positions to reduce by '{reduce}'.",
            "Leave the reduction out.",
        )
    if _is_token(reduce) and len(shape) != 3:
        raise InvalidInput(
            "no-tokens",
            f"'{reduce}' needs a layer with one axis of tokens and one of channels; it has {len(shape)} dimensions.",
            "Use 'mean', 'max' or 'flatten'.",
        )
    if reduce != "flatten":
        kept = shape[channels]
        return kept if isinstance(kept, int) else None
    sizes = [size for size in shape[1:] if isinstance(size, int)]
    return int(np.prod(sizes)) if len(sizes) == len(shape) - 1 else None


def last_tokens(mask: NDArray[Any]) -> Places:
    """The last place [n] that each row of a mask [n, tokens] marks; 0 where it marks none."""
    return np.asarray(np.where(mask != 0, np.arange(mask.shape[1]), 0).max(axis=1))


def reduced(
    activations: NDArray[np.float32], reduce: str, channels: int, last: Places | None = None
) -> NDArray[np.float32]:
    """Activations [n, …], whose axis `channels` is that of the channels, as features [n, d]."""
    if reduce == "flatten":
        return activations.reshape(len(activations), -1)
    if _is_token(reduce):
        return _token(activations, reduce, channels, last)
    positions = _positions(activations, channels)
    kept: NDArray[np.float32] = positions.mean(axis=1) if reduce == "mean" else positions.max(axis=1)
    return kept


def moved(
    activations: NDArray[np.float32], step: NDArray[np.float32], reduce: str, channels: int, last: Places | None = None
) -> NDArray[np.float32]:
    """Activations [n, …] whose features have moved by `step` [d]: one token, or every position by the same."""
    if reduce == "flatten":
        return activations + step.reshape(activations.shape[1:])
    if _is_token(reduce):
        there = activations.copy()
        sequence = np.moveaxis(there, channels, -1)
        sequence[_place(sequence, reduce, last)] += step
        return there
    return activations + step.reshape([-1 if axis == channels else 1 for axis in range(activations.ndim)])


def reduced_gradient(
    gradient: NDArray[np.float32],
    activations: NDArray[np.float32],
    reduce: str,
    channels: int,
    last: Places | None = None,
) -> NDArray[np.float32]:
    """The gradient [n, …] with respect to features [n, d], at the activations [n, …] it was taken at."""
    if reduce == "flatten":
        return gradient.reshape(len(gradient), -1)
    if _is_token(reduce):
        return _token(gradient, reduce, channels, last)
    positions = _positions(gradient, channels)
    if reduce == "mean":
        return np.asarray(positions.sum(axis=1))
    largest = _positions(activations, channels).argmax(axis=1)[:, None]
    return np.take_along_axis(positions, largest, axis=1)[:, 0]


def scores(
    output: NDArray[np.float32], reduce: str | None, class_axis: int, last: Places | None = None
) -> NDArray[np.float32]:
    """An output as one row of class scores an example [n, classes], its other axes reduced as the target asks."""
    if output.ndim <= 2:
        return output.reshape(len(output), -1)
    if reduce == LAST:
        return _token(output, LAST, class_axis, last)
    positions = np.moveaxis(output, class_axis, -1).reshape(len(output), -1, output.shape[class_axis])
    if reduce == "max":
        return np.asarray(positions.max(axis=1))
    return np.asarray(positions.sum(axis=1) if reduce == "sum" else positions.mean(axis=1))


def _positions(values: NDArray[np.float32], channels: int) -> NDArray[np.float32]:
    """[n, positions, channels], whatever the layout."""
    return np.moveaxis(values, channels, -1).reshape(len(values), -1, values.shape[channels])


def _is_token(reduce: str) -> bool:
    return reduce == LAST or reduce.startswith("token:")


def _token(values: NDArray[np.float32], reduce: str, channels: int, last: Places | None) -> NDArray[np.float32]:
    """One position of each sequence [n, channels]."""
    sequence = np.moveaxis(values, channels, -1)
    return np.asarray(sequence[_place(sequence, reduce, last)])


def _place(sequence: NDArray[np.float32], reduce: str, last: Places | None) -> Any:
    """The index of one token of each example of [n, tokens, channels]; raises InvalidInput where there is none."""
    count = sequence.shape[1]
    if reduce != LAST:
        token = int(reduce.removeprefix("token:"))
        if token >= count:
            raise InvalidInput(
                "unknown-token", f"'{reduce}' is asked for, and there are {count} tokens.", "Count from 0."
            )
        return slice(None), token
    if last is None:
        return slice(None), -1
    if last.max(initial=0) >= count:
        raise InvalidInput(
            "unknown-token",
            f"A text has its last token at place {last.max() + 1}, and there are {count} places.",
            "Its places are not those of the mask; use 'mean', or 'token:0' for the first.",
        )
    return np.arange(len(sequence)), last
