"""The table of derivatives, one file for each family of operators."""

from caveat_worker.engine.autodiff.rules import (  # noqa: F401
    absent,
    convolution,
    elementwise,
    learned,
    linear,
    microsoft,
    normalisation,
    pooling,
    qlinear,
    quantised,
    recurrent,
    reduction,
    sampling,
    shaping,
    support_vectors,
)
from caveat_worker.engine.autodiff.rules.relaxed import RELAXED, RELAXED_AND_BLURRED
from caveat_worker.engine.autodiff.rules.relevance import RELEVANCE
from caveat_worker.engine.autodiff.rules.rescale import RESCALE
from caveat_worker.engine.autodiff.rules.table import (
    DEFINED,
    LOWERED,
    UNDIFFERENTIABLE,
    VJP,
    Rule,
    Table,
    UnsupportedOperator,
)

__all__ = [
    "COMPARES",
    "DEFINED",
    "LOWERED",
    "TABLES",
    "UNDIFFERENTIABLE",
    "VJP",
    "Rule",
    "Table",
    "UnsupportedOperator",
    "differentiable_operators",
]

TABLES: dict[str, Table] = {
    "vjp": VJP,
    "relaxed": RELAXED,
    "relaxed_and_blurred": RELAXED_AND_BLURRED,
    "relevance": RELEVANCE,
    "rescale": RESCALE,
}
"""The tables of backward rules, by the name under which a method requests one; all but `vjp` are no derivatives."""
COMPARES = frozenset({"rescale"})
"""The tables whose rules compare with a reference."""


def differentiable_operators() -> tuple[tuple[str, str, str], ...]:
    """Every known operator as (domain, name, how its gradient is found), in the order of domains and names."""
    how = dict.fromkeys(VJP, "a rule")
    how |= dict.fromkeys(LOWERED, "a formula in other operators")
    how |= {("", name): "its function body in the ONNX specification" for name in DEFINED}
    how |= {("", "If"): "the rules of the operators in its branches"}
    how |= {operator: f"no gradient: {reason}" for operator, reason in UNDIFFERENTIABLE.items()}
    return tuple((domain or "ai.onnx", name, way) for (domain, name), way in sorted(how.items()))
