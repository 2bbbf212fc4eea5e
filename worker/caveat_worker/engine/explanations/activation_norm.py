"""Activation norm: how strongly each place of a layer responds, whatever to.

An activation grid (Olah et al. 2018) draws each place by what it is like, and as large as this number.
"""

from __future__ import annotations

import numpy as np

from caveat_spec.explanations import ActivationNormOptions
from caveat_worker.engine.base.arrays import AnyArray
from caveat_worker.engine.explanations import Shapes
from caveat_worker.engine.explanations.atoms import by_position, placed
from caveat_worker.engine.explanations.attributed import Attributed
from caveat_worker.engine.explanations.runs import FORWARD, Runs


def cost(options: ActivationNormOptions, shapes: Shapes) -> int:
    """A forward pass to the layer; nothing for the input itself."""
    return 0 if options.layer == "input" else FORWARD


def activation_norm(runs: Runs, x: AnyArray, options: ActivationNormOptions) -> Attributed:
    """The norm of each position's channels [n, *positions]."""
    before = runs.passes
    a = runs.activations(x, options.layer)
    norms = np.linalg.norm(by_position(a).astype(float), axis=2)
    return Attributed(placed(norms.T, a.shape), passes=runs.passes - before)
