"""Activation: how strongly each feature of a layer responds to an example, at the place where it responds most.

A semantic dictionary (Olah et al. 2018) shows the features that are most active beside what each of them looks for. The
number is the one by which icons order the examples of a set, so that the two can be compared.
"""

from __future__ import annotations

import numpy as np

from caveat_spec.explanations import ActivationOptions
from caveat_worker.engine.base.arrays import AnyArray
from caveat_worker.engine.explanations import Shapes
from caveat_worker.engine.explanations.atoms import strongest
from caveat_worker.engine.explanations.attributed import Attributed
from caveat_worker.engine.explanations.runs import FORWARD, Runs


def cost(options: ActivationOptions, shapes: Shapes) -> int:
    """A forward pass to the layer; nothing for the input itself."""
    return 0 if options.layer == "input" else FORWARD


def activation(runs: Runs, x: AnyArray, options: ActivationOptions) -> Attributed:
    """The largest activation of each channel over positions [n, channels], or each neuron's own [n, d]."""
    before = runs.passes
    a = runs.activations(x, options.layer)
    tokens = None if runs.tokens is None else np.full(len(a), runs.tokens)
    return Attributed(strongest(a, tokens)[0], passes=runs.passes - before)
