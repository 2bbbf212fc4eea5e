# mypy: allow-untyped-defs, allow-untyped-calls
# ruff: noqa: D103
"""Functions of one number, and arithmetic of two: the first page of a calculus book."""

from __future__ import annotations

from math import pi, sqrt

from ..tape import op
from .table import Refusal, elementwise


@elementwise("Identity")
def identity(g, y, x):
    return (g,)


@elementwise("Dropout")
def dropout(g, y, x, ratio=None, training_mode=None, *, seed=None):
    if training_mode is not None and (training_mode.array is None or training_mode.array.any()):
        raise Refusal("it drops at random (training_mode)")
    return (g,)


@elementwise("Cast")
def cast(g, y, x, *, to, saturate=None, round_mode=None):
    return (op.Cast(g, to=int(x.dtype)),)


@elementwise("CastLike")
def cast_like(g, y, x, target, *, saturate=None, round_mode=None):
    return (op.Cast(g, to=int(x.dtype)), None)


@elementwise("Neg")
def neg(g, y, x):
    return (-g,)


@elementwise("Abs")
def absolute(g, y, x):
    return (g * op.Sign(x),)


@elementwise("Reciprocal")
def reciprocal(g, y, x):
    return (-g * y * y,)


@elementwise("Exp")
def exp(g, y, x):
    return (g * y,)


@elementwise("Log")
def natural_log(g, y, x):
    return (g / x,)


@elementwise("Sqrt")
def square_root(g, y, x):
    return (g / (2 * y),)


@elementwise("Sin")
def sin(g, y, x):
    return (g * op.Cos(x),)


@elementwise("Cos")
def cos(g, y, x):
    return (-g * op.Sin(x),)


@elementwise("Tan")
def tan(g, y, x):
    return (g * (1 + y * y),)


@elementwise("Asin")
def asin(g, y, x):
    return (g / op.Sqrt(1 - x * x),)


@elementwise("Acos")
def acos(g, y, x):
    return (-g / op.Sqrt(1 - x * x),)


@elementwise("Atan")
def atan(g, y, x):
    return (g / (1 + x * x),)


@elementwise("Sinh")
def sinh(g, y, x):
    return (g * op.Cosh(x),)


@elementwise("Cosh")
def cosh(g, y, x):
    return (g * op.Sinh(x),)


@elementwise("Tanh")
def tanh(g, y, x):
    return (g * (1 - y * y),)


@elementwise("Asinh")
def asinh(g, y, x):
    return (g / op.Sqrt(x * x + 1),)


@elementwise("Acosh")
def acosh(g, y, x):
    return (g / op.Sqrt(x * x - 1),)


@elementwise("Atanh")
def atanh(g, y, x):
    return (g / (1 - x * x),)


@elementwise("Erf")
def erf(g, y, x):
    return (g * (2 / sqrt(pi)) * op.Exp(-x * x),)


@elementwise("Sigmoid")
def sigmoid(g, y, x):
    return (g * y * (1 - y),)


@elementwise("Relu")
def relu(g, y, x):
    return (g * (y > 0),)


@elementwise("LeakyRelu")
def leaky_relu(g, y, x, *, alpha):
    return (op.Where(x > 0, g, alpha * g),)


@elementwise("ThresholdedRelu")
def thresholded_relu(g, y, x, *, alpha):
    return (g * (x > alpha),)


@elementwise("PRelu")
def prelu(g, y, x, slope):
    return op.Where(x > 0, g, slope * g), g * op.Min(x, 0.0)


@elementwise("Elu")
def elu(g, y, x, *, alpha):
    return (op.Where(x > 0, g, alpha * g * op.Exp(op.Min(x, 0.0))),)


@elementwise("Celu")
def celu(g, y, x, *, alpha):
    return (g * op.Exp(op.Min(x, 0.0) / alpha),)


@elementwise("Selu")
def selu(g, y, x, *, alpha, gamma):
    return (g * gamma * op.Where(x > 0, 1.0, alpha * op.Exp(op.Min(x, 0.0))),)


@elementwise("Gelu")
def gelu(g, y, x, *, approximate):
    if approximate == "tanh":
        t = op.Tanh(sqrt(2 / pi) * (x + 0.044715 * x * x * x))
        slope = sqrt(2 / pi) * (1 + 3 * 0.044715 * x * x)
        return (g * 0.5 * (1 + t + x * (1 - t * t) * slope),)
    phi = op.Exp(-0.5 * x * x) * (1 / sqrt(2 * pi))
    return (g * (0.5 * (1 + op.Erf(x * sqrt(0.5))) + x * phi),)


@elementwise("Softplus")
def softplus(g, y, x):
    return (g * op.Sigmoid(x),)


@elementwise("Softsign")
def softsign(g, y, x):
    d = 1 + op.Abs(x)
    return (g / (d * d),)


@elementwise("Mish")
def mish(g, y, x):
    s, t = op.Sigmoid(x), op.Tanh(op.Softplus(x))
    return (g * (t + x * s * (1 - t * t)),)


@elementwise("Swish")
def swish(g, y, x, *, alpha):
    s = op.Sigmoid(alpha * x)
    return (g * s * (1 + alpha * x * (1 - s)),)


@elementwise("HardSigmoid")
def hard_sigmoid(g, y, x, *, alpha, beta):
    return (alpha * g * ((y > 0) & (y < 1)),)


@elementwise("HardSwish")
def hard_swish(g, y, x):
    return (g * op.Where(x > 3, 1.0, op.Where(x > -3, x / 3 + 0.5, 0.0)),)


@elementwise("Shrink")
def shrink(g, y, x, *, bias, lambd):
    return (g * (op.Abs(x) > lambd),)


@elementwise("Clip")
def clip(g, y, x, low=None, high=None):
    inside = g
    if low is not None:
        inside = inside * (x > low)
    if high is not None:
        inside = inside * (x < high)
    return inside, low and g * (x <= low), high and g * (x >= high)


@elementwise("Add")
def add(g, y, a, b):
    return g, g


@elementwise("Sub")
def sub(g, y, a, b):
    return g, -g


@elementwise("Mul")
def mul(g, y, a, b):
    return g * b, g * a


@elementwise("Div")
def div(g, y, a, b):
    return g / b, -g * y / b


@elementwise("Pow")
def power(g, y, a, b):
    """d(a^b) = b a^(b-1) da + a^b ln a db; the exponent may be of another type than the base."""
    e = op.CastLike(b, a)
    exponent = g * y * op.Log(a) if b.dtype == a.dtype else None
    if b.array is not None and (b.array == 2).all():
        return 2 * g * a, exponent
    return g * e * op.Pow(a, e - 1), exponent


@elementwise("Mod")
def mod(g, y, a, b, *, fmod):
    """a mod b = a - b q with q constant: rounded down, or with fmod towards zero."""
    q = (a - y) / b
    return g, -g * op.Round(q)


@elementwise("Max")
def maximum(g, y, *xs):
    return _to_the_extreme(g, y, xs)


@elementwise("Min")
def minimum(g, y, *xs):
    return _to_the_extreme(g, y, xs)


def _to_the_extreme(g, y, xs):
    """All that attain the extreme share its cotangent equally."""
    attained = [op.Cast(op.Equal(x, y), to=int(y.dtype)) for x in xs]
    share = g / op.Sum(*attained)
    return tuple(share * a for a in attained)


@elementwise("Sum")
def total(g, y, *xs):
    return (g,) * len(xs)


@elementwise("Mean")
def mean(g, y, *xs):
    return (g / len(xs),) * len(xs)


@elementwise("Where")
def where(g, y, condition, a, b):
    return None, g * condition, g * ~condition
