"""Integrated gradients along the straight path from a reference, refined until the parts add up.

The path is divided into segments, and each takes the derivative at its middle. A segment's error is known without more
gradients: Δx·∇S(middle) against the difference of S at its ends. The worst segments are divided by three, which keeps
their middle's derivative for the inner third (Sundararajan et al. 2017, eq. 1 and proposition 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

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
"""In each round the worst quarter of the segments is divided."""


def cost(options: IntegratedGradientsOptions, shapes: Shapes) -> int:
    """As many gradients as are allowed, each with a score; most examples take far fewer."""
    return (GRADIENT + FORWARD) * options.most


def integrated_gradients(runs: Runs, x: AnyArray, options: IntegratedGradientsOptions) -> Attributed:
    """(x - x̄)·∫∂S/∂x along the path, summed over colours [n, *positions]."""
    before, reference = runs.passes, reference_of(runs, x, options.reference)
    found = [_integrate(runs, x[[row]], reference[[row]], options) for row in range(len(x))]
    values = summed_over_channels(
        np.concatenate([path.parts(x[[row]] - reference[[row]]) for row, path in enumerate(found)])
    )
    total = np.array([path.difference for path in found])
    rough = max(float(np.abs(path.errors).sum() / max(abs(path.difference), 1e-12)) for path in found)
    gradients = max(len(path.middles) for path in found)
    return Attributed(
        values,
        total=total,
        checks=(completeness(values.reshape(len(values), -1).sum(1), total, options.tolerance),),
        passes=runs.passes - before,
        rest=total - values.reshape(len(values), -1).sum(1),
        notes=(
            compared(options.reference, float(found[0].scores[0])),
            f"It took {gradients} gradients along the path, whose errors add up to {rough:.1%} of the difference "
            "before they cancel.",
        ),
    )


@dataclass(frozen=True)
class _Path:
    """A path in k segments: where they begin and end, the scores there, and the derivatives at their middles."""

    ends: Float64Array
    """[k + 1], from 0 to 1"""
    scores: Float64Array
    """[k + 1]"""
    middles: AnyArray
    """[k, …]"""
    derivatives: Float64Array
    """(x - x̄)·∇S at the middles [k]"""

    @property
    def difference(self) -> float:
        return float(self.scores[-1] - self.scores[0])

    @property
    def errors(self) -> Float64Array:
        """What each segment misses [k]."""
        return np.asarray(self.derivatives * np.diff(self.ends) - np.diff(self.scores))

    def parts(self, step: AnyArray) -> Float64Array:
        """What is attributed to each number of the example [1, …]."""
        mean = np.tensordot(np.diff(self.ends), self.middles.astype(float), 1)
        return np.asarray(step.astype(float) * mean)


def _integrate(runs: Runs, x: AnyArray, reference: AnyArray, options: IntegratedGradientsOptions) -> _Path:
    """The path of one example, refined until it is complete or no gradients are left."""
    path = _first(runs, x, reference)
    while len(path.middles) < options.most:
        missing = abs(path.errors.sum())
        if missing <= options.tolerance / 2 * abs(path.difference):
            break
        path = _refined(runs, x, reference, path, most=options.most)
    return path


def _first(runs: Runs, x: AnyArray, reference: AnyArray) -> _Path:
    ends = np.linspace(0, 1, _FIRST + 1)
    middles, derivatives = _derivatives(runs, x, reference, (ends[1:] + ends[:-1]) / 2)
    return _Path(ends, runs.scores(_between(x, reference, ends)), middles, derivatives)


def _refined(runs: Runs, x: AnyArray, reference: AnyArray, path: _Path, *, most: int) -> _Path:
    """The path with its worst segments divided by three."""
    count = min(max(len(path.middles) // _SHARE, 1), max((most - len(path.middles)) // 2, 1))
    worst = np.sort(np.argsort(-np.abs(path.errors), kind="stable")[:count])
    low, width = path.ends[worst], np.diff(path.ends)[worst]
    inner = np.stack([low + width / 3, low + 2 * width / 3], axis=1)
    outer = np.stack([low + width / 6, low + 5 * width / 6], axis=1)
    middles, derivatives = _derivatives(runs, x, reference, outer.reshape(-1))
    scores = runs.scores(_between(x, reference, inner.reshape(-1)))
    first, second = np.arange(count) * 2, np.arange(count) * 2 + 1
    return _Path(
        np.insert(path.ends, np.repeat(worst + 1, 2), inner.reshape(-1)),
        np.insert(path.scores, np.repeat(worst + 1, 2), scores),
        np.insert(np.insert(path.middles, worst + 1, middles[second], 0), worst + np.arange(count), middles[first], 0),
        np.insert(
            np.insert(path.derivatives, worst + 1, derivatives[second]), worst + np.arange(count), derivatives[first]
        ),
    )


def _derivatives(runs: Runs, x: AnyArray, reference: AnyArray, at: Float64Array) -> tuple[AnyArray, Float64Array]:
    middles = runs.gradient(_between(x, reference, at))
    step = (x - reference).astype(float).reshape(-1)
    return middles, np.asarray(middles.reshape(len(at), -1).astype(float) @ step)


def _between(x: AnyArray, reference: AnyArray, at: Float64Array) -> AnyArray:
    """Points on the path [k, …]."""
    share = at.reshape(-1, *[1] * (x.ndim - 1))
    return np.asarray(reference + share * (x - reference), x.dtype)
