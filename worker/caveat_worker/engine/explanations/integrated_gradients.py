"""Integrated gradients along the straight path from a reference, refined until the parts add up.

Each point of the path stands for the part that is nearest to it. Between two points the error is known without more
passes: the mean of Δx·∇S at both, times what lies between them, against the difference of S, which a gradient's own
forward pass gives. Points are added in the middle of the worst gaps (Sundararajan et al. 2017, eq. 1, proposition 1)
until the parts add up and no longer depend on which points were taken: every second point gives nearly the same map.
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
_SHARE = 8
"""In each round at most an eighth of the points is added."""
_SETTLED = 15
"""By how many tolerances, as a share of their sizes, the parts themselves may be off; sums can be right by chance."""
_NEARLY = 0.999
"""Of the tolerance: the rest is for rounding."""


def cost(options: IntegratedGradientsOptions, shapes: Shapes) -> int:
    """As many gradients as are allowed, and both ends; most examples take far fewer."""
    return GRADIENT * options.most + 2 * FORWARD


def integrated_gradients(runs: Runs, x: AnyArray, options: IntegratedGradientsOptions) -> Attributed:
    """(x - x̄)·∫∂S/∂x along the path, summed over colours [n, *positions]."""
    before, reference = runs.passes, reference_of(runs, x, options.reference)
    found = [_integrate(runs, x[[row]], reference[[row]], options) for row in range(len(x))]
    values, total = np.stack([path.parts for path in found]), np.array([path.difference for path in found])
    unsettled = max(path.unsettled for path in found)
    taken = max(len(path.at) for path in found)
    return Attributed(
        values,
        total=total,
        checks=(completeness(values.reshape(len(values), -1).sum(1), total, options.tolerance),),
        passes=runs.passes - before,
        rest=total - values.reshape(len(values), -1).sum(1),
        notes=(
            compared(options.reference, float(found[0].first)),
            f"It took {taken} gradients along the path. By what every second one of them gives, the parts are off by "
            f"{unsettled:.1%} of their sizes.",
        ),
        parts={"gradients": np.array([len(path.at) for path in found])},
    )


@dataclass(frozen=True)
class _Points:
    """k points of the path, the scores there, and the derivatives."""

    at: Float64Array
    """[k], ascending between 0 and 1"""
    scores: Float64Array
    """[k]"""
    products: Float64Array
    """(x - x̄)∘∇S, summed over colours [k, *positions]"""
    derivatives: Float64Array
    """(x - x̄)·∇S [k]"""

    def and_also(self, more: _Points) -> _Points:
        """Both, in the order of the path."""
        order = np.argsort(np.concatenate([self.at, more.at]), kind="stable")
        return _Points(*(np.concatenate(both)[order] for both in zip(self._fields(), more._fields(), strict=True)))

    def _fields(self) -> tuple[Any, ...]:
        return self.at, self.scores, self.products, self.derivatives


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
    def parts(self) -> Float64Array:
        """What is attributed to each position of the example."""
        return np.asarray(np.tensordot(_widths(self.at), self.points.products, 1))

    @property
    def unsettled(self) -> float:
        """How far off the parts are, as a share of their sizes: half of what those of every second point differ by."""
        even, odd = np.zeros((2, len(self.at)))
        even[::2], odd[1::2] = _widths(self.at[::2]), _widths(self.at[1::2])
        between = np.abs(np.tensordot((even - odd) / 2, self.points.products, 1)).sum()
        return float(between / max(np.abs(self.parts).sum(), np.finfo(float).tiny))


def _widths(at: Float64Array) -> Float64Array:
    """How much of the path is nearest to each of its points [k]."""
    return np.diff(np.concatenate([[0.0], (at[1:] + at[:-1]) / 2, [1.0]]))


def _integrate(runs: Runs, x: AnyArray, reference: AnyArray, options: IntegratedGradientsOptions) -> _Path:
    """The path of one example, refined until it is complete or no gradients are left."""
    first, last = runs.scores(np.concatenate([reference, x]))
    count = min(_FIRST, options.most)
    path = _Path(_points(runs, x, reference, (np.arange(count) + 0.5) / count), float(first), float(last))
    allowed = _NEARLY * options.tolerance * abs(path.difference)
    while len(path.at) < options.most and not _enough(path, allowed, _SETTLED * options.tolerance):
        more = _middles(path.ends, _worst(path, allowed / 2, most=options.most - len(path.at)))
        path = _Path(path.points.and_also(_points(runs, x, reference, more)), path.first, path.last)
    return path


def _enough(path: _Path, allowed: float, settled: float) -> bool:
    """Whether a path adds up, and neither by gaps whose errors cancel nor by parts that depend on its points."""
    errors = path.errors
    adds_up = abs(errors.sum()) <= allowed and np.abs(errors).max() <= settled * abs(path.difference)
    return bool(adds_up and path.unsettled <= settled)


def _worst(path: _Path, allowed: float, *, most: int) -> NDArray[np.intp]:
    """The fewest gaps without which the others' errors are within what is allowed, or as many as a round may add."""
    sizes = np.abs(path.errors)
    order = np.argsort(-sizes, kind="stable")
    a_round = max(1, min(len(path.at) // _SHARE, most))
    needed = int(np.count_nonzero(np.cumsum(sizes[order][::-1]) > allowed))
    return np.asarray(order[: min(needed or a_round, a_round)])


def _middles(ends: Float64Array, which: NDArray[np.intp]) -> Float64Array:
    """A point inside each gap; in the first and the last, which have a point at one side only, nearer to the end."""
    low, high = ends[which], ends[which + 1]
    share = np.select([which == 0, which == len(ends) - 2], [1 / 3, 2 / 3], 1 / 2)
    return np.asarray(low + share * (high - low))


def _points(runs: Runs, x: AnyArray, reference: AnyArray, at: Float64Array) -> _Points:
    share = at.reshape(-1, *[1] * (x.ndim - 1))
    scores, gradients = runs.scored_gradient(np.asarray(reference + share * (x - reference), x.dtype))
    products = summed_over_channels((x - reference).astype(float) * gradients)
    return _Points(at, scores, products, products.reshape(len(at), -1).sum(1))
