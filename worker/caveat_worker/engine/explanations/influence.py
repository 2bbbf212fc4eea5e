"""Influence: which examples of a labelled set speak for a target's number, and which against it, at the last layer.

An example's influence is how the number differs from what it would be had the head been fitted without that example, to
first order: (y - p)·(H⁻¹ ∇S) / n, with H the Hessian of the regularised loss in the head's weights (Koh and Liang
2017). It means something only where the head lies at a minimum of the loss over these examples, which is checked. The
strength of the weight decay is estimated from the same condition: at a minimum the mean gradient is -λW.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from caveat_spec.explanations import InfluenceOptions
from caveat_worker.engine.base.arrays import AnyArray, Float64Array, Indices
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.explanations import Shapes
from caveat_worker.engine.explanations.attributed import Attributed, Check
from caveat_worker.engine.explanations.checks import not_flat
from caveat_worker.engine.explanations.runs import FORWARD, GRADIENT, Labelled, Runs

_AT_A_MINIMUM = 0.05
"""The share of an example's mean gradient that the mean of all gradients may have."""
_LARGEST = 300_000_000
"""Examples times classes times features, so that a product with the Hessian takes a second at most."""
_LEAST_DECAY = 1e-7
"""The least weight decay, as a share of the features' mean square, so that the Hessian has an inverse."""
_STEPS, _LEFT = 1000, 1e-9
"""Steps of conjugate gradients at most, and the share of the right side at which they end."""


def cost(options: InfluenceOptions, shapes: Shapes) -> int:
    """The example's features and the target's gradient at the scores; the set is counted apart."""
    return FORWARD + GRADIENT


def influence(runs: Runs, x: AnyArray, options: InfluenceOptions) -> Attributed:
    """What each example of the set adds to the target's number [n, examples]."""
    before, data = runs.passes, runs.labelled(options.training, options.labels)
    _check_size(data, options)
    head = _Head.of(data, options.decay)
    derivatives = runs.gradient(x, runs.scores_at)
    features = np.concatenate([runs.activations(x, data.layer).astype(float), np.ones((len(x), 1))], axis=1)
    values = np.stack([head.influences(*each) for each in zip(derivatives.astype(float), features, strict=True)])
    return Attributed(
        values,
        checks=(not_flat(derivatives), head.at_a_minimum()),
        passes=runs.passes - before,
        notes=(
            f"Of {len(data.classes)} examples of {options.training}, labelled by {options.labels}; each number is what "
            f"fitting the last layer without the example would take away, to first order. Weight decay "
            f"{head.decay:.3g}{'' if options.decay is not None else ', as the weights themselves tell'}.",
        ),
    )


def _check_size(data: Labelled, options: InfluenceOptions) -> None:
    size = data.features.size * data.scores.shape[1]
    if size > _LARGEST:
        raise InvalidInput(
            "influence-too-large",
            f"{len(data.features):,} examples of '{options.training}', {data.features.shape[1]:,} features and "
            f"{data.scores.shape[1]:,} classes are {size:,} numbers, and {_LARGEST:,} are allowed.",
            f"Give the set a 'limit' of {_LARGEST * len(data.features) // size:,}.",
        )


@dataclass(frozen=True)
class _Head:
    """The head's loss over the labelled set, around the weights that it has."""

    features: Float64Array
    """With a column of ones [n, d + 1]."""
    p: Float64Array
    """[n, classes]"""
    off: Float64Array
    """y - p [n, classes]."""
    left: float
    """The mean gradient that weight decay does not account for, as a share of the gradients' mean size."""
    decay: float

    @classmethod
    def of(cls, data: Labelled, decay: float | None) -> _Head:
        features = np.concatenate([data.features, np.ones((len(data.features), 1))], axis=1)
        p = _probabilities(data.scores)
        off = _one_hot(data.classes, p.shape[1]) - p
        mean = -off.T @ features / len(features)
        weights = np.concatenate([data.weights, np.zeros((len(data.weights), 1))], axis=1)
        told = -float((mean * weights).sum()) / max(float((weights**2).sum()), np.finfo(float).tiny)
        used = max(told if decay is None else decay, 0.0)
        size = float((np.linalg.norm(off, axis=1) * np.linalg.norm(features, axis=1)).mean())
        left = float(np.linalg.norm(mean + used * weights)) / max(size, np.finfo(float).tiny)
        return cls(features, p, off, left, max(used, _LEAST_DECAY * float((data.features**2).sum(1).mean())))

    def influences(self, derivatives: Float64Array, features: Float64Array) -> Float64Array:
        """What each example adds to a number whose derivatives are these by scores [classes], at these features."""
        towards = (
            derivatives - derivatives.mean() if len(derivatives) > 1 else derivatives
        )  # no loss moves all scores together
        u = self._solve(np.outer(towards, features))
        return np.asarray((self.off * (self.features @ u.T)).sum(1) / len(self.features))

    def _times(self, u: Float64Array) -> Float64Array:
        """The Hessian times u [classes, d + 1]; biases have no decay."""
        z = self.features @ u.T
        curved = self.p * (1 - self.p) * z if z.shape[1] == 1 else self.p * (z - (self.p * z).sum(1, keepdims=True))
        product = curved.T @ self.features / len(self.features)
        product[:, :-1] += self.decay * u[:, :-1]
        return np.asarray(product)

    def _solve(self, right: Float64Array) -> Float64Array:
        """H⁻¹ times a right side by conjugate gradients (Hestenes and Stiefel 1952)."""
        u, residual = np.zeros_like(right), right.copy()
        way, size = residual.copy(), float((residual**2).sum())
        enough = size * _LEFT**2
        for _ in range(_STEPS):
            if size <= enough:
                break
            along = self._times(way)
            step = size / float((way * along).sum())
            u, residual = u + step * way, residual - step * along
            before, size = size, float((residual**2).sum())
            way = residual + size / before * way
        return u

    def at_a_minimum(self) -> Check:
        """Whether the head is where fitting it to these examples would end."""
        ok = self.left <= _AT_A_MINIMUM
        return Check(
            "minimum",
            self.left,
            _AT_A_MINIMUM,
            ok,
            f"The head lies at a minimum of the loss over these examples: {self.left:.1%} of a gradient is left."
            if ok
            else f"The head is not at a minimum of the loss over these examples: {self.left:.0%} of an example's "
            f"gradient is left in their mean, and {_AT_A_MINIMUM:.0%} are allowed. Give the examples and labels that "
            "the last layer was fitted on; where it was stopped early, influence says nothing.",
        )


def _probabilities(scores: Float64Array) -> Float64Array:
    """Softmax of several scores [n, k], the sigmoid of one [n, 1]."""
    if scores.shape[1] == 1:
        return np.asarray(1 / (1 + np.exp(-scores)))
    shifted = np.exp(scores - scores.max(1, keepdims=True))
    return np.asarray(shifted / shifted.sum(1, keepdims=True))


def _one_hot(classes: Indices, count: int) -> Float64Array:
    """Labels as numbers [n, k]: of one score, whether it is class 1."""
    return classes[:, None].astype(float) if count == 1 else np.eye(count)[classes]
