"""How the positions of a layer become features: all kept, averaged, maximised, one token, or the last of each text.

Which axis holds the channels comes from the graph (`autodiff/channels.py`); all others but the examples' are positions.
The derivative belongs to the reduction: with `mean`, it is along "add v at every position", the sum of the
gradient over positions; with `max`, along "add v where each channel is largest". Of texts, positions are tokens: a
mask [n, tokens] tells them from padding, which counts nowhere but where all positions are kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, TypeGuard

import numpy as np
from numpy.typing import NDArray

from caveat_worker.engine.autodiff.tokens import LAST
from caveat_worker.engine.base.errors import InvalidInput

Mask: TypeAlias = NDArray[np.bool_]
"""Which places [n, tokens] are tokens, each example having one at least."""


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


def marked(values: Mapping[str, NDArray[Any]], mask: str | None) -> Mask | None:
    """The places [n, tokens] that a mask among a model's inputs marks, and all those of an example with none marked.

    None without a mask, or where it is not read.
    """
    if mask is None or mask not in values:
        return None
    found: Mask = (values[mask] != 0).reshape(len(values[mask]), -1)
    return found | ~found.any(axis=1, keepdims=True)


def reduced(
    activations: NDArray[np.float32], reduce: str, channels: int, mask: Mask | None = None
) -> NDArray[np.float32]:
    """Activations [n, …], whose axis `channels` is that of the channels, as features [n, d]."""
    if reduce == "flatten":
        return activations.reshape(len(activations), -1)
    if _is_token(reduce):
        return _token(activations, reduce, channels, mask)
    return over_positions(_positions(activations, channels), reduce, mask)


def moved(
    activations: NDArray[np.float32], step: NDArray[np.float32], reduce: str, channels: int, mask: Mask | None = None
) -> NDArray[np.float32]:
    """Activations [n, …] whose features have moved by `step` [d]: one token, or every position by the same."""
    if reduce == "flatten":
        return activations + step.reshape(activations.shape[1:])
    if _is_token(reduce):
        there = activations.copy()
        sequence = np.moveaxis(there, channels, -1)
        sequence[_place(sequence, reduce, mask)] += step
        return there
    everywhere = step.reshape([-1 if axis == channels else 1 for axis in range(activations.ndim)])
    if not _tells(mask, _positions(activations, channels)):
        return activations + everywhere
    sizes = [1 if axis == channels else size for axis, size in enumerate(activations.shape)]
    return np.where(mask.reshape(sizes), activations + everywhere, activations)


def reduced_gradient(
    gradient: NDArray[np.float32],
    activations: NDArray[np.float32],
    reduce: str,
    channels: int,
    mask: Mask | None = None,
) -> NDArray[np.float32]:
    """The gradient [n, …] with respect to features [n, d], at the activations [n, …] it was taken at."""
    if reduce == "flatten":
        return gradient.reshape(len(gradient), -1)
    if _is_token(reduce):
        return _token(gradient, reduce, channels, mask)
    positions = _positions(gradient, channels)
    if reduce == "mean":
        return over_positions(positions, "sum", mask)
    largest = _lowered(_positions(activations, channels), mask).argmax(axis=1)[:, None]
    return np.take_along_axis(positions, largest, axis=1)[:, 0]


def scores(
    output: NDArray[np.float32], reduce: str | None, class_axis: int, mask: Mask | None = None
) -> NDArray[np.float32]:
    """An output as one row of class scores an example [n, classes], its other axes reduced as the target asks."""
    if output.ndim <= 2:
        return output.reshape(len(output), -1)
    if reduce == LAST:
        return _token(output, LAST, class_axis, mask)
    return over_positions(_positions(output, class_axis), reduce or "mean", mask)


def over_positions(positions: NDArray[Any], reduce: str, mask: Mask | None) -> NDArray[Any]:
    """Values [n, positions, d] reduced by `mean`, `sum` or `max` over the positions that the mask marks [n, d]."""
    if reduce == "max":
        return np.asarray(_lowered(positions, mask).max(axis=1))
    if not _tells(mask, positions):
        return np.asarray(positions.sum(axis=1) if reduce == "sum" else positions.mean(axis=1))
    weights = mask.astype(positions.dtype)
    total = (weights[:, None] @ positions)[:, 0]
    return np.asarray(total if reduce == "sum" else total / weights.sum(axis=1, keepdims=True))


def _lowered(positions: NDArray[Any], mask: Mask | None) -> NDArray[Any]:
    """Values [n, positions, d] that are the least there can be where the mask marks none."""
    return np.where(mask[..., None], positions, -np.inf) if _tells(mask, positions) else positions


def _tells(mask: Mask | None, positions: NDArray[Any]) -> TypeGuard[Mask]:
    """Whether a mask is about these positions [n, positions, d]."""
    return mask is not None and mask.shape == positions.shape[:2]


def _positions(values: NDArray[np.float32], channels: int) -> NDArray[np.float32]:
    """[n, positions, channels], whatever the layout."""
    return np.moveaxis(values, channels, -1).reshape(len(values), -1, values.shape[channels])


def _is_token(reduce: str) -> bool:
    return reduce == LAST or reduce.startswith("token:")


def _token(values: NDArray[np.float32], reduce: str, channels: int, mask: Mask | None) -> NDArray[np.float32]:
    """One position of each sequence [n, channels]."""
    sequence = np.moveaxis(values, channels, -1)
    return np.asarray(sequence[_place(sequence, reduce, mask)])


def _place(sequence: NDArray[np.float32], reduce: str, mask: Mask | None) -> Any:
    """The index of one token of each example of [n, tokens, channels]; raises InvalidInput where there is none."""
    count = sequence.shape[1]
    if reduce != LAST:
        token = int(reduce.removeprefix("token:"))
        if token >= count:
            raise InvalidInput(
                "unknown-token", f"'{reduce}' is asked for, and there are {count} tokens.", "Count from 0."
            )
        return slice(None), token
    if mask is None:
        return slice(None), -1
    if mask.shape[1] != count:
        raise InvalidInput(
            "unknown-token",
            f"'{LAST}' is asked for where there are {count} places, and the mask has {mask.shape[1]}.",
            "Use 'mean', or 'token:0' for the first.",
        )
    return np.arange(len(sequence)), count - 1 - mask[:, ::-1].argmax(axis=1)
