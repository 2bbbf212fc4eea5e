# mypy: allow-untyped-defs, allow-untyped-calls
"""Samples between the elements of a picture, and the frequencies of a signal."""

from __future__ import annotations

from itertools import product

import numpy as np
import onnx_ir as ir

from caveat_worker.engine.autodiff.builder import op
from caveat_worker.engine.autodiff.rules.shaping import padded
from caveat_worker.engine.autodiff.rules.table import UnsupportedOperator, lowered, vjp
from caveat_worker.engine.autodiff.shapes import expand_like, reshape_like, size_of, zeros_like

INT64 = int(ir.DataType.INT64)


@vjp("GridSample")
def grid_sample(g, y, x, grid, *, align_corners, mode, padding_mode):
    """A sample is the weighted sum of the elements around its place, which shifts the weights."""
    if x.rank != 4 or mode not in ("linear", "bilinear", "nearest") or padding_mode == "reflection":
        raise UnsupportedOperator(f"it samples {x.rank - 2} axes by '{mode}' and pads by '{padding_mode}'")
    flat, g = (op.Reshape(t, op.Concat(size_of(x, 0), size_of(x, 1), [-1], axis=0)) for t in (x, g))
    total, shift = zeros_like(flat), [0.0, 0.0]
    axes = [_along(grid, axis, size_of(x, 3 - axis), align_corners, padding_mode) for axis in (0, 1)]
    for ends in [(None, None)] if mode == "nearest" else product((0, 1), repeat=2):
        (weight_x, slope_x, column, wide), (weight_y, slope_y, line, high) = (
            _around(along, end) for along, end in zip(axes, ends, strict=True)
        )
        place = expand_like(op.Unsqueeze(line * size_of(x, 3) + column, [1]), g)
        there = op.Unsqueeze(op.Cast(wide & high, to=int(g.dtype)), [1]) * g
        share = there * op.Unsqueeze(weight_x * weight_y, [1])
        total = op.ScatterElements(total, place, share, axis=2, reduction="add")
        pull = op.ReduceSum(there * op.GatherElements(flat, place, axis=2), [1], keepdims=0)
        shift = [shift[0] + pull * weight_y * slope_x, shift[1] + pull * weight_x * slope_y]
    return reshape_like(total, x), reshape_like(op.Concat(*(op.Unsqueeze(t, [2]) for t in shift), axis=2), grid)


def _along(grid, axis, size, align_corners, padding_mode):
    """Where each sample [n, m] lies along an axis, in elements; how many make a unit of the grid; and the last one."""
    length = op.Cast(size, to=int(grid.dtype))
    unit, first = ((length - 1) / 2, 0.0) if align_corners else (length / 2, -0.5)
    place, last = (op.Flatten(op.Gather(grid, np.int64(axis), axis=3), axis=1) + 1) * unit + first, length - 1
    if padding_mode == "border":
        inside = op.Cast((place >= 0.0) & (place <= last), to=int(grid.dtype))
        place, unit = op.Min(op.Max(place, 0.0), last), unit * inside
    return place, unit, last


def _around(along, end):
    """An element beside each sample along an axis, below or above it or the nearest: weight, slope, index, presence."""
    place, unit, last = along
    low = op.Round(place) if end is None else op.Floor(place)
    element = low + (end or 0)
    weight = place * 0.0 + 1.0 if end is None else place - low if end else low + 1 - place
    slope = unit * 0.0 if end is None else unit if end else -unit
    index = op.Cast(op.Min(op.Max(element, 0.0), last), to=INT64)
    return weight, slope, index, (element >= 0.0) & (element <= last)


@vjp("DFT")
def dft(g, y, x, length=None, along=None, *, axis=-2, inverse, onesided):
    """The conjugate transpose of the transform is the one the other way, but for its factor."""
    if (along is not None and along.array is None) or (onesided and inverse):
        raise UnsupportedOperator("its axis is not constant" if not onesided else "it goes back from one side")
    axis = (axis if along is None else int(along.array)) % x.rank
    n = size_of(x, axis)
    full = n if length is None else op.Reshape(length, [1])
    if onesided:
        g = padded(g, x.rank, [axis], op.Concat([0], full - size_of(g, axis), axis=0))
    new = g.builder.opset >= 20
    back = op.DFT(g, None, np.int64(axis), inverse=1 - inverse) if new else op.DFT(g, axis=axis, inverse=1 - inverse)
    factor = op.Cast(full, to=int(g.dtype))
    back = back / factor if inverse else back * factor
    if length is not None:
        back = padded(back, x.rank, [axis], op.Concat([0], n - full, axis=0))
    return op.Slice(back, [0], size_of(x, -1), [-1]), None, None


@lowered("STFT")
def stft(signal, step, window=None, length=None, *, onesided):
    """Each frame of a real signal times waves under the window: a convolution."""
    if step.array is None or (window if length is None else length).array is None:
        raise UnsupportedOperator("its frames are not of constant size")
    if window is not None and window.array is None:
        raise UnsupportedOperator("its window is not constant")
    if signal.rank == 3 and signal.shape[-1] != 1:
        raise UnsupportedOperator("its signal is complex")
    size = len(window.array) if length is None else int(length.array)
    turns = np.outer(np.arange(size // 2 + 1 if onesided else size), np.arange(size)) % size * (2 * np.pi / size)
    waves = np.concatenate([np.cos(turns), -np.sin(turns)]) * (1 if window is None else window.array.astype(float))
    kernels = signal.builder.constant(waves[:, None].astype(signal.dtype.numpy()))
    found = op.Conv(op.Reshape(signal, [0, 1, -1]), kernels, strides=[int(step.array)])
    return op.Transpose(op.Reshape(found, [0, 2, len(waves) // 2, -1]), perm=[0, 3, 2, 1])
