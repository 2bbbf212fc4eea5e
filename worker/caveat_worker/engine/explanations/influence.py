"""Influence: which examples of a labelled set speak for a target's number, and which against it, at the last layer.

An example's influence is how the number differs from what it would be had the head been fitted without that example.
Where the head is small, that is one step of Newton's method from the whole fit (Pregibon 1981; with H the Hessian of
the regularised loss in the head's weights and H_i the example's own part, (H - H_i)⁻¹ by Woodbury's identity), and
where the set is small too, steps are repeated until they end. Of larger heads it is first order: (y - p)·(H⁻¹ ∇S) / n
(Koh and Liang 2017).

On its own label, an example's influence is what fitting the head without it takes from log p of the label that it has:
wrong labels are held up by nothing else, and come first (Koh and Liang 2017, section 5.4).

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
"""Weights of a head, biases included, up to which its Hessian is written out and inverted."""
_DIRECT_FOR_OWN = 4096
"""The same for influence on own labels, for which conjugate gradients would take one run for each example."""
_FITTED_AGAIN = 200_000_000
"""Squared examples times weights, up to which the head without each example is fitted to the end."""
_AGAIN, _ONE_STEP = "by fitting it again", "by one step of Newton's method"
_REPEATED, _ENDS = 30, 1e-6
"""Steps of such a fit at most, and the share of the first at which they end."""


def cost(options: InfluenceOptions, shapes: Shapes) -> int:
    """The example's features and the target's gradient at the scores; the set is counted apart."""
    return FORWARD + GRADIENT


@on_one_thread
def influence(runs: Runs, x: AnyArray, options: InfluenceOptions) -> Attributed:
    """What each example of the set adds to the target's number, or to log p of its own label [n, examples]."""
    before, data = runs.passes, runs.labelled(options.training, options.labels)
    _check_size(data, options)
    head = _head(data, options.decay)
    checks: tuple[Check, ...] = (head.at_a_minimum(),)
    if options.on == "own_label":
        values, way = head.on_own_labels()
        values, taken = np.tile(values, (len(x), 1)), "take from log p of its own label"
    else:
        derivatives = runs.gradient(x, runs.scores_at)
        features = np.concatenate([runs.activations(x, data.layer).astype(float), np.ones((len(x), 1))], axis=1)
        values, way = head.influences(derivatives.astype(float), features)
        checks, taken = (not_flat(derivatives), *checks), "take away"
    return Attributed(
        values,
        checks=checks,
        passes=runs.passes - before,
        notes=(
            f"Of {len(data.classes)} examples of {options.training}, labelled by {options.labels}; each number is what "
            f"fitting the last layer without the example would {taken}, {way}. Weight decay "
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
class _OneStep:
    """Newton's step from the whole fit to the head without each example."""

    inverse: Float64Array
    """Of n times the Hessian [m·(d + 1), …]."""
    own: Float64Array
    """What a unit of an example's loss moves its own scores by [n, m, m]."""
    taken: Float64Array
    """What the head moves by is H⁻¹ of this, at the example's features [n, m]."""
    factor: Float64Array
    """What Woodbury's identity adds to H⁻¹ [n, m, m]."""


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

    @property
    def weights(self) -> int:
        """How many the head has that a loss can tell apart: of two classes and of one score as many."""
        return int(self.basis.shape[1] * self.features.shape[1])

    @cached_property
    def basis(self) -> Float64Array:
        """Directions across classes that a loss sees [classes, m], of length 1: all but that of all together."""
        k = self.p.shape[1]
        if k == 1:
            return np.ones((1, 1))
        return np.asarray(np.linalg.svd(np.eye(k) - 1 / k)[0][:, : k - 1])

    def influences(self, derivatives: Float64Array, features: Float64Array) -> tuple[Float64Array, str]:
        """What each example adds to numbers [numbers, examples], and how exactly that was computed.

        The numbers' derivatives are these by scores [numbers, classes], at these features [numbers, d + 1].
        """
        if self.p.shape[1] * self.features.shape[1] > _DIRECT:
            centred = derivatives @ self.basis @ self.basis.T  # no loss moves all scores together
            u = [self._solve(np.outer(*each)) for each in zip(centred, features, strict=True)]
            found = [(self.off * (self.features @ one.T)).sum(1) / len(self.features) for one in u]
            return np.stack(found), "to first order"
        right: Float64Array = (derivatives @ self.basis)[:, :, None] * features[:, None]
        if self._is_small:
            moved = self._without_each
            return right.reshape(len(right), -1) @ moved.reshape(len(moved), -1).T, _AGAIN
        step = self._one_step
        moved_by = (right.reshape(len(right), -1) @ step.inverse).reshape(right.shape)
        along = [moved_by[:, one] @ self.features.T * step.taken[:, one] for one in range(right.shape[1])]
        return np.asarray(sum(along)), _ONE_STEP

    def on_own_labels(self) -> tuple[Float64Array, str]:
        """What each example adds to log p of its own label [examples], and how exactly that was computed."""
        if self.weights > _DIRECT_FOR_OWN:
            raise InvalidInput(
                "head-too-large-for-own-labels",
                f"The influence of examples on their own labels is computed for last layers of up to "
                f"{_DIRECT_FOR_OWN:,} weights, and this one has {self.weights:,}.",
                "Leave `on: own_label` out for the influence on a target, or look for wrong labels by `pick: errors` "
                "with `label`, the most certain first.",
            )
        if self._is_small:
            there, way = (self._without_each @ self.features[:, :, None])[:, :, 0], _AGAIN
        else:
            there, way = (self._one_step.own @ self._one_step.taken[:, :, None])[:, :, 0], _ONE_STEP
        return self._log_p(self.scores) - self._log_p(self.scores - there @ self.basis.T), way

    def _log_p(self, scores: Float64Array) -> Float64Array:
        """log p of each example's own label [n]."""
        if scores.shape[1] == 1:
            return np.asarray(-np.logaddexp(0, -scores[:, 0] * (2 * self.classes - 1)))
        largest = scores.max(1, keepdims=True)
        whole = np.log(np.exp(scores - largest).sum(1)) + largest[:, 0]
        return np.asarray(scores[np.arange(len(scores)), self.classes] - whole)

    @property
    def _is_small(self) -> bool:
        """Whether the head without each example is fitted to the end."""
        (n, k), d = self.p.shape, self.features.shape[1]
        return bool(n**2 * k * d <= _FITTED_AGAIN)

    @cached_property
    def _one_step(self) -> _OneStep:
        """Newton's step to the head without each example, from the whole fit (Pregibon 1981)."""
        (n, _), d, m = self.p.shape, self.features.shape[1], self.basis.shape[1]
        curved = self._curved()
        inverse = np.asarray(np.linalg.inv(self._hessian(curved)), float)
        own = np.empty((n, m, m))
        for one in range(m):
            for other in range(one, m):
                block = inverse[one * d : (one + 1) * d, other * d : (other + 1) * d]
                own[:, one, other] = np.einsum("nd,nd->n", self.features @ block, self.features)
                own[:, other, one] = own[:, one, other]
        woodbury = np.asarray(np.linalg.inv(np.eye(m) - curved @ own), float)
        taken = (woodbury @ (self.off @ self.basis)[:, :, None])[:, :, 0]
        return _OneStep(inverse, own, taken, woodbury @ curved)

    @cached_property
    def _without_each(self) -> Float64Array:
        """The head less the head without each example [n, m, d + 1], each fitted again to the end."""
        step = self._one_step
        (n, _), d, m = self.p.shape, self.features.shape[1], self.basis.shape[1]
        # H⁻¹ at each example's features [n, m, m·(d + 1)]
        wide = np.ascontiguousarray((self.features @ step.inverse.reshape(m, d, -1)).swapaxes(0, 1))
        moved: Float64Array = (step.taken[:, None] @ wide).reshape(n, m, d)
        left = np.arange(n)
        for _ in range(_REPEATED):
            further = self._step(moved[left], left, step, wide[left])
            moved[left] += further
            left = left[np.abs(further).max((1, 2)) > _ENDS * np.abs(moved).max()]
            if not len(left):
                break
        return moved

    def _step(self, moved: Float64Array, rows: Indices, step: _OneStep, wide: Float64Array) -> Float64Array:
        """What is still missing of the way to the head without each of some rows, with the Hessian of the whole fit.

        Classes are the first axis of what is large, because sums over a short last axis are slow.
        """
        m, d = moved.shape[1:]
        along = (moved.swapaxes(0, 1).reshape(-1, d) @ self.features.T).reshape(m, -1)
        z = (self.basis @ along).reshape(-1, len(rows), len(self.features))
        np.subtract(self.scores.T[:, None], z, out=z)
        off = _one_hot(self.classes, len(z)).T[:, None] - _probabilities(z, axis=0)
        off[:, np.arange(len(rows)), rows] = 0  # the example itself is left out
        seen = (self.basis.T @ off.reshape(len(z), -1)).reshape(-1, len(self.features))
        slope = (seen @ self.features).reshape(m, -1, d).swapaxes(0, 1)
        slope = slope - self.basis.T @ (self.off.T @ self.features)  # what is left at the whole fit stays left
        slope[:, :, :-1] += len(self.features) * self.decay * moved[:, :, :-1]
        right = slope.reshape(len(rows), 1, -1)
        beside = right @ wide.swapaxes(1, 2) @ step.factor[rows].swapaxes(1, 2)
        return np.asarray(-(right[:, 0] @ step.inverse + (beside @ wide)[:, 0]).reshape(-1, m, d))

    def _curved(self) -> Float64Array:
        """The curvature of each example's loss in its scores [n, m, m], along the directions that a loss sees."""
        if self.p.shape[1] == 1:
            return np.asarray((self.p * (1 - self.p))[:, :, None])
        m, along = self.basis.shape[1], self.p @ self.basis
        squares = self.p @ (self.basis[:, :, None] * self.basis[:, None]).reshape(len(self.basis), -1)
        return np.asarray(squares.reshape(-1, m, m) - along[:, :, None] * along[:, None])

    def _hessian(self, curved: Float64Array) -> Float64Array:
        """n times the Hessian [m·(d + 1), …] along the directions that a loss sees."""
        n, d, m = len(self.p), self.features.shape[1], self.basis.shape[1]
        whole = np.empty((m, d, m, d))
        for one in range(m):
            for other in range(one, m):
                block = (self.features * curved[:, one, other, None]).T @ self.features
                whole[one, :, other] = whole[other, :, one] = block
            whole[one, range(d - 1), one, range(d - 1)] += n * self.decay
        return whole.reshape(m * d, m * d)

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


def _probabilities(scores: Float64Array, axis: int = 1) -> Float64Array:
    """Softmax of several scores along an axis, the sigmoid where there is one."""
    if scores.shape[axis] == 1:
        return np.asarray(1 / (1 + np.exp(-scores)))
    shifted = np.exp(scores - scores.max(axis, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis, keepdims=True))


def _one_hot(classes: Indices, count: int) -> Float64Array:
    """Labels as numbers [n, k]: of one score, whether it is class 1."""
    return classes[:, None].astype(float) if count == 1 else np.eye(count)[classes]


_HEADS: WeakKeyDictionary[Labelled, dict[float | None, _Head]] = WeakKeyDictionary()
