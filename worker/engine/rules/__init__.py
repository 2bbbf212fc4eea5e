"""The table of derivatives, one file a family of operators."""

from . import (  # noqa: F401
    absent,
    convolution,
    elementwise,
    learned,
    linear,
    microsoft,
    normalisation,
    pooling,
    recurrent,
    reduction,
    shaping,
)
from .table import DEFINED, LOWERED, UNDIFFERENTIABLE, VJP, Refusal, Rule

__all__ = ["DEFINED", "LOWERED", "UNDIFFERENTIABLE", "VJP", "Refusal", "Rule", "differentiable_operators"]


def differentiable_operators() -> tuple[tuple[str, str, str], ...]:
    """Every operator that is settled, as (domain, name, how): by a rule, a formula, its definition, or not at all."""
    how = dict.fromkeys(VJP, "a rule")
    how |= dict.fromkeys(LOWERED, "a formula in other operators")
    how |= {("", name): "the standard's definition by other operators" for name in DEFINED}
    how |= {("", "If"): "its branches, one of which is taken"}
    how |= {operator: f"no gradient: {reason}" for operator, reason in UNDIFFERENTIABLE.items()}
    return tuple((domain or "ai.onnx", name, way) for (domain, name), way in sorted(how.items()))
