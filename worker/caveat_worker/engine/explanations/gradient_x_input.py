"""Gradient x input: each input times the target's derivative there, its share if the model was linear."""

from __future__ import annotations

import numpy as np

from caveat_spec.explanations import OfLayer
from caveat_worker.engine.base.arrays import AnyArray
from caveat_worker.engine.explanations import Shapes
from caveat_worker.engine.explanations.atoms import summed_over_channels
from caveat_worker.engine.explanations.attributed import Attributed
from caveat_worker.engine.explanations.checks import not_flat
from caveat_worker.engine.explanations.runs import FORWARD, GRADIENT, Runs


def cost(options: OfLayer, shapes: Shapes) -> int:
    """One gradient, and a forward pass for activations and scores."""
    return GRADIENT + 2 * FORWARD


def gradient_x_input(runs: Runs, x: AnyArray, options: OfLayer) -> Attributed:
    """x·∂S/∂x, summed over colours [n, *positions]; `rest` is what no input accounts for."""
    before = runs.passes
    gradient = runs.gradient(x, options.layer)
    products = np.asarray(runs.activations(x, options.layer), float) * gradient
    values = summed_over_channels(products)
    scores = runs.scores(x)
    return Attributed(
        values,
        total=scores,
        checks=(not_flat(gradient),),
        passes=runs.passes - before,
        rest=scores - values.reshape(len(values), -1).sum(1),
    )
