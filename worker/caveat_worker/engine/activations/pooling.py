"""How the positions of a layer become features: all kept, averaged, maximised, or one token.

A tensor of rank 4 and more is [n, channels, positions…]; one of rank 3 is [n, positions, channels], as in a
transformer. The derivative belongs to the reduction: with `mean`, it is along "add v at every position", the sum of the
gradient over positions; with `max`, along "add v where each channel is largest".
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from caveat_worker.engine.base.errors import InvalidInput


def features(shape: Sequence[int | str | None], reduce: str) -> int | None:
    """How many features an example of a tensor of this shape has, where that is known; raises InvalidInput."""
    if reduce != "flatten" and len(shape) < 3:
        raise InvalidInput(
            "nothing-to-reduce",
            f"A layer with {len(shape)} dimensions has no positions to reduce by '{reduce}'.",
            "Leave the reduction out.",
        )
    if reduce.startswith("token:") and len(shape) != 3:
        raise InvalidInput(
            "no-tokens",
            f"'{reduce}' needs a layer of [examples, tokens, features]; this one has {len(shape)} dimensions.",
            "Use 'mean', 'max' or 'flatten'.",
        )
    if reduce != "flatten":
        kept = shape[-1] if len(shape) == 3 else shape[1]
        return kept if isinstance(kept, int) else None
    sizes = [size for size in shape[1:] if isinstance(size, int)]
    return int(np.prod(sizes)) if len(sizes) == len(shape) - 1 else None


def reduced(activations: NDArray[np.float32], reduce: str) -> NDArray[np.float32]:
    """Activations [n, …] as features [n, d]."""
    if reduce == "flatten":
        return activations.reshape(len(activations), -1)
    if reduce.startswith("token:"):
        return activations[:, _token(activations, reduce)]
    positions = _positions(activations)
    kept: NDArray[np.float32] = positions.mean(axis=1) if reduce == "mean" else positions.max(axis=1)
    return kept


def moved(activations: NDArray[np.float32], step: NDArray[np.float32], reduce: str) -> NDArray[np.float32]:
    """Activations [n, …] whose features have moved by `step` [d]: every position by the same where they are reduced."""
    if reduce == "flatten":
        return activations + step.reshape(activations.shape[1:])
    if reduce.startswith("token:"):
        there = activations.copy()
        there[:, _token(activations, reduce)] += step
        return there
    return activations + (step if activations.ndim == 3 else step.reshape(-1, *[1] * (activations.ndim - 2)))


def reduced_gradient(
    gradient: NDArray[np.float32], activations: NDArray[np.float32], reduce: str
) -> NDArray[np.float32]:
    """The gradient [n, …] with respect to features [n, d], at the activations [n, …] it was taken at."""
    if reduce == "flatten":
        return gradient.reshape(len(gradient), -1)
    if reduce.startswith("token:"):
        return gradient[:, _token(gradient, reduce)]
    positions = _positions(gradient)
    if reduce == "mean":
        return np.asarray(positions.sum(axis=1))
    largest = _positions(activations).argmax(axis=1)[:, None]
    return np.take_along_axis(positions, largest, axis=1)[:, 0]


def scores(output: NDArray[np.float32], reduce: str | None, class_axis: int) -> NDArray[np.float32]:
    """An output as one row of class scores an example [n, classes], its other axes reduced as the target asks."""
    if output.ndim <= 2:
        return output.reshape(len(output), -1)
    positions = np.moveaxis(output, class_axis, -1).reshape(len(output), -1, output.shape[class_axis])
    if reduce == "max":
        return np.asarray(positions.max(axis=1))
    return np.asarray(positions.sum(axis=1) if reduce == "sum" else positions.mean(axis=1))


def _positions(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """[n, positions, channels], whatever the layout."""
    if values.ndim == 3:
        return values
    return np.moveaxis(values, 1, -1).reshape(len(values), -1, values.shape[1])


def _token(values: NDArray[np.float32], reduce: str) -> int:
    token = int(reduce.removeprefix("token:"))
    if token >= values.shape[1]:
        raise InvalidInput(
            "unknown-token",
            f"'{reduce}' is asked for, and there are {values.shape[1]} tokens.",
            "Count from 0.",
        )
    return token
