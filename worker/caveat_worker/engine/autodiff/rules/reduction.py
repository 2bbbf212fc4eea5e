# mypy: allow-untyped-defs, allow-untyped-calls
# ruff: noqa: D103
"""Reductions, softmaxes and cumulative sums."""

from __future__ import annotations

from caveat_worker.engine.autodiff.builder import op
from caveat_worker.engine.autodiff.rules.table import UnsupportedOperator, vjp
from caveat_worker.engine.autodiff.shapes import count, expand_like, sum_over, zeros_like


@vjp("ReduceSum")
def reduce_sum(g, y, x, axes=None, *, keepdims, noop_with_empty_axes):
    return expand_like(_keepdims(g, axes, keepdims), x), None


@vjp("ReduceMean")
def reduce_mean(g, y, x, axes=None, *, keepdims, noop_with_empty_axes):
    known = axes is not None and axes.array is not None and axes.array.size
    n = count(x, axes.array.tolist()) if known else op.Cast(op.Size(x) / op.Size(y), to=int(x.dtype))
    return expand_like(_keepdims(g / n, axes, keepdims), x), None


_REDUCTIONS = {  # dx from g and y, which broadcast against x
    "ReduceSumSquare": lambda g, y, x: 2 * x * g,
    "ReduceL1": lambda g, y, x: op.Sign(x) * g,
    "ReduceL2": lambda g, y, x: x * (g * (y > 0) / op.Where(y > 0, y, 1.0)),
    "ReduceLogSum": lambda g, y, x: expand_like(g * op.Exp(-y), x),
    "ReduceLogSumExp": lambda g, y, x: g * op.Exp(x - y),
}


def _reduction(back):
    def rule(g, y, x, axes=None, *, keepdims, noop_with_empty_axes):
        if noop_with_empty_axes and (axes is None or axes.array is None or axes.array.size == 0):
            raise UnsupportedOperator(
                "it may reduce over no axes (noop_with_empty_axes), which runtimes read differently"
            )
        return (back(_keepdims(g, axes, keepdims), _keepdims(y, axes, keepdims), x),)

    return rule


for _operator, _back in _REDUCTIONS.items():
    vjp(_operator)(_reduction(_back))


@vjp("ReduceProd")
def reduce_prod(g, y, x, axes=None, *, keepdims, noop_with_empty_axes):
    """dx is g times the product of the other factors, also where one of them is zero."""
    zero = op.Equal(x, 0.0)
    zeros = op.ReduceSum(op.Cast(zero, to=int(x.dtype)), axes, noop_with_empty_axes=noop_with_empty_axes)
    rest = op.ReduceProd(op.Where(zero, 1.0, x), axes, noop_with_empty_axes=noop_with_empty_axes)
    others = op.Where(zero, rest * (zeros < 1.5), rest * (zeros < 0.5) / op.Where(zero, 1.0, x))
    return _keepdims(g, axes, keepdims) * others, None


@vjp("ReduceMax", "ReduceMin")
def reduce_extreme(g, y, x, axes=None, *, keepdims, noop_with_empty_axes):
    """Elements that attain the extreme share its cotangent equally."""
    attained = op.Cast(op.Equal(x, _keepdims(y, axes, keepdims)), to=int(x.dtype))
    ties = op.ReduceSum(attained, axes, noop_with_empty_axes=noop_with_empty_axes)
    return attained * (_keepdims(g, axes, keepdims) / ties), None


@vjp("Softmax")
def softmax(g, y, x, *, axis):
    return (y * (g - sum_over(g * y, [axis])),)


@vjp("LogSoftmax")
def log_softmax(g, y, x, *, axis):
    return (g - op.Exp(y) * sum_over(g, [axis]),)


@vjp("CumSum")
def cum_sum(g, y, x, axis, *, exclusive, reverse):
    return op.CumSum(g, axis, exclusive=exclusive, reverse=1 - reverse), None


@vjp("CumProd")
def cum_prod(g, y, x, axis, *, exclusive, reverse):
    """dx = (sum of g y from the element to the end) / x, where no factor is zero."""
    return op.CumSum(g * y, axis, exclusive=exclusive, reverse=1 - reverse) / x, None


@vjp("Trilu")
def trilu(g, y, x, k=None, *, upper):
    return op.Trilu(g, k, upper=upper), None


@vjp("TopK", several=1)
def top_k(g, y, x, k, *, axis, largest, sorted):  # noqa: A002
    return op.ScatterElements(zeros_like(x), y[1], g[0], axis=axis), None


def _keepdims(t, axes, keepdims):
    """A reduction's output or its cotangent with the reduced axes of length 1, as it broadcasts against the input."""
    no_axes = axes is None or (axes.array is not None and axes.array.size == 0)
    return t if keepdims or no_axes else op.Unsqueeze(t, axes)
