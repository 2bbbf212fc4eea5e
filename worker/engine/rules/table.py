"""The table of derivatives: which rule belongs to which operator.

A function of one number is there by its slope; the driver multiplies with the cotangent. Any other
rule takes the cotangent `g` of an operator's output, the output `y`, the inputs, and by keyword the
operator's attributes with the schema's defaults; it returns one cotangent per input. `None` says that no
gradient flows to that input. Rules never see broadcasting (an `elementwise` rule's results are summed back
to their sources by the driver), and they write nodes that turn out to be unused without a thought: what
nothing reads is removed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])
Operator = tuple[str, str]  # domain, name


@dataclass(frozen=True)
class Rule:
    """One operator's derivative, or one operator written in terms of others."""

    operator: Operator
    function: Callable[..., Any]
    elementwise: bool = False  # inputs broadcast against each other
    slope: bool = False  # the function is dy/dx of one number, from y and x
    several: int = 0  # g and y are lists, at least so long, for operators with several differentiable outputs

    def __call__(self, *arguments: Any, **attributes: Any) -> Any:
        """What the function gives; raises `Refusal` where attributes and shapes contradict each other."""
        try:
            if self.slope:
                g, y, x = arguments
                return (g * self.function(y, x, **attributes),)
            return self.function(*arguments, **attributes)
        except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError) as error:
            raise Refusal(f"its attributes do not fit its inputs ({type(error).__name__}: {error})") from error

    @cached_property
    def attributes(self) -> frozenset[str]:
        """The attributes that the rule takes."""
        parameters = inspect.signature(self.function).parameters.values()
        return frozenset(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)

    @cached_property
    def takes_any(self) -> bool:
        """Whether it passes all attributes on to another rule."""
        return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(self.function).parameters.values())


class Refusal(Exception):  # noqa: N818
    """A rule exists, but not for this use of the operator; the message says which use, as a clause."""


VJP: dict[Operator, Rule] = {}
LOWERED: dict[Operator, Rule] = {}
DEFINED: set[str] = {  # operators that the standard defines as functions of others, with rules for all of those
    "Attention", "CenterCropPad", "NegativeLogLikelihoodLoss", "RotaryEmbedding", "SoftmaxCrossEntropyLoss",
}  # fmt: skip
UNDIFFERENTIABLE: dict[Operator, str] = {}


def vjp(*operators: str, domain: str = "", several: int = 0) -> Callable[[Function], Function]:
    """Registers the vector-Jacobian product of operators whose cotangents have their inputs' shapes."""
    return _register(VJP, operators, domain, several=several)


def slopes(table: Mapping[str, Callable[..., Any]]) -> None:
    """Registers functions of one number by their derivative, dy/dx from y and x."""
    for operator, slope in table.items():
        _register(VJP, [operator], "", slope=True)(slope)


def elementwise(*operators: str, domain: str = "") -> Callable[[Function], Function]:
    """Registers a rule written as if all inputs had the output's shape."""
    return _register(VJP, operators, domain, elementwise=True)


def lowered(*operators: str, domain: str = "") -> Callable[[Function], Function]:
    """Registers an operator as a formula in other operators, which replaces it before differentiation."""
    return _register(LOWERED, operators, domain)


def undifferentiable(reason: str, operators: Iterable[str], domain: str = "") -> None:
    """States that no gradient flows through these operators, and why."""
    for operator in operators:
        _claim((domain, operator))
        UNDIFFERENTIABLE[domain, operator] = reason


def _register(
    table: dict[Operator, Rule], operators: Iterable[str], domain: str, **kind: Any
) -> Callable[[Function], Function]:
    def register(function: Function) -> Function:
        for operator in operators:
            _claim((domain, operator))
            table[domain, operator] = Rule((domain, operator), function, **kind)
        return function

    return register


def _claim(operator: Operator) -> None:
    if operator in VJP or operator in LOWERED or operator in UNDIFFERENTIABLE:
        raise ValueError(f"Operator {':'.join(operator)} is in the table already; an operator has one rule.")
