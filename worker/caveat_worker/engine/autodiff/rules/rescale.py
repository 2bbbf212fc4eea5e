# mypy: allow-untyped-defs, allow-untyped-calls
# ruff: noqa: D103
"""DeepLIFT's rescale rule as a table of backward rules, with a true reference (Shrikumar et al. 2017, eq. 14).

A multiplier m of a tensor t fulfils Σ m Δt = ΔS, where Δ is the difference from the same tensor on the reference. For a
function of one number it is Δy / Δx; the rules below are the same identity for products, quotients, maxima, softmax and
layer normalisation, so that it holds exactly for every network of these operators.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from caveat_worker.engine.autodiff.builder import Tensor, op, ref
from caveat_worker.engine.autodiff.rules.activations import ACTIVATIONS, BILINEAR, FUNCTIONS, LINEAR
from caveat_worker.engine.autodiff.rules.table import VJP, Rule, Table, UnsupportedOperator
from caveat_worker.engine.autodiff.shapes import reshape_like, sum_over, zeros

_LEAST = 1e-6
"""Smaller differences from the reference take the derivative in place of the quotient."""


def slope(dy, dx, derivative=0.0):
    """Δy / Δx; the derivative where Δx vanishes: a choice leaves out what a quotient by 0 is."""
    return op.Where(op.Abs(dx) > _LEAST, dy / dx, derivative)


def change(t):
    """t less t on the reference."""
    return t - ref(t)


def middle(t):
    """The mean of t and t on the reference; t itself if it does not depend on the input."""
    other = ref(t)
    if other is t:
        return t
    mean = (t + other) * 0.5
    if mean.array is None and mean.shape is None:
        mean.value.shape = t.value.shape
    return Tensor(mean.builder, mean.value, active=t.active)


def _function(operator):
    def function(g, y, x, *others, **attributes):
        rule = VJP["", operator]
        (derivative, *_) = rule(g, y, x, *others, **rule.known(attributes))
        return (slope(g * change(y), change(x), derivative),)

    return function


def _product(operator):
    """Δ(a b) = Δa (b + b̄) / 2 + (a + ā) / 2 Δb."""

    def product(g, y, *factors, **attributes):
        rule = VJP["", operator]
        return rule(g, y, *(f if f is None else middle(f) for f in factors), **rule.known(attributes))

    return product


def quotient(g, y, a, b):
    """Δ(a / b) = Δa (1/b + 1/b̄) / 2 - (a + ā) / 2 Δb / (b b̄)."""
    return g * 0.5 * (1 / b + 1 / ref(b)), -g * middle(a) / (b * ref(b))


def power(g, y, a, b):
    if b.active:
        raise UnsupportedOperator("the rescale rule has none for an exponent that depends on the input")
    (derivative, *_) = VJP["", "Pow"](g, y, a, b)
    return (op.Where(op.Abs(change(a)) > _LEAST, g * slope(change(y), change(a)), derivative),)


def where(g, y, condition, a, b):
    """A choice that an example does not change; exporters guard softmax by one of IsNaN, which is false for numbers."""
    maker = None if condition.array is not None else condition.value.producer()
    if ref(condition) is not condition and (maker is None or maker.op_type != "IsNaN"):
        raise UnsupportedOperator("its condition may be another one on the reference")
    return VJP["", "Where"](g, y, condition, a, b)


def _extreme(sign):
    """max(a, b) = a + relu(b - a), whose slope is shared; min(a, b) = -max(-a, -b)."""

    def extreme(g, y, *xs):
        if len(xs) != 2:
            raise UnsupportedOperator("the rescale rule knows it for two tensors only")
        a, b = xs
        ahead, before = sign * (b - a), sign * (ref(b) - ref(a))
        share = slope(op.Max(ahead, 0.0) - op.Max(before, 0.0), ahead - before, op.Cast(ahead > 0, to=int(y.dtype)))
        return g * (1.0 - share), g * share

    return extreme


def relu(g, y, x):
    """Δy / Δx = (y + ȳ) / (|x| + |x̄|), which holds where Δx vanishes too."""
    return (g * (y + ref(y)) / op.Max(op.Abs(x) + op.Abs(ref(x)), float(np.finfo(y.dtype.numpy()).tiny)),)


def max_pool(g, y, x, *, storage_order, **attributes):
    """Δmax is split at c = max(y, ȳ): c - ȳ goes to the winner, y - c to the reference's winner."""
    if storage_order:
        raise UnsupportedOperator("its indices are by column")
    top = op.Max(y, ref(y))
    size = op.Reshape(op.Size(x), [1])
    parts = [
        op.ScatterElements(
            zeros(size, x),
            op.Reshape(winners.sibling(1, ir.DataType.INT64), [-1]),
            op.Reshape(g * part, [-1]),
            axis=0,
            reduction="add",
        )
        for winners, part in ((y, top - ref(y)), (ref(y), y - top))
    ]
    return (slope(reshape_like(parts[0] + parts[1], x), change(x)),)


def _largest(sign, first=0):
    """The same for maxima over axes, by default all from the `first` on; elements that attain one share its part."""

    def largest(g, y, x, axes=None, *, keepdims=1, noop_with_empty_axes=0):
        if axes is None and (noop_with_empty_axes or not keepdims):
            raise UnsupportedOperator("the rescale rule needs the axes of a maximum")
        wide = (lambda t: t) if keepdims else (lambda t: op.Unsqueeze(t, axes))
        over = list(range(first, x.rank)) if axes is None else [int(axis) for axis in axes.array]
        up, down, g = wide(y), wide(ref(y)), wide(g)
        top = sign * op.Max(sign * up, sign * down)
        parts = []
        for tensor, extreme, part in ((x, up, top - down), (ref(x), down, up - top)):
            attained = op.Cast(op.Equal(tensor, extreme), to=int(x.dtype))
            parts.append(attained * (g * part / sum_over(attained, over)))
        return slope(parts[0] + parts[1], change(x)), None

    return largest


def softmax(g, y, x, *, axis):
    """e^z of z = log softmax: the slope of the exponential, which is at most 1, and the rule of z."""
    moved, weights = _log_of_sum(x, axis)
    g = g * slope(change(y), change(x) - moved, y)
    return (g - sum_over(g, [axis]) * weights,)


def log_softmax(g, y, x, *, axis):
    """z - log Σ e^z."""
    _, weights = _log_of_sum(x, axis)
    return (g - sum_over(g, [axis]) * weights,)


def _log_of_sum(x, axis):
    """Δ log Σ e^z, and the multipliers of z in it: the slopes of the logarithm and of the exponentials.

    The sums have exponentials below the larger of two maxima, so that one may vanish; logarithms are of sums below
    their own maximum.
    """
    tops = [op.ReduceMax(t, [axis]) for t in (x, ref(x))]
    whole, other = (top + op.Log(sum_over(op.Exp(t - top), [axis])) for t, top in zip((x, ref(x)), tops, strict=True))
    e, e0 = (op.Exp(t - op.Max(*tops)) for t in (x, ref(x)))
    s, s0 = sum_over(e, [axis]), sum_over(e0, [axis])
    moved = whole - other
    return moved, slope(moved, s - s0, 1 / op.Max(s, s0)) * slope(e - e0, change(x), e)


def layer_normalization(g, y, x, scale, bias=None, *, axis, epsilon, stash_type):
    """d r with d = x - mean and r = 1/√(variance + ε): Δr = slope Δv, and Δv = mean((d + d̄) Δd)."""
    axes = list(range(axis % x.rank, x.rank))
    d, d0 = (t - op.ReduceMean(t, axes) for t in (x, ref(x)))
    v, v0 = (op.ReduceMean(t * t, axes) for t in (d, d0))
    r, r0 = (1 / op.Sqrt(t + epsilon) for t in (v, v0))
    g = g * scale
    of_r = sum_over(g * 0.5 * (d + d0), axes) * slope(r - r0, v - v0, -0.5 * r * r * r)
    count = float(np.prod([n for n in (x.shape[a] for a in axes) if isinstance(n, int)]))
    of_d = g * 0.5 * (r + r0) + of_r * (d + d0) / count
    return of_d - op.ReduceMean(of_d, axes), None, None


def _global_max(g, y, x):
    return _largest(1.0, first=2)(g, y, x)[:1]


def _row(name, function, **kind):
    return {("", name): Rule(("", name), function, **kind)}


RESCALE: Table = {
    **{("", name): VJP["", name] for name in LINEAR},
    **{("", name): Rule(("", name), _function(name)) for name in (*ACTIVATIONS, *FUNCTIONS)},
    **{("", name): Rule(("", name), _product(name), elementwise=VJP["", name].elementwise) for name in BILINEAR},
    **_row("Relu", relu),
    **_row("Div", quotient, elementwise=True),
    **_row("Pow", power),
    **_row("Where", where, elementwise=True),
    **_row("Max", _extreme(1.0), elementwise=True),
    **_row("Min", _extreme(-1.0), elementwise=True),
    **_row("MaxPool", max_pool),
    **_row("GlobalMaxPool", _global_max),
    **_row("ReduceMax", _largest(1.0)),
    **_row("ReduceMin", _largest(-1.0)),
    **_row("Softmax", softmax),
    **_row("LogSoftmax", log_softmax),
    **_row("LayerNormalization", layer_normalization),
}
