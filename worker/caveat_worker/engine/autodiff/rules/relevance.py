# mypy: allow-untyped-defs, allow-untyped-calls
"""ε-LRP as a table of backward rules: the multiplier of an activation is f(z) / z (Ancona et al. 2018, eq. 5).

Times the input, what arrives is the relevance of Bach et al. 2015. A product of two factors that depend on the input
gives half to each. Quotients by such a factor, softmax and normalisations have no rule here.
"""

from __future__ import annotations

from caveat_worker.engine.autodiff.builder import op
from caveat_worker.engine.autodiff.rules.activations import ACTIVATIONS, BILINEAR, LINEAR
from caveat_worker.engine.autodiff.rules.table import VJP, Rule, Table, UnsupportedOperator

EPSILON = 1e-6


def _activation(g, y, x, *others, **attributes):
    """g f(z) / (z ± ε)."""
    return (g * (y / op.Where(x >= 0, x + EPSILON, x - EPSILON)),)


def _product(operator):
    def product(g, y, a, b, *others, **attributes):
        rule = VJP["", operator]
        if a.active and b.active:
            g = 0.5 * g
        return rule(g, y, a, b, *others, **rule.known(attributes))

    return product


def _quotient(g, y, a, b):
    if b.active:
        raise UnsupportedOperator("ε-LRP has no rule for a quotient by what depends on the input")
    return g / b, None


def _power(g, y, a, b):
    if b.active:
        raise UnsupportedOperator("ε-LRP has no rule for an exponent that depends on the input")
    return _activation(g, y, a)


_KEPT = (*LINEAR, "GlobalMaxPool", "Max", "MaxPool", "Min", "ReduceMax", "ReduceMin", "Where")
RELEVANCE: Table = {
    **{("", name): VJP["", name] for name in _KEPT},
    **{("", name): Rule(("", name), _activation) for name in (*ACTIVATIONS, "Abs")},
    **{
        ("", name): Rule(("", name), _product(name), elementwise=VJP["", name].elementwise)
        for name in BILINEAR
        if name != "Einsum"
    },
    ("", "Div"): Rule(("", "Div"), _quotient, elementwise=True),
    ("", "Pow"): Rule(("", "Pow"), _power),
}
