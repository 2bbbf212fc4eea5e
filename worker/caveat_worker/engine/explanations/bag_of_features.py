"""Bag of local features: what each place of a layer says by itself, for models whose score is the mean of that.

Behind a mean over positions and an affine layer, the score is the mean of what the head makes of each position alone
(Brendel and Bethge 2019), which is measured: the position's vector is put at every position. Whether the score is that
mean is checked at each example. If a place sees little of the input too, its evidence can have come from nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from caveat_spec.explanations import BagOptions
from caveat_worker.engine.base.arrays import AnyArray, Float32Array, Float64Array
from caveat_worker.engine.explanations import Shapes
from caveat_worker.engine.explanations.atoms import by_position, channel_axis, everywhere
from caveat_worker.engine.explanations.attributed import Attributed
from caveat_worker.engine.explanations.checks import local, mean_of_places
from caveat_worker.engine.explanations.runs import FORWARD, Runs

_AT_ONCE = 64
"""Positions that are put in place in one go."""


def cost(options: BagOptions, shapes: Shapes) -> int:
    """The activations, the score, and the rest of the model for each position."""
    shape = shapes[options.layer]
    return 2 * FORWARD + int(np.prod(shape[1:] if len(shape) > 2 else shape[:1]))


def bag_of_features(runs: Runs, x: AnyArray, options: BagOptions) -> Attributed:
    """Each position's part of the score [n, *positions]: its evidence over the number of positions."""
    before, a, scores = runs.passes, runs.activations(x, options.layer), runs.scores(x)
    axis = channel_axis(a.shape)
    places = [size for one, size in enumerate(a.shape) if one not in (0, axis)]
    share = runs.sees(options.layer, x)
    near, count = local(share, options.layer), int(np.prod(places))
    if not near.ok:
        return Attributed(np.zeros((len(a), *places)), checks=(near,), passes=runs.passes - before)
    evidence = np.stack([_evidence(runs, x[[row]], a[[row]], options.layer) for row in range(len(x))])
    largest = evidence[0][np.abs(evidence[0]).argmax()]
    return Attributed(
        (evidence / count).reshape(len(a), *places),
        total=scores,
        checks=(near, mean_of_places(evidence.mean(1), scores, np.abs(evidence).max(1), options.layer)),
        passes=runs.passes - before,
        rest=scores - evidence.mean(1),
        notes=(
            f"The score is the mean of what {count} places say alone; the strongest says {largest:+.3g}. A place sees "
            f"{share:.0%} of the input's longer side.".replace("-", "−", 1),
        ),
    )


def _evidence(runs: Runs, x: AnyArray, a: Float32Array, layer: str) -> Float64Array:
    """The target's number with each position's vector at every position [positions]."""
    return np.concatenate([runs.rest(layer, alone, x) for alone in _alone(a)])


def _alone(a: Float32Array) -> Iterator[Float32Array]:
    """Activations [1, …] with each position's vector at every position [k, …], some positions at a time."""
    vectors = by_position(a)[0]
    for start in range(0, len(vectors), _AT_ONCE):
        yield everywhere(vectors[start : start + _AT_ONCE], a.shape)
