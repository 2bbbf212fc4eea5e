"""Influence: which examples of a labelled set speak for a target's number, and which against it, at the last layer.

An example's influence is how the number differs from what it would be had the head been fitted without that example.
Where the head is small, that is one step of Newton's method from the whole fit (Pregibon 1981; with H the Hessian of
the regularised loss in the head's weights and H_i the example's own part, (H - H_i)⁻¹ by Woodbury's identity), and
where the set is small too, steps are repeated until they end. Of larger heads it is first order: (y - p)·(H⁻¹ ∇S) / n
(Koh and Liang 2017).

It means something only where the head lies at a minimum of the loss over these examples, which is checked. The strength
of the weight decay is estimated from the same condition: at a minimum the mean gradient is -λW.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from weakref import WeakKeyDictionary

import numpy as np

from caveat_spec.explanations import InfluenceOptions
from caveat_worker.engine.base.arrays import AnyArray, Float64Array, Indices
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.base.threads import on_one_thread
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
_DIRECT = 1024
"""Weights of a head, biases included, up to which its Hessian is written out and factorised."""
_FITTED_AGAIN = 200_000_000
"""Squared examples times weights, up to which the head without each example is fitted to the end."""
_REPEATED, _ENDS = 30, 1e-6
"""Steps of such a fit at most, and the share of the first at which they end."""


def cost(options: InfluenceOptions, shapes: Shapes) -> int:
    """The example's features and the target's gradient at the scores; the set is counted apart."""
    return FORWARD + GRADIENT


@on_one_thread
def influence(runs: Runs, x: AnyArray, options: InfluenceOptions) -> Attributed:
    """What each example of the set adds to the target's number [n, examples]."""
    before, data = runs.passes, runs.labelled(options.training, options.labels)
    _check_size(data, options)
    head = _head(data, options.decay)
    derivatives = runs.gradient(x, runs.scores_at)
    features = np.concatenate([runs.activations(x, data.layer).astype(float), np.ones((len(x), 1))], axis=1)
    values, way = head.influences(derivatives.astype(float), features)
    return Attributed(
        values,
        checks=(not_flat(derivatives), head.at_a_minimum()),
        passes=runs.passes - before,
        notes=(
            f"Of {len(data.classes)} examples of {options.training}, labelled by {options.labels}; each number is what "
            f"fitting the last layer without the example would take away, {way}. Weight decay "
            f"{head.decay:.3g}{'' if options.decay is not None else ', as the weights themselves tell'}.",
        ),
    )


def _head(data: Labelled, decay: float | None) -> _Head:
    """The loss of a labelled set, whose factors all examples that are explained share."""
    kept = _HEADS.setdefault(data, {})
    if decay not in kept:
        kept[decay] = _Head.of(data, decay)
    return kept[decay]


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
    classes: Indices
    """[n]"""
    scores: Float64Array
    """[n, classes]"""
    left: float
    """The mean gradient that weight decay does not account for, as a share of the gradients' mean size."""
    decay: float

    @classmethod
    def of(cls, data: Labelled, given: float | None) -> _Head:
        features = np.concatenate([data.features, np.ones((len(data.features), 1))], axis=1)
        p = _probabilities(data.scores)
        off = _one_hot(data.classes, p.shape[1]) - p
        mean = -off.T @ features / len(features)
        weights = np.concatenate([data.weights, np.zeros((len(data.weights), 1))], axis=1)
        told = -float((mean * weights).sum()) / max(float((weights**2).sum()), np.finfo(float).tiny)
        used = max(told if given is None else given, 0.0)
        size = float((np.linalg.norm(off, axis=1) * np.linalg.norm(features, axis=1)).mean())
        left = float(np.linalg.norm(mean + used * weights)) / max(size, np.finfo(float).tiny)
        decay = max(used, _LEAST_DECAY * float((data.features**2).sum(1).mean()))
        return cls(features, p, off, data.classes, data.scores, left, decay)

    def influences(self, derivatives: Float64Array, features: Float64Array) -> tuple[Float64Array, str]:
        """What each example adds to numbers [numbers, examples], and how exactly that was computed.

        The numbers' derivatives are these by scores [numbers, classes], at these features [numbers, d + 1].
        """
        if derivatives.shape[1] > 1:
            derivatives = derivatives - derivatives.mean(1, keepdims=True)  # no loss moves all scores together
        weights = self.p.shape[1] * self.features.shape[1]
        if weights > _DIRECT:
            u = [self._solve(np.outer(*each)) for each in zip(derivatives, features, strict=True)]
            found = [(self.off * (self.features @ one.T)).sum(1) / len(self.features) for one in u]
            return np.stack(found), "to first order"
        moved, way = self._without_each
        right = (derivatives[:, :, None] * features[:, None]).reshape(len(features), -1)
        return right @ moved.reshape(len(moved), -1).T, way

    @cached_property
    def _without_each(self) -> tuple[Float64Array, str]:
        """The head less the head without each example [n, classes, d + 1], and in words how far it was followed."""
        (n, k), d = self.p.shape, self.features.shape[1]
        sides = np.asarray(np.linalg.inv(self._hessian()), float)
        wide = np.ascontiguousarray((self.features @ sides.reshape(k, d, -1)).swapaxes(0, 1))
        own = (wide.reshape(n, k, k, d) * self.features[:, None, None]).sum(3)  # wide: H⁻¹ at its features [n, k, k·d]
        curved = self.p[:, :, None] * ((np.eye(k) if k > 1 else 1.0) - self.p[:, None, :])
        woodbury = np.asarray(np.linalg.inv(np.eye(k) - curved @ own), float)  # Woodbury's factor (I - C M)⁻¹
        moved: Float64Array = (self.off[:, None] @ woodbury.swapaxes(1, 2) @ wide).reshape(n, k, d)
        if n**2 * k * d > _FITTED_AGAIN:
            return moved, "by one step of Newton's method"
        factor = woodbury @ curved
        for _ in range(_REPEATED):
            step = self._step(moved, sides, wide, factor)
            moved += step
            if np.abs(step).max() <= _ENDS * np.abs(moved).max():
                break
        return moved, "by fitting it again"

    def _step(self, moved: Float64Array, sides: Float64Array, wide: Float64Array, factor: Float64Array) -> Float64Array:
        """What is still missing of the way to the head without each example, with the Hessian of the whole fit."""
        (n, k), d = self.p.shape, self.features.shape[1]
        z = self.scores - (moved.reshape(-1, d) @ self.features.T).reshape(n, k, n).swapaxes(1, 2)
        off = _one_hot(self.classes, k) - _probabilities(z.reshape(-1, k)).reshape(n, n, k)
        off[np.arange(n), np.arange(n)] = 0  # the example itself is left out
        slope = (off.swapaxes(1, 2).reshape(-1, n) @ self.features).reshape(n, k, d)
        slope -= self.off.T @ self.features  # what is left at the whole fit stays left
        slope[:, :, :-1] += n * self.decay * moved[:, :, :-1]
        right = slope.reshape(n, 1, -1)
        beside = right @ wide.swapaxes(1, 2) @ factor.swapaxes(1, 2)
        return np.asarray(-(right @ sides + beside @ wide).reshape(n, k, d))

    def _hessian(self) -> Float64Array:
        """n times the Hessian [classes·(d + 1), …], and more along all biases together, which no loss sees."""
        (n, k), d = self.p.shape, self.features.shape[1]
        whole = np.empty((k, d, k, d))
        for one in range(k):
            for other in range(one, k):
                curve = self.p[:, one] * ((one == other) - self.p[:, other])
                whole[one, :, other] = (self.features * curve[:, None]).T @ self.features
                whole[other, :, one] = whole[one, :, other]
            whole[one, range(d - 1), one, range(d - 1)] += n * self.decay
        if k > 1:
            whole[:, d - 1, :, d - 1] += n / k
        return whole.reshape(k * d, k * d)

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


_HEADS: WeakKeyDictionary[Labelled, dict[float | None, _Head]] = WeakKeyDictionary()
