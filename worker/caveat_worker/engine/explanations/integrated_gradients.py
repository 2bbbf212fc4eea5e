"""Integrated gradients along the straight path from a reference, refined until the parts add up.

Each point of the path stands for the part that is nearest to it. Between two points the error is known without more
passes: the mean of Δx·∇S at both, times what lies between them, against the difference of S, which a gradient's own
forward pass gives. Points are added in the middle of the worst gaps (Sundararajan et al. 2017, eq. 1, proposition 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caveat_spec.explanations import IntegratedGradientsOptions
from caveat_worker.engine.base.arrays import AnyArray, Float64Array
from caveat_worker.engine.explanations import Shapes
from caveat_worker.engine.explanations.atoms import summed_over_channels
from caveat_worker.engine.explanations.attributed import Attributed
from caveat_worker.engine.explanations.checks import completeness
from caveat_worker.engine.explanations.references import compared, reference_of
from caveat_worker.engine.explanations.runs import FORWARD, GRADIENT, Runs

_FIRST = 8
_SHARE = 4
"""In each round at most a quarter of the points is added."""
_NEARLY = 0.999
"""Of the tolerance: the rest is for rounding."""


def cost(options: IntegratedGradientsOptions, shapes: Shapes) -> int:
    """As many gradients as are allowed, and both ends; most examples take far fewer."""
    return GRADIENT * options.most + 2 * FORWARD


def integrated_gradients(runs: Runs, x: AnyArray, options: IntegratedGradientsOptions) -> Attributed:
    """(x - x̄)·∫∂S/∂x along the path, summed over colours [n, *positions]."""
    before, reference = runs.passes, reference_of(runs, x, options.reference)
    found = [_integrate(runs, x[[row]], reference[[row]], options) for row in range(len(x))]
    values = summed_over_channels(
        np.concatenate([path.parts(x[[row]] - reference[[row]]) for row, path in enumerate(found)])
    )
    total = np.array([path.difference for path in found])
    rough = max(float(np.abs(path.errors).sum() / max(abs(path.difference), 1e-12)) for path in found)
    gradients = max(len(path.at) for path in found)
    return Attributed(
        values,
        total=total,
        checks=(completeness(values.reshape(len(values), -1).sum(1), total, options.tolerance),),
        passes=runs.passes - before,
        rest=total - values.reshape(len(values), -1).sum(1),
        notes=(
            compared(options.reference, float(found[0].first)),
            f"It took {gradients} gradients along the path, whose errors add up to {rough:.1%} of the difference "
            "before they cancel.",
        ),
    )


@dataclass(frozen=True)
class _Points:
    """k points of the path, the scores there, and the derivatives."""

    at: Float64Array
    """[k], ascending between 0 and 1"""
    scores: Float64Array
    """[k]"""
    gradients: AnyArray
    """∇S [k, …]"""
    derivatives: Float64Array
    """(x - x̄)·∇S [k]"""

    def and_also(self, more: _Points) -> _Points:
        """Both, in the order of the path."""
        order = np.argsort(np.concatenate([self.at, more.at]), kind="stable")
        return _Points(*(np.concatenate(both)[order] for both in zip(self._fields(), more._fields(), strict=True)))

    def _fields(self) -> tuple[Any, ...]:
        return self.at, self.scores, self.gradients, self.derivatives


@dataclass(frozen=True)
class _Path:
    """Points of a path, and the scores of the reference and of the example at its ends."""

    points: _Points
    first: float
    last: float

    @property
    def at(self) -> Float64Array:
        return self.points.at

    @property
    def difference(self) -> float:
        return self.last - self.first

    @property
    def ends(self) -> Float64Array:
        """Where the gaps between points begin and end, with those before the first and behind the last [k + 2]."""
        return np.concatenate([[0.0], self.at, [1.0]])

    @property
    def errors(self) -> Float64Array:
        """What each gap misses [k + 1]."""
        derivatives = np.pad(self.points.derivatives, 1, mode="edge")
        scores = np.concatenate([[self.first], self.points.scores, [self.last]])
        return np.asarray((derivatives[1:] + derivatives[:-1]) / 2 * np.diff(self.ends) - np.diff(scores))

    @property
    def misses(self) -> float:
        """What the path misses as a whole or, where errors cancel, in its worst gap."""
        return float(max(abs(self.errors.sum()), np.abs(self.errors).max()))

    def parts(self, step: AnyArray) -> Float64Array:
        """What is attributed to each number of the example [1, …]."""
        between = np.concatenate([[0.0], (self.at[1:] + self.at[:-1]) / 2, [1.0]])
        return np.asarray(step.astype(float) * np.tensordot(np.diff(between), self.points.gradients.astype(float), 1))


def _integrate(runs: Runs, x: AnyArray, reference: AnyArray, options: IntegratedGradientsOptions) -> _Path:
    """The path of one example, refined until it is complete or no gradients are left."""
    first, last = runs.scores(np.concatenate([reference, x]))
    count = min(_FIRST, options.most)
    path = _Path(_points(runs, x, reference, (np.arange(count) + 0.5) / count), float(first), float(last))
    allowed = _NEARLY * options.tolerance * abs(path.difference)
    while len(path.at) < options.most and path.misses > allowed:
        more = _middles(path.ends, _worst(path, allowed / 2, most=options.most - len(path.at)))
        path = _Path(path.points.and_also(_points(runs, x, reference, more)), path.first, path.last)
    return path


def _worst(path: _Path, allowed: float, *, most: int) -> NDArray[np.intp]:
    """The fewest gaps without which the others' errors are within what is allowed, or as many as a round may add."""
    sizes = np.abs(path.errors)
    order = np.argsort(-sizes, kind="stable")
    needed = int(np.count_nonzero(np.cumsum(sizes[order][::-1]) > allowed))
    return np.asarray(order[: max(1, min(needed, len(path.at) // _SHARE, most))])


def _middles(ends: Float64Array, which: NDArray[np.intp]) -> Float64Array:
    """A point inside each gap; in the first and the last, which have a point at one side only, nearer to the end."""
    low, high = ends[which], ends[which + 1]
    share = np.select([which == 0, which == len(ends) - 2], [1 / 3, 2 / 3], 1 / 2)
    return np.asarray(low + share * (high - low))


def _points(runs: Runs, x: AnyArray, reference: AnyArray, at: Float64Array) -> _Points:
    share = at.reshape(-1, *[1] * (x.ndim - 1))
    scores, gradients = runs.scored_gradient(np.asarray(reference + share * (x - reference), x.dtype))
    step = (x - reference).astype(float).reshape(-1)
    return _Points(at, scores, gradients, np.asarray(gradients.reshape(len(at), -1).astype(float) @ step))
