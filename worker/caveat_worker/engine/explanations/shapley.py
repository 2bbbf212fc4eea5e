"""Shapley values of an example's parts, from outputs alone: columns, tokens, or regions of a picture.

A part's value is the mean, over all orders in which the parts are put in place of a reference, of what it adds. Few
parts are computed exactly, from every subset. Of many, orders are drawn in pairs, each with its reverse (antithetic
sampling; Mitchell et al. 2022). In either case the values add up exactly, because each order's do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import factorial

import numpy as np
from numpy.typing import NDArray

from caveat_spec.explanations import ShapleyOptions
from caveat_worker.engine.base.arrays import AnyArray, Float64Array, Indices
from caveat_worker.engine.explanations import Shapes
from caveat_worker.engine.explanations.atoms import channel_axis
from caveat_worker.engine.explanations.attributed import Attributed
from caveat_worker.engine.explanations.checks import completeness
from caveat_worker.engine.explanations.references import compared, in_words, reference_of
from caveat_worker.engine.explanations.runs import INPUT, Runs

_AT_ONCE = 32
_ROUNDING = 1e-6

Subsets = NDArray[np.bool_]
"""Which parts are in place [k, parts]."""


def cost(options: ShapleyOptions, shapes: Shapes) -> int:
    """A forward pass for each subset that is asked for."""
    count = int(_parts((1, *shapes[INPUT]), options).max()) + 1
    return 2**count if _few(count, options) else 2 + _orders(options) * (count - 1)


def shapley(runs: Runs, x: AnyArray, options: ShapleyOptions) -> Attributed:
    """Shapley values [n, *parts] with their standard errors; a picture's parts are [regions, regions]."""
    before, reference = runs.passes, reference_of(runs, x, options.fill)
    parts = _parts(x.shape, options)
    shape = _shape_of_parts(x.shape, options)
    found = [_divide(runs, x[[row]], reference[[row]], parts, options) for row in range(len(x))]
    values, spread, ends = (np.stack(each) for each in zip(*found, strict=True))
    total = ends[:, 1] - ends[:, 0]
    count = values.shape[1]
    fill = options.fill or ("typical" if x.ndim == 2 and runs.typical is not None else "zero")
    how = "all subsets of the parts" if _few(count, options) else f"{_orders(options)} orders of the parts"
    return Attributed(
        values.reshape(len(x), *shape),
        total=total,
        checks=(completeness(values.sum(1), total, _ROUNDING, scale=float(np.abs(ends).max())),),
        spread=spread.reshape(len(x), *shape),
        passes=runs.passes - before,
        rest=total - values.sum(1),
        notes=(
            f"From {how}; an absent part is replaced by {in_words(fill)}.",
            compared(fill, float(ends[0, 0])),
        ),
    )


def _orders(options: ShapleyOptions) -> int:
    """How many orders are drawn: an even number."""
    return options.permutations + options.permutations % 2


def _few(count: int, options: ShapleyOptions) -> bool:
    """Whether all subsets cost no more than the orders do."""
    return count <= 16 and 2**count <= max(2 + _orders(options) * (count - 1), 4)


def _shape_of_parts(shape: Sequence[int], options: ShapleyOptions) -> tuple[int, ...]:
    axis = channel_axis(shape)
    sides = [size for one, size in enumerate(shape) if one not in (0, axis)]
    return tuple(min(options.regions, side) for side in sides) if len(sides) > 1 else tuple(sides)


def _parts(shape: Sequence[int], options: ShapleyOptions) -> Indices:
    """The part that each position of an example [1, …] belongs to [*positions]."""
    axis = channel_axis(shape)
    sides = [size for one, size in enumerate(shape) if one not in (0, axis)]
    counts = _shape_of_parts(shape, options)
    along = [np.arange(side) * count // side for side, count in zip(sides, counts, strict=True)]
    return np.asarray(np.ravel_multi_index(np.meshgrid(*along, indexing="ij"), counts))


def _divide(
    runs: Runs, x: AnyArray, reference: AnyArray, parts: Indices, options: ShapleyOptions
) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Values [parts], standard errors [parts], and the scores of reference and example [2]."""
    count = int(parts.max()) + 1

    def scores(subsets: Subsets) -> Float64Array:
        chunks = [subsets[start : start + _AT_ONCE] for start in range(0, len(subsets), _AT_ONCE)]
        return np.concatenate([runs.scores(_mixed(x, reference, parts, chunk)) for chunk in chunks])

    if _few(count, options):
        every = (np.arange(2**count)[:, None] >> np.arange(count) & 1).astype(bool)
        found = scores(every)
        return _exact(every, found), np.zeros(count), found[[0, -1]]
    ends = scores(np.array([[False] * count, [True] * count]))
    rng = np.random.default_rng(options.seed)
    pairs = []
    for _ in range(_orders(options) // 2):
        order = rng.permutation(count)
        pairs.append((_added(order, scores, ends) + _added(order[::-1], scores, ends)) / 2)
    each = np.array(pairs)
    error = each.std(0, ddof=1) / np.sqrt(len(each)) if len(each) > 1 else np.full(count, np.abs(each).max())
    return each.mean(0), error, ends


def _mixed(x: AnyArray, reference: AnyArray, parts: Indices, subsets: Subsets) -> AnyArray:
    """The example where a part is in place, and the reference elsewhere [k, …]."""
    there = subsets[:, parts]
    axis = channel_axis(x.shape)
    return np.where(there if axis is None else np.expand_dims(there, axis), x, reference).astype(x.dtype)


def _added(order: Indices, scores: Callable[[Subsets], Float64Array], ends: Float64Array) -> Float64Array:
    """What each part adds in one order [parts]."""
    count = len(order)
    rank = np.empty(count, int)
    rank[order] = np.arange(count)
    between = scores(rank[None] < np.arange(1, count)[:, None])
    added = np.empty(count)
    added[order] = np.diff(np.concatenate([ends[:1], between, ends[1:]]))
    return added


def _exact(every: Subsets, found: Float64Array) -> Float64Array:
    """Values [parts] from the scores of all subsets, in the order of their binary numbers."""
    count = every.shape[1]
    sizes = every.sum(1)
    weights = np.array([factorial(s) * factorial(count - s - 1) / factorial(count) for s in range(count)])
    values = np.empty(count)
    for part in range(count):
        without = np.flatnonzero(~every[:, part])
        values[part] = weights[sizes[without]] @ (found[without + 2**part] - found[without])
    return values
