"""Occlusion: how the target falls when a window of the example is covered (Zeiler and Fergus 2014).

The windows slide over a picture's height and width, over the tokens of a text, or over the columns of a table. A
position under several windows has the mean of their falls.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np

from caveat_spec.explanations import OcclusionOptions, Reference
from caveat_worker.engine.base.arrays import AnyArray, Float64Array
from caveat_worker.engine.explanations import Shapes
from caveat_worker.engine.explanations.atoms import channel_axis
from caveat_worker.engine.explanations.attributed import Attributed
from caveat_worker.engine.explanations.checks import rank_correlation
from caveat_worker.engine.explanations.references import in_words, reference_of
from caveat_worker.engine.explanations.runs import INPUT, Runs

_AT_ONCE = 32
_SIDES = 15
"""Windows along a picture's side, by default."""

Window = tuple[slice, ...]
"""A window over the positions of an example."""


def cost(options: OcclusionOptions, shapes: Shapes) -> int:
    """A forward pass for each window and fill, and one without."""
    shape = (1, *shapes[INPUT])
    fills = 2 if options.compare and len(shape) > 2 else 1
    return 1 + fills * len(windows(shape, options))


def occlusion(runs: Runs, x: AnyArray, options: OcclusionOptions) -> Attributed:
    """S(x) - S(x with the window filled) [n, *positions], the mean over windows that overlap."""
    before = runs.passes
    scores = runs.scores(x)
    values = np.stack([_falls(runs, x[[row]], score, options, options.fill) for row, score in enumerate(scores)])
    fill = options.fill or ("typical" if x.ndim == 2 and runs.typical is not None else "zero")
    notes = [f"What is covered is replaced by {in_words(fill)}."]
    parts = {}
    if options.compare and x.ndim > 2:
        second: Reference = "zero" if fill == "mean" else "mean"
        parts["other_fill"] = np.stack(
            [_falls(runs, x[[row]], score, options, second) for row, score in enumerate(scores)]
        )
        notes.append(_agreement(values, parts["other_fill"], second))
    return Attributed(values, passes=runs.passes - before, notes=tuple(notes), parts=parts)


def windows(shape: Sequence[int], options: OcclusionOptions) -> list[Window]:
    """Every window over the positions of an example [1, …]; the last one of a row ends with the picture."""
    sides = _sides(shape)
    size = options.window or (max(-(-max(sides) // _SIDES), 1) if len(sides) > 1 else 1)
    stride = min(options.stride or size, size)
    starts = [range(0, max(side - size, 0) + stride, stride) for side in sides]
    along = [[slice(start, min(start + size, side)) for start in one] for one, side in zip(starts, sides, strict=True)]
    return list(product(*along))


def _sides(shape: Sequence[int]) -> list[int]:
    """The lengths of the axes of positions."""
    axis = channel_axis(shape)
    return [size for one, size in enumerate(shape) if one not in (0, axis)]


def _falls(runs: Runs, x: AnyArray, score: float, options: OcclusionOptions, kind: Reference | None) -> Float64Array:
    """The mean fall at each position of one example [1, …] → [*positions]."""
    fill, axis, every = reference_of(runs, x, kind), channel_axis(x.shape), windows(x.shape, options)
    total, times = np.zeros(_sides(x.shape)), np.zeros(_sides(x.shape))
    for start in range(0, len(every), _AT_ONCE):
        some = every[start : start + _AT_ONCE]
        covered = np.repeat(x, len(some), axis=0)
        for row, window in enumerate(some):
            place: list[Any] = list(window)
            if axis is not None:
                place.insert(axis - 1, slice(None))
            covered[(row, *place)] = fill[(0, *place)]
        for window, fall in zip(some, score - runs.scores(covered), strict=True):
            total[window] += fall
            times[window] += 1
    return np.asarray(total / np.maximum(times, 1))


def _agreement(values: Float64Array, other: Float64Array, kind: Reference) -> str:
    """How much the map depends on what is put in a window, as a sentence."""
    if np.ptp(values) == 0 or np.ptp(other) == 0:
        return f"With {in_words(kind)} in its place, one of the two maps is flat."
    rank = rank_correlation(values.reshape(-1), other.reshape(-1))
    return f"With {in_words(kind)} in its place, the map has a rank correlation of {rank:.2f} with this one."
