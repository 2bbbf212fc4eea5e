# mypy: allow-untyped-defs, allow-untyped-calls
"""Another table of backward rules: DeepLIFT's Rescale, as an example of how one is made.

Shrikumar et al. 2017, eq. 14: the multiplier of y = f(x) is (y - y⁰) / (x - x⁰), with x⁰ the input for a
reference. The reference is taken to be zero at every activation, and y⁰ = f(0). `differentiate(...,
rules=RESCALE)` then yields multipliers in the place of gradients, from the same driver.
"""

from __future__ import annotations

from ..tape import op
from .table import VJP, Rule

_AT_ZERO = {"Elu": 0.0, "Gelu": 0.0, "LeakyRelu": 0.0, "Relu": 0.0, "Sigmoid": 0.5, "Tanh": 0.0}


def rescaled(operator):
    """The rule of an activation by its multiplier; where x is almost zero, the derivative takes its place."""
    derivative = VJP["", operator]

    def rule(g, y, x, **attributes):
        (through,) = derivative(g, y, x, **attributes)
        near = op.Abs(x) < 1e-6
        return (op.Where(near, through, g * (y - _AT_ZERO[operator]) / op.Where(near, 1.0, x)),)

    return rule


RESCALE = dict(VJP) | {
    ("", operator): Rule(("", operator), rescaled(operator), elementwise=True) for operator in _AT_ZERO
}
