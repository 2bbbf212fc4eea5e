"""Path dependence: how much a layer's attribution depends on the path along which it is integrated.

Each path leads from no activation to the example's, and every channel takes it at a speed of its own: α^e, with e drawn
from a third to three. What one path calls important and another does not is an interval, not a number.
"""

from __future__ import annotations

import numpy as np

from caveat_spec.explanations import PathOptions
from caveat_worker.engine.base.arrays import AnyArray, Float64Array
from caveat_worker.engine.explanations import Shapes
from caveat_worker.engine.explanations.atoms import channel_axis, summed_over_channels, summed_over_positions
from caveat_worker.engine.explanations.attributed import Attributed
from caveat_worker.engine.explanations.checks import completeness
from caveat_worker.engine.explanations.runs import FORWARD, GRADIENT, Runs

_SLOWEST = 3.0
_SHOWN = 8
_MISSING = 0.1
"""Of what all atoms have together, signs aside."""


def cost(options: PathOptions, shapes: Shapes) -> int:
    """A gradient of the rest of the model for each step of each path; activations, and scores with and without them."""
    return options.paths * options.steps * GRADIENT + 4 * FORWARD


def path_dependence(runs: Runs, x: AnyArray, options: PathOptions) -> Attributed:
    """The mean over paths of each atom's attribution [n, *atoms], and its standard deviation over paths as spread."""
    before = runs.passes
    paths = np.stack([_along_paths(runs, x[[row]], options) for row in range(len(x))])  # [n, paths, *atoms]
    values, spread = paths.mean(1), paths.std(1, ddof=1)
    a = runs.activations(x, options.layer)
    total = np.array(
        [np.subtract(*runs.rest(options.layer, np.stack([one, one * 0]), x[[row]])) for row, one in enumerate(a)]
    )
    parts = values.reshape(len(values), -1).sum(1)
    return Attributed(
        values,
        total=total,
        checks=(
            completeness(parts, total, _MISSING, scale=float(np.abs(values).sum(tuple(range(1, values.ndim))).min())),
        ),
        spread=spread,
        passes=runs.passes - before,
        rest=total - parts,
        notes=(_flips(paths[0]),),
    )


def _along_paths(runs: Runs, x: AnyArray, options: PathOptions) -> Float64Array:
    """What each path attributes to the atoms of one example [paths, *atoms]."""
    a = runs.activations(x, options.layer)
    axis = channel_axis(a.shape) or 1
    sums = summed_over_channels if options.atoms == "positions" else summed_over_positions
    rng = np.random.default_rng(options.seed)
    found = []
    for _ in range(options.paths):
        speeds = _SLOWEST ** rng.uniform(-1, 1, a.shape[axis])
        ends = np.linspace(0, 1, options.steps + 1)[:, None] ** speeds  # [steps + 1, channels]
        middles = ((np.arange(options.steps) + 0.5) / options.steps)[:, None] ** speeds
        wide = [-1 if one == axis else 1 for one in range(1, a.ndim)]
        at = (a * middles.reshape(options.steps, *_shaped(middles, wide))).astype(np.float32)
        gradient = runs.rest_gradient(options.layer, at, x).astype(float)
        steps = np.diff(ends, axis=0).reshape(options.steps, *_shaped(ends, wide))
        found.append(sums(a * (gradient * steps).sum(0))[0])
    return np.stack(found)


def _shaped(of: Float64Array, wide: list[int]) -> list[int]:
    """The shape in which one number for each channel meets activations."""
    return [of.shape[1] if one == -1 else 1 for one in wide]


def _flips(paths: Float64Array) -> str:
    """How many of the largest atoms have another sign on some path, as a sentence."""
    flat = paths.reshape(len(paths), -1)
    largest = np.argsort(-np.abs(flat.mean(0)), kind="stable")[:_SHOWN]
    flipped = int(sum((flat[:, atom] > 0).any() and (flat[:, atom] < 0).any() for atom in largest))
    which = "none" if not flipped else str(flipped)
    return f"Over {len(paths)} paths, {which} of the {len(largest)} largest atoms changes its sign on some path."
