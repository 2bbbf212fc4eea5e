"""Shape arithmetic: done when the graph is built if the shapes are known, and by nodes in the graph otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

import numpy as np

from caveat_worker.engine.autodiff.builder import Tensor, op
from caveat_worker.engine.onnx.values import Dim


def dims(x: Tensor) -> Tensor:
    """The shape of x as an int64 tensor [rank]: a constant if it is known, else the output of a Shape node."""
    return x.builder.constant(np.asarray(x.sizes, np.int64)) if x.sizes is not None else op.Shape(x)


def size_of(x: Tensor, axis: int) -> Tensor:
    """The length of one axis as an int64 tensor [1]."""
    shape = x.shape
    known = shape[axis] if shape is not None else None
    if isinstance(known, int):
        return x.builder.constant(np.asarray([known], np.int64))
    return op.Gather(dims(x), [axis % x.rank])


def reshape_like(g: Tensor, x: Tensor) -> Tensor:
    """g reshaped to x's shape."""
    return reshape(g, x.shape) if knowable(x.shape) else op.Reshape(g, dims(x), allowzero=1)


def knowable(shape: tuple[Dim, ...] | None) -> bool:
    """Whether a constant can give Reshape this shape: at most one dimension is no number, and none is 0."""
    return shape is not None and sum(not isinstance(d, int) for d in shape) <= 1 and 0 not in shape


def reshape(g: Tensor, shape: tuple[Dim, ...] | None) -> Tensor:
    """g reshaped to a shape of which one dimension may be unknown."""
    assert shape is not None
    if g.shape == shape and None not in shape:
        return g
    return op.Reshape(g, [d if isinstance(d, int) else -1 for d in shape])


def expand_like(g: Tensor, x: Tensor) -> Tensor:
    """g broadcast to x's shape."""
    return op.Expand(g, dims(x))


def zeros(shape: Tensor, like: Tensor) -> Tensor:
    """Zeros of a shape, with the type of `like`."""
    return op.Expand(like.builder.constant(np.zeros((), like.dtype.numpy())), shape)


def ones(shape: Tensor, like: Tensor) -> Tensor:
    """Ones of a shape, with the type of `like`."""
    return op.Expand(like.builder.constant(np.ones((), like.dtype.numpy())), shape)


def zeros_like(x: Tensor) -> Tensor:
    """Zeros in x's shape."""
    return zeros(dims(x), x)


def ones_like(x: Tensor) -> Tensor:
    """Ones in x's shape."""
    return ones(dims(x), x)


def count(x: Tensor, axes: Sequence[int]) -> Tensor | float:
    """The number of elements along the axes together, in x's type."""
    known = [d for a in axes if isinstance(d := (x.shape or ())[a], int)] if x.shape is not None else []
    if x.shape is not None and len(known) == len(axes):
        return float(np.prod(known, dtype=np.float64))
    return op.Cast(op.ReduceProd(op.Gather(dims(x), [a % x.rank for a in axes]), keepdims=0), to=int(x.dtype))


def sum_over(x: Tensor, axes: Sequence[int], keepdims: bool = True) -> Tensor:
    """The sum along axes; with `keepdims` they stay, with length 1."""
    return op.ReduceSum(x, axes, keepdims=int(keepdims)) if axes else x


def transpose(x: Tensor, perm: Sequence[int]) -> Tensor:
    """x with its axes permuted; x itself if the permutation changes nothing."""
    return x if list(perm) == sorted(perm) else op.Transpose(x, perm=list(perm))


def swap_last(x: Tensor) -> Tensor:
    """x with its last two axes exchanged."""
    return transpose(x, [*range(x.rank - 2), x.rank - 1, x.rank - 2])


def sum_to(g: Tensor, x: Tensor, broadcast: tuple[Dim, ...] | None) -> Tensor:
    """g, of the shape `broadcast`, summed over the axes along which x was broadcast."""
    if x.shape == broadcast and broadcast is not None and None not in broadcast:
        return g
    if x.shape is None or broadcast is None or len(x.shape) > len(broadcast):
        return _sum_to_at_run_time(g, x)
    pairs = list(zip_longest(reversed(x.shape), reversed(broadcast), fillvalue=1))[::-1]
    if any(not isinstance(a, int) and (a is None or a != b) for a, b in pairs):
        return _sum_to_at_run_time(g, x)
    extra = len(broadcast) - len(x.shape)
    g = sum_over(g, [i for i, (a, b) in enumerate(pairs) if i < extra or (a == 1 and b != 1)])
    return op.Squeeze(g, list(range(extra))) if extra else g


def _sum_to_at_run_time(g: Tensor, x: Tensor) -> Tensor:
    """`sum_to` by nodes: sums over the axes where x's shape, padded with ones on the left, is 1."""
    missing = op.Size(op.Shape(g)) - op.Size(op.Shape(x))
    ones = op.Expand(x.builder.constant(np.ones(1, np.int64)), op.Reshape(missing, [1]))
    single = op.Equal(op.Concat(ones, op.Shape(x), axis=0), np.ones(1, np.int64))
    axes = op.Reshape(op.NonZero(single), [-1])
    return op.Reshape(op.ReduceSum(g, axes, keepdims=1, noop_with_empty_axes=1), op.Shape(x), allowzero=1)
