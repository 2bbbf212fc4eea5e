"""Layer to layer: what a lower layer's positions or channels do for an upper layer's (Olah et al. 2018).

The upper atom's size is differentiated: the norm of a position's channels, or the sum of a channel's positions. One
batch of seeds between the two layers gives all pairs.
"""

from __future__ import annotations

import numpy as np

from caveat_spec.explanations import LayerToLayerOptions
from caveat_worker.engine.base.arrays import AnyArray, Float32Array, Float64Array, Indices
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.explanations import Shapes
from caveat_worker.engine.explanations.atoms import channel_axis, summed_over_channels, summed_over_positions
from caveat_worker.engine.explanations.attributed import Attributed
from caveat_worker.engine.explanations.checks import not_flat
from caveat_worker.engine.explanations.runs import FORWARD, GRADIENT, Runs


def cost(options: LayerToLayerOptions, shapes: Shapes) -> int:
    """A gradient for each upper atom, and the activations of both layers."""
    return GRADIENT * options.most + 3 * FORWARD


def layer_to_layer(runs: Runs, x: AnyArray, options: LayerToLayerOptions) -> Attributed:
    """What each lower atom does for all upper ones together [n, *atoms]; `parts` has every pair [n, upper, *atoms]."""
    before = runs.passes
    found = [_pairs(runs, x[[row]], options) for row in range(len(x))]
    pairs = np.stack([pair for pair, _, _ in found])
    values, total = pairs.sum(1), np.array([sizes.sum() for _, _, sizes in found])
    return Attributed(
        values,
        total=total,
        checks=(not_flat(pairs),),
        passes=runs.passes - before,
        rest=total - values.reshape(len(values), -1).sum(1),
        notes=(f"For the {pairs.shape[1]} largest {options.atoms} of {options.upper}, together.",),
        parts={"pairs": pairs, "upper": np.stack([which for _, which, _ in found])},
    )


def _pairs(runs: Runs, x: AnyArray, options: LayerToLayerOptions) -> tuple[Float64Array, Indices, Float64Array]:
    """Every pair of one example [upper, *atoms], which upper atoms they are [upper], and those atoms' sizes [upper]."""
    upper = runs.activations(x, options.upper)
    seeds, which = _seeds(upper, options)
    pulled = runs.pull(options.upper, seeds, options.layer, x)
    products = runs.activations(x, options.layer).astype(float) * pulled.astype(float)
    sums = summed_over_channels if options.atoms == "positions" else summed_over_positions
    sizes = (seeds.astype(float) * upper).reshape(len(seeds), -1).sum(1)
    return sums(products), which, sizes


def _seeds(upper: Float32Array, options: LayerToLayerOptions) -> tuple[Float32Array, Indices]:
    """A seed for each of the largest upper atoms [k, …], and their numbers."""
    axis = channel_axis(upper.shape)
    if axis is None:
        raise InvalidInput(
            "no-positions",
            f"'{options.upper}' has no positions, only {upper.shape[1]} numbers.",
            "Name a layer with positions; `caveat layers` lists shapes.",
            "upper",
        )
    last = np.moveaxis(upper[0], axis - 1, -1).reshape(-1, upper.shape[axis])  # [positions, channels]
    by_position = options.atoms == "positions"
    norms = np.linalg.norm(last, axis=1)
    sizes = norms if by_position else np.abs(last.sum(0))
    which = np.argsort(-sizes, kind="stable")[: options.most]
    seeds = np.zeros((len(which), *last.shape), np.float32)
    for row, atom in enumerate(which):
        if by_position:
            seeds[row, atom] = last[atom] / max(float(norms[atom]), np.finfo(np.float32).tiny)
        else:
            seeds[row, :, atom] = 1
    places = [size for one, size in enumerate(upper.shape) if one not in (0, axis)]
    return np.moveaxis(seeds.reshape(len(which), *places, -1), -1, axis), which
