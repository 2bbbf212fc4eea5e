# mypy: allow-untyped-defs, allow-untyped-calls
"""Convolutions, and the sliding windows that poolings have too."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from caveat_worker.engine.autodiff.builder import op
from caveat_worker.engine.autodiff.rules.table import UnsupportedOperator, vjp
from caveat_worker.engine.autodiff.shapes import dims, size_of, sum_over, transpose


@dataclass(frozen=True)
class Window:
    """The geometry of a sliding window, per spatial axis; `begin` and `end` are paddings."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]

    @property
    def extent(self) -> tuple[int, ...]:
        """The length of the dilated window along each axis."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilations, strict=True))

    @property
    def dense(self) -> bool:
        """Whether every stride is 1."""
        return all(s == 1 for s in self.strides)

    @property
    def pads(self) -> list[int]:
        """All paddings in ONNX's order."""
        return [*self.begin, *self.end]


def window(x, kernel, auto_pad, pads, strides, dilations):
    """The window of an operator over x [n, c, spatial...], with `auto_pad` resolved as the ONNX spec defines it.

    Raises `UnsupportedOperator` for windows on which runtimes differ.
    """
    plain = _explicit(kernel, pads, strides, dilations)
    padded = zip(x.shape[2:], plain.begin, plain.end, plain.extent, strict=True)
    if auto_pad[:4] != "SAME" and any(isinstance(d, int) and d + b + e < extent for d, b, e, extent in padded):
        raise UnsupportedOperator("its window is larger than its input, which runtimes read differently")
    if auto_pad in ("NOTSET", "", "VALID"):
        return plain
    total = []
    for size, extent, stride in zip(x.shape[2:], plain.extent, plain.strides, strict=True):
        if stride > 1 and not isinstance(size, int):
            raise UnsupportedOperator(f"its auto_pad is {auto_pad} with a stride, over an input of unknown size")
        covered = (-(-size // stride) - 1) * stride + extent - size if stride > 1 else extent - 1
        if covered < -1:
            raise UnsupportedOperator(f"its auto_pad {auto_pad} is negative, which runtimes read differently")
        total.append(max(covered, 0))
    less, more = tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
    begin, end = (less, more) if auto_pad == "SAME_UPPER" else (more, less)
    return Window(plain.kernel, plain.strides, plain.dilations, begin, end)


@vjp("Conv")
def conv(g, y, x, w, b=None, *, auto_pad, dilations=None, group, kernel_shape=None, pads=None, strides=None):
    """dX is the transposed convolution of G; at stride 1 that is a convolution with the flipped filter."""
    win = window(x, _kernel(w, kernel_shape), auto_pad, pads, strides, dilations)
    reach = [e - 1 - p for e, p in zip(win.extent * 2, win.pads, strict=True)]
    if win.dense and w.array is not None and min(reach) >= 0:
        dx = op.Conv(g, _flipped(w, group), pads=reach, dilations=list(win.dilations), group=group)
    else:
        dx = spread(g, w, x, y, win, group)
    return dx, _filter_gradient(g, x, w, win, group), b and sum_over(g, _not_channels(g, y), keepdims=False)


@vjp("ConvTranspose")
def conv_transpose(
    g, y, x, w, b=None, *, auto_pad, dilations=None, group, kernel_shape=None,
    output_padding=None, output_shape=None, pads=None, strides=None,
):  # fmt: skip
    """dX is the convolution of G that this operator is the transpose of."""
    win = _transposed_window(x, y, w, auto_pad, dilations, kernel_shape, output_padding, output_shape, pads, strides)
    dx = op.Conv(g, w, pads=win.pads, strides=list(win.strides), dilations=list(win.dilations), group=group)
    dx = crop(dx, x) if output_padding or output_shape else dx
    dw = _filter_gradient(x, g, w, win, group)
    return dx, dw, b and sum_over(g, _not_channels(g, y), keepdims=False)


def spread(g, w, x, y, win, group):
    """The transposed convolution of g [like y] with w, in x's spatial size."""
    begin, end, extra = list(win.begin), [], []
    moved = {"strides": list(win.strides), "dilations": list(win.dilations), "group": group}
    if all(isinstance(d, int) for d in (*x.shape[2:], *y.shape[2:])):
        for size, steps, stride, extent, pad in zip(
            x.shape[2:], y.shape[2:], win.strides, win.extent, begin, strict=True
        ):
            surplus = (steps - 1) * stride + extent - pad - size
            end.append(max(surplus, 0))
            extra.append(max(-surplus, 0))
        return op.ConvTranspose(g, w, pads=begin + end, output_padding=extra, **moved)
    extra = [s - 1 for s in win.strides]
    return crop(op.ConvTranspose(g, w, pads=begin + [0] * len(begin), output_padding=extra, **moved), x)


def crop(g, x):
    """The leading part of g, in x's spatial size."""
    axes = list(range(2, x.rank))
    return op.Slice(g, [0] * len(axes), op.Gather(dims(x), axes), axes)


def _explicit(kernel, pads, strides, dilations):
    rank = len(kernel)
    pads = tuple(pads or (0,) * 2 * rank)
    return Window(
        tuple(kernel), tuple(strides or (1,) * rank), tuple(dilations or (1,) * rank), pads[:rank], pads[rank:]
    )


def _kernel(w, kernel_shape):
    kernel = kernel_shape or w.shape[2:]
    if not all(isinstance(k, int) for k in kernel):
        raise UnsupportedOperator("the size of its filter is not known")
    return tuple(kernel)


def _flipped(w, group):
    """The filter [m, c/g, k...] flipped, with its channels exchanged: a constant [c, m/g, k...]."""
    m, c, *kernel = w.array.shape
    spatial = tuple(range(3, 3 + len(kernel)))
    turned = np.flip(w.array.reshape(group, m // group, c, *kernel), spatial).swapaxes(1, 2)
    return w.builder.derived(w, ("flipped", group), lambda: turned.reshape(group * c, m // group, *kernel))


def _filter_gradient(g, x, w, win, group):
    """dW correlates X with G: batch and channels change places, and so do strides and dilations."""
    if not w.active:
        return None
    images = _batch_as_channels(x, group)
    filters = transpose(g, [1, 0, *range(2, w.rank)])
    dw = op.Conv(images, filters, strides=list(win.dilations), dilations=list(win.strides), pads=win.pads, group=group)
    return transpose(crop(dw, w), [1, 0, *range(2, w.rank)])


def _batch_as_channels(x, group):
    """[n, g c, s...] as [c, g n, s...]."""
    spatial = op.Gather(dims(x), list(range(2, x.rank)))
    split = op.Concat(size_of(x, 0), [group], [-1], spatial, axis=0)
    turned = transpose(op.Reshape(x, split), [2, 1, 0, *range(3, x.rank + 1)])
    return op.Reshape(turned, op.Concat(op.Gather(op.Shape(turned), [0]), [-1], spatial, axis=0))


def _not_channels(g, y):
    return [0, *range(2, y.rank)]


def _transposed_window(x, y, w, auto_pad, dilations, kernel_shape, output_padding, output_shape, pads, strides):
    """A ConvTranspose's window; with `output_shape` or SAME_* the paddings follow from the size of y."""
    kernel = _kernel(w, kernel_shape)
    if auto_pad in ("NOTSET", "", "VALID") and not output_shape:
        return _explicit(kernel, pads, strides, dilations)
    plain = _explicit(kernel, None, strides, dilations)
    sizes = (*x.shape[2:], *y.shape[2:])
    if not all(isinstance(d, int) for d in sizes):
        raise UnsupportedOperator("its pads follow from a size that is not known")
    extra = output_padding or (0,) * len(kernel)
    covered = [s * (n - 1) + o + e for s, n, o, e in zip(plain.strides, x.shape[2:], extra, plain.extent, strict=True)]
    total = [max(c - size, 0) for c, size in zip(covered, y.shape[2:], strict=True)]
    less, more = tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
    begin, end = (less, more) if auto_pad == "SAME_UPPER" else (more, less)
    return Window(kernel, plain.strides, plain.dilations, begin, end)
