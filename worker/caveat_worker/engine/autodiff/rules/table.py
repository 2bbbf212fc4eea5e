"""The table of derivatives: the rule of each operator.

The rule of a function of one number is its derivative dy/dx; `backward` multiplies it by the cotangent. Any
other rule is a vector-Jacobian product: it takes the cotangent `g` of an operator's output, the output `y`,
the inputs, and as keywords the operator's attributes with the schema's defaults, and returns one cotangent
per input, `None` where no gradient flows. Rules ignore broadcasting: `backward` sums the results of an
`elementwise` rule to the shapes of the inputs. Rules may write nodes that nothing reads, because unused nodes are
removed afterwards.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])
Operator = tuple[str, str]  # domain, name


@dataclass(frozen=True)
class Rule:
    """The derivative of one operator, or its formula in other operators."""

    operator: Operator
    function: Callable[..., Any]
    elementwise: bool = False  # inputs broadcast against each other
    derivative: bool = False  # the function is dy/dx of one number, from y and x
    several: int = 0  # for operators with several differentiable outputs: g and y are lists of at least this length

    def __call__(self, *arguments: Any, **attributes: Any) -> Any:
        """Calls the function; raises `UnsupportedOperator` if attributes and shapes contradict each other."""
        try:
            if self.derivative:
                g, y, x = arguments
                return (g * self.function(y, x, **attributes),)
            return self.function(*arguments, **attributes)
        except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError) as error:
            raise UnsupportedOperator(
                f"its attributes do not fit its inputs ({type(error).__name__}: {error})"
            ) from error

    @cached_property
    def attributes(self) -> frozenset[str]:
        """The names of the attributes that the rule takes."""
        parameters = inspect.signature(self.function).parameters.values()
        return frozenset(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)

    def known(self, attributes: Mapping[str, Any]) -> dict[str, Any]:
        """Those of an operator's attributes that the rule takes."""
        return {name: value for name, value in attributes.items() if self.takes_any or name in self.attributes}

    @cached_property
    def takes_any(self) -> bool:
        """Whether the rule takes every attribute."""
        return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(self.function).parameters.values())


class UnsupportedOperator(Exception):  # noqa: N818
    """A rule exists, but not for this use of the operator; the message names the use in a clause."""


Table: TypeAlias = Mapping[Operator, Rule]
"""Backward rules by operator."""


VJP: dict[Operator, Rule] = {}
LOWERED: dict[Operator, Rule] = {}
DEFINED: set[str] = {  # operators that the ONNX spec defines as functions of operators that all have rules
    "Attention", "CenterCropPad", "NegativeLogLikelihoodLoss", "RotaryEmbedding", "SoftmaxCrossEntropyLoss",
}  # fmt: skip
UNDIFFERENTIABLE: dict[Operator, str] = {}


def vjp(*operators: str, domain: str = "", several: int = 0) -> Callable[[Function], Function]:
    """Registers a vector-Jacobian product whose results have the shapes of the inputs."""
    return _register(VJP, operators, domain, several=several)


def derivatives(table: Mapping[str, Callable[..., Any]]) -> None:
    """Registers functions of one number by their derivatives, dy/dx from y and x."""
    for operator, derivative in table.items():
        _register(VJP, [operator], "", derivative=True)(derivative)


def elementwise(*operators: str, domain: str = "") -> Callable[[Function], Function]:
    """Registers a vector-Jacobian product that is written as if all inputs had the output's shape."""
    return _register(VJP, operators, domain, elementwise=True)


def lowered(*operators: str, domain: str = "") -> Callable[[Function], Function]:
    """Registers a formula in other operators, which replaces the operator before differentiation."""
    return _register(LOWERED, operators, domain)


def undifferentiable(reason: str, operators: Iterable[str], domain: str = "") -> None:
    """Registers operators through which no gradient flows, with the reason as a clause."""
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
