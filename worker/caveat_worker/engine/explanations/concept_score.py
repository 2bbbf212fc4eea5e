"""Concept score: how far an example lies along a concept's direction, in standard deviations of the reference set.

Kim et al. (2018) sort pictures by their similarity to a CAV to see whether it is what its name says; the icons of this
figure are that order.
"""

from __future__ import annotations

import numpy as np

from caveat_spec.explanations import CavOptions, ConceptScoreOptions
from caveat_worker.engine.base.arrays import AnyArray
from caveat_worker.engine.explanations import Shapes
from caveat_worker.engine.explanations.attributed import Attributed
from caveat_worker.engine.explanations.cav_attribution import encoded
from caveat_worker.engine.explanations.runs import FORWARD, Runs


def cost(options: ConceptScoreOptions, shapes: Shapes) -> int:
    """A forward pass to the layer."""
    return FORWARD


def concept_score(runs: Runs, x: AnyArray, options: ConceptScoreOptions) -> Attributed:
    """Σ (h - h̄)·v [n, 1]; `parts` has v and h̄, by which icons order other examples."""
    before, cav = runs.passes, runs.direction(options.concept, options.layer, options.reduce)
    scores = ((runs.activations(x, options.layer) - cav.origin) * cav.here).reshape(len(x), -1).sum(1)
    of_cav = CavOptions(concept=options.concept, layer=options.layer, reduce=options.reduce)
    return Attributed(
        scores[:, None],
        total=scores,
        checks=(encoded(cav, of_cav),),
        passes=runs.passes - before,
        rest=np.zeros(len(x)),
        notes=(f"The CAV is from {cav.examples} examples, without this one and its match.",),
        parts={"directions": np.stack([np.stack([cav.v, cav.origin])] * len(x))},
    )
