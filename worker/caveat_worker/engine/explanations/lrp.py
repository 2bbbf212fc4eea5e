"""ε-LRP: relevance that each activation passes on by its share of the sum before it (Bach et al. 2015).

It is gradient x input with f(z) / z in place of f'(z) (Ancona et al. 2018, eq. 5); behind Relu alone the two are the
same. What the biases take is known, so that parts and biases must add up to the score.
"""

from __future__ import annotations

import numpy as np

from caveat_spec.explanations import NoOptions
from caveat_worker.engine.base.arrays import AnyArray
from caveat_worker.engine.explanations import Shapes
from caveat_worker.engine.explanations.atoms import summed_over_channels
from caveat_worker.engine.explanations.attributed import Attributed
from caveat_worker.engine.explanations.checks import bias_share, completeness
from caveat_worker.engine.explanations.runs import FORWARD, GRADIENT, Runs

_ROUNDING = 1e-3


def cost(options: NoOptions, shapes: Shapes) -> int:
    """One gradient for the inputs, one for the biases, and a score."""
    return 2 * GRADIENT + FORWARD


def lrp(runs: Runs, x: AnyArray, options: NoOptions) -> Attributed:
    """Relevance, summed over colours [n, *positions]; `rest` is that of the biases."""
    before = runs.passes
    values = summed_over_channels(x.astype(float) * runs.gradient(x, rules="relevance"))
    biases = np.array([runs.bias_part(x[[row]], rules="relevance") for row in range(len(x))])
    total, parts = runs.scores(x), values.reshape(len(values), -1).sum(1)
    return Attributed(
        values,
        total=total,
        checks=(completeness(parts + biases, total, _ROUNDING, scale=float(np.abs(values).sum())),),
        passes=runs.passes - before,
        rest=biases,
        notes=("Behind Relu alone, ε-LRP is gradient x input.", *bias_share(values, biases)),
    )
