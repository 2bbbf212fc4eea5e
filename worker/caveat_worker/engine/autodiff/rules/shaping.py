# mypy: allow-untyped-defs, allow-untyped-calls
# ruff: noqa: D103
"""Operators that move elements without changing them: their derivatives move the cotangents back."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from caveat_worker.engine.autodiff.builder import Tensor, op, ops
from caveat_worker.engine.autodiff.rules.table import UnsupportedOperator, elementwise, vjp
from caveat_worker.engine.autodiff.shapes import dims, reshape_like, size_of, sum_over, transpose, zeros, zeros_like

INT64 = int(ir.DataType.INT64)


@vjp("Flatten", "Reshape", "Squeeze", "Unsqueeze")
def reshape(g, y, x, shape_or_axes=None, *, allowzero=0, axis=1):
    return (reshape_like(g, x),)


@vjp("Transpose")
def transposed(g, y, x, *, perm=None):
    return (transpose(g, np.argsort(perm).tolist() if perm else list(range(x.rank))[::-1]),)


@elementwise("Expand")
def expand(g, y, x, shape):
    return g, None


@vjp("Tile")
def tile(g, y, x, repeats):
    """Folds each axis of g into (repeats, length) and sums over the repeats."""
    folded = op.Concat(op.Unsqueeze(repeats, [1]), op.Unsqueeze(dims(x), [1]), axis=1)
    return sum_over(op.Reshape(g, op.Reshape(folded, [-1])), range(0, 2 * x.rank, 2), keepdims=False), None


@vjp("Concat")
def concat(g, y, *xs, axis):
    if len(xs) == 1:
        return (g,)
    return ops.Split(g, op.Concat(*(size_of(x, axis) for x in xs), axis=0), axis=axis, outputs=len(xs))


@vjp("Split", several=1)
def split(g, y, x, sizes=None, *, axis, num_outputs=None):
    parts = [zeros_like(part) if cotangent is None else cotangent for cotangent, part in zip(g, y, strict=True)]
    return op.Concat(*parts, axis=axis), None


@vjp("Slice")
def slice_(g, y, x, starts, ends, axes=None, steps=None):
    """Puts g's elements at the positions that the slice took, and zero elsewhere."""
    if any(t is not None and t.array is None for t in (axes, steps)):
        raise UnsupportedOperator("its axes or steps are not constant")
    for i, axis in enumerate(range(starts.shape[0]) if axes is None else axes.array.tolist()):
        step = 1 if steps is None else int(steps.array[i])
        start, end = (op.Cast(op.Gather(t, [i]), to=INT64) for t in (starts, ends))
        taken = _positions(x, axis, start, end, step)
        g = put(g, taken, axis % x.rank, x, unique=True)
    return g, None, None, None, None


@vjp("Gather")
def gather(g, y, x, indices, *, axis):
    axis %= x.rank
    picked = indices.rank
    flat = op.Cast(op.Reshape(indices, [-1]), to=INT64)
    if picked == 0:
        g = op.Unsqueeze(g, [axis])
    elif picked > 1:
        g = op.Reshape(g, op.Concat(_part(x, 0, axis), [-1], _part(x, axis + 1, x.rank), axis=0))
    return put(g, flat, axis, x), None


@vjp("GatherElements")
def gather_elements(g, y, x, indices, *, axis):
    return op.ScatterElements(zeros_like(x), indices, g, axis=axis, reduction="add"), None


@vjp("GatherND")
def gather_nd(g, y, x, indices, *, batch_dims):
    return op.ScatterND(zeros_like(x), _with_batch(indices, batch_dims), g, reduction="add"), None


@vjp("ScatterElements")
def scatter_elements(g, y, x, indices, updates, *, axis, reduction):
    def put(t, parts, how):
        return op.ScatterElements(t, indices, parts, axis=axis, reduction=how)

    return _scattered(g, y, x, updates, reduction, put, lambda t: op.GatherElements(t, indices, axis=axis))


@vjp("ScatterND")
def scatter_nd(g, y, x, indices, updates, *, reduction):
    def put(t, parts, how):
        return op.ScatterND(t, indices, parts, reduction=how)

    return _scattered(g, y, x, updates, reduction, put, lambda t: op.GatherND(t, indices))


def _scattered(g, y, x, updates, reduction, put, pick):
    """The cotangents of x, of the indices and of the updates; elements that attain an extreme share its cotangent."""
    if reduction == "none":
        return put(g, zeros_like(updates), "none"), None, pick(g)
    if reduction == "add":
        return g, None, pick(g)
    if reduction == "mul":  # where no factor is zero
        return g * y / x, None, pick(g * y) / updates
    own, new = (op.Cast(attained, to=int(x.dtype)) for attained in (op.Equal(x, y), op.Equal(updates, pick(y))))
    share = g / op.Max(put(own, new, "add"), 1.0)
    return own * share, None, new * pick(share)


@vjp("OneHot")
def one_hot(g, y, indices, depth, values, *, axis):
    """Each of the values (off, on) gets the sum of the cotangents at its positions."""
    marks = op.Cast(indices.builder.constant(np.asarray([0, 1])), to=int(values.dtype))
    on = op.Reshape(op.ReduceSum(g * op.OneHot(indices, depth, marks, axis=axis), keepdims=0), [1])
    off = op.Reshape(op.ReduceSum(g, keepdims=0), [1]) - on
    return None, None, op.Concat(off, on, axis=0)


@vjp("Compress")
def compress(g, y, x, condition, *, axis=None):
    kept = op.Reshape(op.NonZero(condition), [-1])
    if axis is None:
        return reshape_like(put(g, kept, 0, op.Reshape(x, [-1]), unique=True), x), None
    return put(g, kept, axis % x.rank, x, unique=True), None


@vjp("Pad")
def pad(g, y, x, pads, fill=None, axes=None, *, mode):
    """Crops constant padding; in the other modes, sums the cotangents of the copies of each element."""
    if fill is not None and fill.active:
        raise UnsupportedOperator("what it pads with is computed")
    if mode == "constant":
        if axes is None or axes.array is None:
            return op.Pad(g, -pads, None, axes), None, None, None
        crop = -pads if pads.array is None else -pads.array
        return padded(g, x.rank, axes.array.tolist(), crop), None, None, None
    chosen = range(x.rank) if axes is None else axes.array.tolist()
    n = len(chosen)
    for i, axis in enumerate(chosen):
        if pads.array is not None and not pads.array[[i, i + n]].any():
            continue
        sources = op.Pad(_range(size_of(x, axis)), op.Gather(pads, [i, i + n]), mode=mode)
        g = put(g, sources, axis % x.rank, x)
    return g, None, None, None


@vjp("DepthToSpace")
def depth_to_space(g, y, x, *, blocksize, mode):
    back = op.SpaceToDepth(g, blocksize=blocksize)
    if mode == "CRD":
        by_block = op.Reshape(back, op.Concat([0, blocksize * blocksize], size_of(y, 1), [-1], axis=0))
        back = reshape_like(op.Transpose(by_block, perm=[0, 2, 1, 3]), x)
    return (back,)


@vjp("SpaceToDepth")
def space_to_depth(g, y, x, *, blocksize, mode="DCR"):
    return (op.DepthToSpace(g, blocksize=blocksize, mode=mode),)


@vjp("ReverseSequence")
def reverse_sequence(g, y, x, lengths, *, batch_axis, time_axis):
    return op.ReverseSequence(g, lengths, batch_axis=batch_axis, time_axis=time_axis), None


@vjp("Resize")
def resize(
    g, y, x, roi=None, scales=None, sizes=None, *, antialias, axes=None, coordinate_transformation_mode,
    cubic_coeff_a, exclude_outside, extrapolation_value, keep_aspect_ratio_policy, mode, nearest_mode,
):  # fmt: skip
    """Interpolation multiplies each axis by a matrix, which is the operator's output for the identity matrix."""
    if sizes is not None and keep_aspect_ratio_policy != "stretch":
        scales, sizes = _one_scale(x, y, sizes, axes, min if keep_aspect_ratio_policy == "not_larger" else max), None
    how = {
        "antialias": antialias, "coordinate_transformation_mode": coordinate_transformation_mode, "mode": mode,
        "cubic_coeff_a": cubic_coeff_a, "exclude_outside": exclude_outside, "nearest_mode": nearest_mode,
    }  # fmt: skip
    crops = coordinate_transformation_mode == "tf_crop_and_resize"
    chosen = list(range(x.rank) if axes is None else axes)
    for i, axis in enumerate(chosen):
        unchanged = x.shape[axis] is not None and x.shape[axis] == y.shape[axis] if sizes is not None else (
            scales.array is not None and scales.array[i] == 1
        )  # fmt: skip
        if crops or not unchanged:
            part = _crop(roi, i, len(chosen)) if crops else None
            basis = _interpolation(size_of(x, axis), x, part, scales, sizes, i, how)
            g = _along(g, basis, axis % x.rank, x.rank)
    return g, None, None, None


def _one_scale(x, y, sizes, axes, choose):
    """The scale of all axes where `sizes` bounds the result and the aspect ratio is kept, as a tensor [axes]."""
    chosen = range(x.rank) if axes is None else axes
    before, after = ([t.shape[a] for a in chosen] for t in (x, y))
    if sizes.array is None or not all(isinstance(n, int) for n in (*before, *after)):
        raise UnsupportedOperator("it keeps the aspect ratio of an input of unknown size")
    scale = np.float32(choose(size / n for size, n in zip(sizes.array.tolist(), before, strict=True)))
    if [int(np.floor(n * scale)) for n in before] != after:
        raise UnsupportedOperator("it keeps the aspect ratio, and rounds up")
    return x.builder.constant(np.full(len(before), scale))


def _interpolation(n, like, part, scales, sizes, i, how):
    """The matrix [n, m] of a Resize along its i-th axis: its response to each unit vector."""
    identity = op.Cast(op.EyeLike(zeros(op.Concat(n, n, axis=0), like)), to=int(like.dtype))
    square = op.Unsqueeze(identity, [0, 1])
    if sizes is not None:
        resized = op.Resize(square, part, None, op.Concat([1, 1], n, op.Gather(sizes, [i]), axis=0), **how)
    else:
        factors = op.Concat(np.ones(3, np.float32), op.Gather(scales, [i]), axis=0)
        resized = op.Resize(square, part, factors, **how)
    return op.Squeeze(resized, [0, 1])


def _crop(roi, i, n):
    """The region of interest of the i-th of n axes, as the region of the last of four axes."""
    whole = [np.zeros(3, roi.dtype.numpy()), np.ones(3, roi.dtype.numpy())]
    return op.Concat(whole[0], op.Gather(roi, [i]), whole[1], op.Gather(roi, [i + n]), axis=0)


def padded(g, rank, axes, pads):
    """Pads some axes with zeros, by the pads of all axes: ONNX Runtime's optimiser breaks those of some axes.

    Where a Transpose meets a Pad, it permutes the pads without a look at `axes` (seen in 1.31.1).
    """
    places = [axis % rank + end for end in (0, rank) for axis in axes]
    of_all = np.zeros(2 * rank, np.int64)
    if isinstance(pads, Tensor):
        return op.Pad(g, op.ScatterElements(g.builder.constant(of_all), places, pads))
    of_all[places] = pads
    return op.Pad(g, of_all)


def put(g, positions, axis, x, unique=False):
    """Puts g's slices along an axis at their positions in zeros like x; slices at the same position are added.

    With `unique` positions this is a Gather of g by their inverse, with a zero slice for the rest.
    """
    size = size_of(x, axis)
    if positions.array is not None and size.array is not None:
        array, length = positions.array.ravel(), int(size.array[0])
        array = np.where(array < 0, array + length, array)
        unique = len(set(array.tolist())) == len(array)
        if unique and len(array) and (np.diff(array) == 1).all():
            return padded(g, x.rank, [axis], [array[0], length - array[-1] - 1])
        positions = g.builder.constant(array)
    if unique:
        order = op.Range(np.int64(1), op.Size(positions) + 1, np.int64(1))
        inverse = op.ScatterElements(op.Expand(g.builder.constant(np.int64(0)), size), positions, order)
        return op.Gather(padded(g, x.rank, [axis], [1, 0]), inverse, axis=axis)
    if positions.array is None:
        positions = op.Where(positions < 0, positions + size, positions)
    axes = [axis, *(a for a in range(x.rank) if a != axis)]
    moved = transpose(g, axes)
    rest = op.Gather(dims(moved), list(range(1, x.rank)))
    blank = zeros(op.Concat(size, rest, axis=0), x)
    total = op.ScatterND(blank, op.Unsqueeze(positions, [1]), moved, reduction="add")
    return transpose(total, np.argsort(axes).tolist())


def _range(size):
    """The integers from 0 to a size [1], without it."""
    if size.array is not None:
        return size.builder.constant(np.arange(size.array[0]))
    return op.Range(np.int64(0), op.Squeeze(size, [0]), np.int64(1))


def _positions(x, axis, start, end, step):
    """The indices along an axis that a slice takes."""
    every = _range(size_of(x, axis))
    if every.array is not None and start.array is not None and end.array is not None:
        return x.builder.constant(every.array[int(start.array[0]) : int(end.array[0]) : step])
    return op.Slice(every, start, end, [0], [step])


def _part(x, start, end):
    """Some of x's dimensions as a tensor."""
    return op.Gather(dims(x), list(range(start, end)))


def _along(g, matrix, axis, rank):
    """The product of the matrix [n, m] with g along an axis of length m."""
    if axis == rank - 2:
        return matrix @ g
    order = [*(a for a in range(rank) if a != axis), axis]
    flipped = op.Transpose(matrix, perm=[1, 0])
    return transpose(transpose(g, order) @ flipped, np.argsort(order).tolist())


def _with_batch(indices, batch_dims):
    """GatherND's indices, preceded by the coordinates of their batch."""
    parts = []
    for axis in range(batch_dims):
        column = op.Unsqueeze(_range(size_of(indices, axis)), [a for a in range(indices.rank) if a != axis])
        parts.append(op.Expand(column, op.Concat(_part(indices, 0, indices.rank - 1), [1], axis=0)))
    return op.Concat(*parts, indices, axis=-1) if parts else indices
