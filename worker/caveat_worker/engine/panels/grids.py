"""Maps of any size as small grids of whole numbers, and where on them the weight lies."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor

import numpy as np

from caveat_spec.explained import LEVELS, MOST_CELLS, Focus, Grid
from caveat_worker.engine.base.arrays import AnyArray, Float64Array

STRONGEST = 0.1
"""The share of the places that a sentence calls the strongest."""
_ROWS, _COLUMNS = ("upper", "", "lower"), ("left", "", "right")
Box = tuple[float, float, float, float]
"""A rectangle on a picture of any size: where it begins and ends, down and across, from 0 to 1."""


def blocks(values: AnyArray, *, additive: bool, most: int = MOST_CELLS) -> Float64Array:
    """A map [h, w] over blocks, so that no side has more than so many.

    Parts of a whole are summed, so that their total stays; other numbers are averaged.
    """
    if not additive:
        there = blocks(np.ones(values.shape), additive=True, most=most)
        return np.asarray(blocks(values, additive=True, most=most) / there)
    side = block_side(values.shape, most)
    height, width = (ceil(length / side) * side for length in values.shape)
    padded = np.zeros((height, width))
    padded[: values.shape[0], : values.shape[1]] = values
    return np.asarray(padded.reshape(height // side, side, width // side, side).sum((1, 3)))


def block_side(shape: Sequence[int], most: int = MOST_CELLS) -> int:
    """How many places on a side make a cell."""
    return ceil(max(shape) / most)


def grid(cells: Float64Array, scale: float) -> Grid:
    """Cells [h, w] as whole numbers of a scale, which holds all of them."""
    whole = np.rint(cells * (LEVELS / scale) if scale else np.zeros_like(cells)).clip(-LEVELS, LEVELS).astype(np.int8)
    height, width = whole.shape
    return Grid(shape=(height, width), scale=scale, cells=b64encode(whole.tobytes()).decode())


def rounded_up(largest: float) -> float:
    """The end of a scale: the largest number to three digits, upwards, so that every number is on it."""
    if largest == 0:
        return 0.0
    digits = 10.0 ** (np.floor(np.log10(largest)) - 2)
    return float(f"{np.ceil(largest / digits * (1 - 1e-9)) * digits:.6g}")


@dataclass(frozen=True)
class Weight:
    """Where the strongest places of a map lie."""

    share: float
    """What they hold of the map's absolute values."""
    where: str
    signed: float
    """Their values together."""


def weight(cells: Float64Array) -> Weight:
    """The strongest tenth of the cells [h, w]: how much they hold, and where their middle is, in words."""
    size = np.abs(cells)
    most = max(1, round(STRONGEST * cells.size))
    strongest = np.argsort(-size, axis=None, kind="stable")[:most]
    y, x = np.unravel_index(strongest, cells.shape)
    held = size[y, x]
    whole = float(size.sum())
    middle = [
        float((held * (axis + 0.5)).sum() / held.sum()) if whole else 0.5 * n
        for axis, n in zip((y, x), cells.shape, strict=True)
    ]
    return Weight(
        share=float(held.sum()) / whole if whole else 0.0,
        where=_where(middle[0] / cells.shape[0], middle[1] / cells.shape[1]),
        signed=float(cells[y, x].sum()),
    )


def _where(down: float, across: float) -> str:
    """`in the upper left`, `at the top`, `in the middle`: the third in which a point lies."""
    row, column = _ROWS[min(2, int(3 * down))], _COLUMNS[min(2, int(3 * across))]
    if row and column:
        return f"in the {row} {column}"
    if row:
        return "at the top" if row == "upper" else "at the bottom"
    return f"at the {column}" if column else "in the middle"


def changed_box(one: AnyArray, other: AnyArray) -> Box | None:
    """The rectangle in which two pictures [c, h, w] or [h, w, c] differ; None where they do not."""
    y, x = np.nonzero((one != other).any(axis=int(np.argmin(one.shape))))
    if not len(y):
        return None
    height, width = np.delete(one.shape, np.argmin(one.shape))
    return (y.min() / height, (y.max() + 1) / height, x.min() / width, (x.max() + 1) / width)


def _within(begin: float, end: float, count: int) -> slice:
    """Those of some cells whose middle lies in a stretch from 0 to 1, or that one which holds its middle."""
    first, last = ceil(begin * count - 0.5), ceil(end * count - 0.5)
    middle = floor((begin + end) / 2 * count)
    return slice(first, last) if first < last else slice(middle, middle + 1)


def focus(values: AnyArray, box: Box, *, additive: bool) -> Focus:
    """How much of a map [h, w] lies in a rectangle, and how much of the places."""
    height, width = values.shape
    top, bottom, left, right = box
    inside = values[_within(top, bottom, height), _within(left, right, width)]
    whole = float(np.abs(values).sum())
    return Focus(
        share=min(1.0, float(np.abs(inside).sum()) / whole) if whole else 0.0,
        area=inside.size / values.size,
        value=float(inside.sum() if additive else inside.mean()),
    )
