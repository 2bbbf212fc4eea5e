"""Saliency: the size of the target's derivative at each position (Simonyan et al. 2013)."""

from __future__ import annotations

from caveat_spec.explanations import OfLayer
from caveat_worker.engine.base.arrays import AnyArray
from caveat_worker.engine.explanations import Shapes
from caveat_worker.engine.explanations.atoms import largest_over_channels
from caveat_worker.engine.explanations.attributed import Attributed
from caveat_worker.engine.explanations.checks import not_flat
from caveat_worker.engine.explanations.runs import GRADIENT, Runs


def cost(options: OfLayer, shapes: Shapes) -> int:
    """One gradient."""
    return GRADIENT


def saliency(runs: Runs, x: AnyArray, options: OfLayer) -> Attributed:
    """|∂S/∂x|, the largest over colours [n, *positions]."""
    before = runs.passes
    gradient = runs.gradient(x, options.layer)
    return Attributed(
        largest_over_channels(gradient),
        checks=(not_flat(gradient),),
        passes=runs.passes - before,
        notes=("The size of the derivative has no sign: it does not say for or against.",),
    )
