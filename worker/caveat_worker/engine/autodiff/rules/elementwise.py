# mypy: allow-untyped-defs, allow-untyped-calls
# ruff: noqa: D103
"""Functions of one number, and arithmetic of two numbers."""

from __future__ import annotations

from functools import reduce
from math import pi, sqrt
from operator import and_

from caveat_worker.engine.autodiff.builder import masked, op
from caveat_worker.engine.autodiff.rules.table import UnsupportedOperator, derivatives, elementwise, lowered


def _square(t):
    return t * t


derivatives(
    {
        "Abs": lambda y, x: op.Sign(x),
        "Acos": lambda y, x: -1 / op.Sqrt(1 - x * x),
        "Acosh": lambda y, x: 1 / op.Sqrt(x * x - 1),
        "Asin": lambda y, x: 1 / op.Sqrt(1 - x * x),
        "Asinh": lambda y, x: 1 / op.Sqrt(x * x + 1),
        "Atan": lambda y, x: 1 / (1 + x * x),
        "Atanh": lambda y, x: 1 / (1 - x * x),
        "Celu": lambda y, x, *, alpha: op.Exp(op.Min(x, 0.0) / alpha),
        "Cos": lambda y, x: -op.Sin(x),
        "Cosh": lambda y, x: op.Sinh(x),
        "Elu": lambda y, x, *, alpha: op.Where(x > 0, 1.0, alpha * op.Exp(op.Min(x, 0.0))),
        "Erf": lambda y, x: 2 / sqrt(pi) * op.Exp(-x * x),
        "Exp": lambda y, x: y,
        "HardSwish": lambda y, x: op.Where(x > 3, 1.0, op.Where(x > -3, x / 3 + 0.5, 0.0)),
        "Identity": lambda y, x: 1,
        "Log": lambda y, x: 1 / x,
        "Mish": lambda y, x: op.Tanh(op.Softplus(x)) + x * op.Sigmoid(x) * (1 - _square(op.Tanh(op.Softplus(x)))),
        "Neg": lambda y, x: -1,
        "Reciprocal": lambda y, x: -y * y,
        "Selu": lambda y, x, *, alpha, gamma: gamma * op.Where(x > 0, 1.0, alpha * op.Exp(op.Min(x, 0.0))),
        "Shrink": lambda y, x, *, bias, lambd: op.Abs(x) > lambd,
        "Sigmoid": lambda y, x: y * (1 - y),
        "Sin": lambda y, x: op.Cos(x),
        "Sinh": lambda y, x: op.Cosh(x),
        "Softplus": lambda y, x: op.Sigmoid(x),
        "Softsign": lambda y, x: 1 / _square(1 + op.Abs(x)),
        "Sqrt": lambda y, x: 0.5 / y,
        "Swish": lambda y, x, *, alpha: op.Sigmoid(alpha * x) * (1 + alpha * x * (1 - op.Sigmoid(alpha * x))),
        "Tan": lambda y, x: 1 + y * y,
        "Tanh": lambda y, x: 1 - y * y,
        "ThresholdedRelu": lambda y, x, *, alpha: x > alpha,
    }
)


@lowered("SwiGLU")
def swiglu(a, b, *, alpha):
    return op.Swish(a, alpha=alpha) * b


@elementwise("Dropout")
def dropout(g, y, x, ratio=None, training_mode=None, *, seed=None):
    if training_mode is not None and (training_mode.array is None or training_mode.array.any()):
        raise UnsupportedOperator("it drops at random (training_mode)")
    return (g,)


@elementwise("Cast", "CastLike")
def cast(g, y, x, target=None, *, to=None, saturate=None, round_mode=None):
    return (op.Cast(g, to=int(x.dtype)) if x.dtype.is_floating_point() else g), None  # integers that were rounded to


@elementwise("LeakyRelu")
def leaky_relu(g, y, x, *, alpha):
    return (op.Where(x > 0, g, alpha * g),)


@elementwise("PRelu")
def prelu(g, y, x, slope):
    return op.Where(x > 0, g, slope * g), g * op.Min(x, 0.0)


@elementwise("Gelu")
def gelu(g, y, x, *, approximate):
    if approximate == "tanh":
        t = op.Tanh(sqrt(2 / pi) * (x + 0.044715 * x * x * x))
        inner = sqrt(2 / pi) * (1 + 3 * 0.044715 * x * x)
        return (g * 0.5 * (1 + t + x * (1 - t * t) * inner),)
    phi = op.Exp(-0.5 * x * x) * (1 / sqrt(2 * pi))
    return (g * (0.5 * (1 + op.Erf(x * sqrt(0.5))) + x * phi),)


@elementwise("HardSigmoid")
def hard_sigmoid(g, y, x, *, alpha, beta):
    return (alpha * g * ((y > 0) & (y < 1)),)


@elementwise("Relu")
def relu(g, y, x):
    return (masked(g, y > 0),)


@elementwise("Clip")
def clip(g, y, x, low=None, high=None):
    bounds = [x > low] * (low is not None) + [x < high] * (high is not None)
    inside = masked(g, reduce(and_, bounds)) if bounds else g
    return inside, low and g * (x <= low), high and g * (x >= high)


@elementwise("Sub")
def sub(g, y, a, b):
    return g, -g


@elementwise("Mul")
def mul(g, y, a, b):
    return g * b, g * a


@elementwise("Div")
def div(g, y, a, b):
    by_zero = b.array is not None and not b.array.all()
    return _nothing_from_nothing(g, g / b) if by_zero else g / b, -g * y / b


@elementwise("Pow")
def power(g, y, a, b):
    """d(a^b) = b a^(b-1) da + a^b ln a db; the exponent may have another type than the base."""
    e = op.CastLike(b, a)
    exponent = g * y * op.Log(a) if b.dtype == a.dtype else None
    if b.array is not None and (b.array == 2).all():
        return 2 * g * a, exponent
    slope = g * e * op.Pow(a, e - 1)
    whole = b.array is not None and (b.array % 1 == 0).all() and (b.array >= 1).all()
    return slope if whole else _nothing_from_nothing(g, slope), exponent


def _nothing_from_nothing(g, found):
    """0 where nothing comes back, also where a slope is no number.

    A power transform computes both of its branches for each number, and leaves out one that divides by 0.
    """
    return op.Where(op.Equal(g, 0.0), 0.0, found)


@elementwise("Mod")
def mod(g, y, a, b, *, fmod):
    """a mod b = a - b q, where q is a constant: the quotient rounded down, or towards zero with fmod."""
    q = (a - y) / b
    return g, -g * op.Round(q)


@elementwise("Max", "Min")
def extreme(g, y, *xs):
    """Inputs that attain the extreme share its cotangent equally."""
    attained = [op.Cast(op.Equal(x, y), to=int(y.dtype)) for x in xs]
    share = g / op.Sum(*attained)
    return tuple(share * a for a in attained)


@elementwise("Add", "Sum")
def total(g, y, *xs):
    return (g,) * len(xs)


@elementwise("Mean")
def mean(g, y, *xs):
    return (g / len(xs),) * len(xs)


@elementwise("Where")
def where(g, y, condition, a, b):
    return None, g * condition, g * ~condition
