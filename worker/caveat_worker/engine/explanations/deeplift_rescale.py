"""DeepLIFT with the rescale rule and a true reference: one backward pass whose parts add up (Shrikumar et al. 2017)."""

from __future__ import annotations

import numpy as np

from caveat_spec.explanations import ReferenceOptions
from caveat_worker.engine.base.arrays import AnyArray
from caveat_worker.engine.explanations import Shapes
from caveat_worker.engine.explanations.atoms import summed_over_channels
from caveat_worker.engine.explanations.attributed import Attributed
from caveat_worker.engine.explanations.checks import completeness
from caveat_worker.engine.explanations.references import compared, reference_of
from caveat_worker.engine.explanations.runs import FORWARD, GRADIENT, Runs

_ROUNDING = 1e-4


def cost(options: ReferenceOptions, shapes: Shapes) -> int:
    """One gradient by the table `rescale`, whose forward pass is made on the reference too."""
    return GRADIENT + 2 * FORWARD


def deeplift_rescale(runs: Runs, x: AnyArray, options: ReferenceOptions) -> Attributed:
    """(x - x̄) times the multipliers, summed over colours [n, *positions]."""
    before, reference = runs.passes, reference_of(runs, x, options.reference)
    *ends, multipliers = runs.multipliers(x, reference)
    values = summed_over_channels((x - reference).astype(float) * multipliers)
    total, parts = ends[0] - ends[1], values.reshape(len(values), -1).sum(1)
    return Attributed(
        values,
        total=total,
        checks=(completeness(parts, total, _ROUNDING, scale=float(np.abs(ends).max())),),
        passes=runs.passes - before,
        rest=total - parts,
        notes=(compared(options.reference, float(ends[1][0])),),
    )
