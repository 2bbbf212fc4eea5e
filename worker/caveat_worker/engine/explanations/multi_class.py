"""Multi-class saliency: which of two groups of classes each position speaks for (Olah et al. 2018).

One batch of seeds, one for each of the highest classes, gives every class's attribution at every position. Two
non-negative factors of their positive parts are the two colours; the legend has the strongest classes at each position.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from caveat_spec.explanations import MultiClassOptions
from caveat_worker.engine.base.arrays import AnyArray, Float32Array, Float64Array, Indices
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.explanations import Shapes
from caveat_worker.engine.explanations.atoms import summed_over_channels
from caveat_worker.engine.explanations.attributed import Attributed
from caveat_worker.engine.explanations.checks import not_flat
from caveat_worker.engine.explanations.factors import factors
from caveat_worker.engine.explanations.runs import FORWARD, GRADIENT, Runs

_LEGEND = 5
_NAMED = 3
"""Classes that the note names for each colour."""


def cost(options: MultiClassOptions, shapes: Shapes) -> int:
    """A gradient for each class, and forward passes for scores and activations."""
    return GRADIENT * options.classes + 3 * FORWARD


def multi_class(runs: Runs, x: AnyArray, options: MultiClassOptions) -> Attributed:
    """The first group of classes less the second [n, *positions]; `parts` has all classes and the legend."""
    before = runs.passes
    found = [_Classes.of(runs, x[[row]], options) for row in range(len(x))]
    legends = [one.legend() for one in found]
    return Attributed(
        np.stack([one.maps[0] - one.maps[1] for one in found]),
        checks=(not_flat(np.stack([one.attributions for one in found])),),
        passes=runs.passes - before,
        notes=tuple(one.sentence() for one in found),
        parts={
            "classes": np.stack([one.classes for one in found]),
            "attributions": np.stack([one.attributions for one in found]),
            "legend_classes": np.stack([classes for classes, _ in legends]),
            "legend_values": np.stack([values for _, values in legends]),
        },
    )


@dataclass(frozen=True)
class _Classes:
    """The highest classes of one example, and the two factors of what speaks for them."""

    classes: Indices
    """[k], the highest first"""
    attributions: Float64Array
    """[k, *positions]"""
    maps: Float64Array
    """[2, *positions]"""
    shares: Float64Array
    """What each factor has of each class [2, k]."""

    @classmethod
    def of(cls, runs: Runs, x: AnyArray, options: MultiClassOptions) -> _Classes:
        scores = runs.activations(x, runs.scores_at)
        if scores.ndim != 2 or scores.shape[1] < 3:
            raise InvalidInput(
                "too-few-classes",
                f"The scores have the shape {list(scores.shape)}; a map of classes needs a row of three or more.",
                "Use linear, for one class or for a pair.",
            )
        classes = np.argsort(-scores[0], kind="stable")[: options.classes]
        pulled = runs.pull(runs.scores_at, _one_hot(classes, scores.shape[1]), options.layer, x)
        products = runs.activations(x, options.layer).astype(float) * pulled.astype(float)
        attributions = summed_over_channels(products)
        positions, shares = factors(np.maximum(attributions, 0).reshape(len(classes), -1).T, 2)
        first = int(shares[:, 0].argmax())
        order = [first, 1 - first]
        sizes = (positions * shares.sum(1)).T.reshape(2, *attributions.shape[1:])
        return cls(classes, attributions, sizes[order], shares[order])

    def legend(self) -> tuple[Indices, Float64Array]:
        """The strongest classes at each position [*positions, 5], and their attributions."""
        order = np.argsort(-self.attributions, axis=0, kind="stable")[:_LEGEND]
        values = np.take_along_axis(self.attributions, order, axis=0)
        return np.moveaxis(self.classes[order], 0, -1), np.moveaxis(values, 0, -1)

    def sentence(self) -> str:
        """Which classes the two colours are."""
        named = []
        for own, other in (self.shares, self.shares[::-1]):
            order = [one for one in np.argsort(-own, kind="stable")[:_NAMED] if own[one] > other[one]]
            named.append(", ".join(str(self.classes[one]) for one in order) or "none of them alone")
        return f"Of the {len(self.classes)} highest classes, + is {named[0]}, and - is {named[1]}."


def _one_hot(classes: Indices, count: int) -> Float32Array:
    return np.eye(count, dtype=np.float32)[classes]
