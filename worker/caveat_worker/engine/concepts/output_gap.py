"""The output gap: how the model's own numbers for a concept's examples differ from those for its reference set.

It compares different examples, so that it is no effect of the concept. But an effect of any form is part of it, also
one that no layer encodes linearly: where the gap is small, there is little that could have been missed.
"""

from __future__ import annotations

import numpy as np

from caveat_spec.results import OutputGap
from caveat_worker.engine.base.arrays import Float64Array
from caveat_worker.engine.concepts.fit_problem import Settings
from caveat_worker.engine.statistics.intervals import difference_interval, scaled_interval
from caveat_worker.engine.statistics.resampling import bootstrap_means, bootstrap_parts
from caveat_worker.engine.statistics.scale import ResampledScales, scale


def output_gap(
    concept: Float64Array, reference: Float64Array, over: Float64Array, settings: Settings, rng: np.random.Generator
) -> OutputGap:
    """The difference of the target's means at concept [n_c] and reference [n_r]; `over` [m] gives its scale."""
    value = float(concept.mean() - reference.mean())
    ends = difference_interval(concept, reference, settings.alpha)
    resamples = bootstrap_means(concept, settings.bootstrap, rng)
    resamples -= bootstrap_means(reference, settings.bootstrap, rng)
    scales = ResampledScales(over).of_all(bootstrap_parts(len(over), settings.bootstrap, rng))
    return OutputGap(
        value=value,
        interval=ends,
        in_sd=value / (scale(over) or 1.0),
        interval_in_sd=scaled_interval(value, ends, resamples, scales, settings.alpha),
    )
