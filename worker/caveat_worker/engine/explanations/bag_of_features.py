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
from caveat_worker.engine.explanations.atoms import channel_axis
from caveat_worker.engine.explanations.attributed import Attributed, Check
from caveat_worker.engine.explanations.runs import FORWARD, Runs

_LOCAL = 0.5
"""The share of the input's longer side that a place may see to be called local."""
_MISSED = 1e-5
"""The share of the score, or of the evidence if that is larger, by which their mean may differ from it."""
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
    local, count = _local(share, options.layer), int(np.prod(places))
    if not local.ok:
        return Attributed(np.zeros((len(a), *places)), checks=(local,), passes=runs.passes - before)
    evidence = np.stack([_evidence(runs, x[[row]], a[[row]], options.layer) for row in range(len(x))])
    largest = evidence[0][np.abs(evidence[0]).argmax()]
    return Attributed(
        (evidence / count).reshape(len(a), *places),
        total=scores,
        checks=(local, _is_mean(evidence, scores, options.layer)),
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
    axis = channel_axis(a.shape) or 1
    last = np.moveaxis(a[0], axis - 1, -1)
    vectors = last.reshape(-1, last.shape[-1])
    for start in range(0, len(vectors), _AT_ONCE):
        some = vectors[start : start + _AT_ONCE]
        wide = np.broadcast_to(some.reshape(len(some), *[1] * (last.ndim - 1), -1), (len(some), *last.shape))
        yield np.ascontiguousarray(np.moveaxis(wide, -1, axis))


def _local(share: float, layer: str) -> Check:
    ok = share <= _LOCAL
    return Check(
        "local",
        share,
        _LOCAL,
        ok,
        f"A place of {layer} sees {share:.0%} of the input's longer side."
        if ok
        else f"A place of {layer} sees {share:.0%} of the input's longer side, and at most {_LOCAL:.0%} is local: its "
        "evidence may come from anywhere. Use occlusion, or a layer whose places see less.",
    )


def _is_mean(evidence: Float64Array, scores: Float64Array, layer: str) -> Check:
    """Whether each score [n] is the mean of its evidence [n, positions]."""
    means = evidence.mean(1)
    sizes = np.maximum(np.abs(scores), np.abs(evidence).max(1))
    missed = np.abs(means - scores) / np.maximum(sizes, np.finfo(float).tiny)
    worst = int(missed.argmax())
    ok = bool(missed[worst] <= _MISSED)
    return Check(
        "mean",
        float(missed[worst]),
        _MISSED,
        ok,
        f"The mean of the evidence is the score, {scores[worst]:.4g}."
        if ok
        else f"The score is not the mean of what the places of {layer} say alone, {scores[worst]:.4g} and not "
        f"{means[worst]:.4g}: behind it is more than a mean over positions and an affine layer. Name the layer before "
        "that mean if there is one, or use linear.",
    )
