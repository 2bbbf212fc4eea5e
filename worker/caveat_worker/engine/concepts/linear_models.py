"""Linear classifiers by their margins: many weighted fits over one Gram matrix, solved together.

Each problem r minimises over a normal `w = Xᵀα` and an intercept b, which is not penalised,

    Σᵢ sᵢ ℓ(yᵢ (w·xᵢ + b))  +  λ/2 ‖w‖²,

by Newton steps (Keerthi and DeCoste 2005; Chapelle 2007, "Training a support vector machine in the primal") whose
linear systems conjugate gradients solve in the inner product of `K`. One iteration of all problems is one matrix
product [R, n] @ [n, n], which is why five hundred fits take about as long as one over 100,000 features. Where the
examples that weigh anything are few, as in a run or a fold, each problem has a small Gram matrix of its own.

A fit begins in single precision, in which a product costs half. It ends in double: directions still come from single
precision there, but where they led to, and when a fit may end, is computed in double.

Over features [n, d] that are few, a Newton step is solved by a matrix [d, d] of them instead, which costs less than the
conjugate gradients that it spares: those of one problem read all features twice for each of hundreds of products.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caveat_worker.engine.activations.feature_space import AnyProducts, FactoredProducts
from caveat_worker.engine.activations.gram import trace
from caveat_worker.engine.base.arrays import Float64Array, Indices
from caveat_worker.engine.base.errors import InvalidInput

Floats = NDArray[np.floating[Any]]
"""Numbers in single or double precision."""
AnyFloatProducts = Floats | FactoredProducts
Loss = Callable[[Floats], tuple[Floats, Floats, Floats]]
"""Margins to value, slope and curvature."""

BLOCK = 128
"""Problems solved together: few enough for the cache, and always the same, so that results do not depend on memory."""
MOST_WEIGHTS = 1 << 20
"""Of many examples fewer problems are solved together: their weights, slopes and steps are held at a time."""
FEW = 1 / 3
"""Of the examples: where no problem of a block has more than these, each is solved over its own."""
NEWTON_STEPS = 200
CONJUGATE_STEPS = 400
ROUGH = 3e-5
"""Where single precision ends: its rounding is under this."""
ROUGH_STEPS = 20
"""Newton steps that may take directions from single precision; a fit that needs more goes on in double alone."""
ROUGH_EXAMPLES = 3000
"""Of more, sums in single precision round too much, and a copy of their Gram matrix takes too much memory."""
FEW_FEATURES, FEW_FOR_MANY = 64, 32
"""As many features make a matrix that costs less than conjugate gradients, for one problem and for a block of them."""
IN_CACHE = 1 << 15
"""Numbers of a layer's features that are weighted at a time, for which the processor's cache has room."""
MOST_OWN = 1 << 23
"""Inner products of the problems' own examples that a block may hold; where there are more, all share one matrix."""
LARGEST_ROUGH = 1e6
"""The largest `K / λ`, by its trace, on whose products rounding to single precision has no say, nor any on inverses."""
ROUNDING = 8 * float(np.finfo(np.float64).eps)
"""The share of a slope and of all features that rounding leaves of the difference between sides that are alike."""
TINY = 1e-30


@dataclass(frozen=True)
class Normals:
    """`w = Xᵀα` and its intercept for R problems: `alpha` [R, n], `intercept` [R], and `fitted` [R, n], `alpha @ k`."""

    alpha: Float64Array
    intercept: Float64Array
    fitted: Float64Array


def logistic(margin: Floats) -> tuple[Floats, Floats, Floats]:
    """log(1 + e⁻ᵐ), by one exponential that cannot overflow."""
    small = np.exp(-np.abs(margin))
    larger = 1 / (1 + small)
    smaller = small * larger
    return np.log1p(small) - np.minimum(margin, 0), -np.where(margin < 0, larger, smaller), smaller * larger


def minimise(
    k: AnyProducts, weights: Float64Array, signs: Float64Array, loss: Loss, penalty: float, tolerance: float = 1e-9
) -> Normals:
    """The minimisers of R problems over a centred Gram matrix [n, n]; `weights` and `signs` [R, n].

    `‖w − w*‖ ≤ ‖gradient‖ / λ` by strong convexity, and a fit ends when that is under `tolerance` times `‖w‖`: the
    error of every normal is bounded, not hoped for. Raises InvalidInput for problems that do not get there.
    """
    size = min(BLOCK, max(1, MOST_WEIGHTS // len(k)))
    blocks = [slice(start, start + size) for start in range(0, len(weights), size)]
    solved = [_over_support(k, weights[block], signs[block], loss, penalty, tolerance) for block in blocks]
    alpha, intercept, fitted = (
        np.concatenate([getattr(one, name) for one in solved]) for name in ("alpha", "intercept", "fitted")
    )
    return Normals(alpha, intercept, fitted)


def _over_support(
    k: AnyProducts, weights: Float64Array, signs: Float64Array, loss: Loss, penalty: float, tolerance: float
) -> Normals:
    """A block's minimisers, over the examples that weigh anything where those are few: the others' α is zero."""
    most = int((weights > 0).sum(1).max())
    many = most > FEW * len(k) or len(weights) * most**2 > MOST_OWN
    if many or (isinstance(k, FactoredProducts) and most > k.left.shape[1]):
        return _newton(k, weights, signs, loss, penalty, tolerance)
    own = np.argsort(weights <= 0, axis=1, kind="stable")[:, :most]
    weights_there, signs_there = (np.take_along_axis(each, own, axis=1) for each in (weights, signs))
    found = _newton(_own_products(k, own), weights_there, signs_there, loss, penalty, tolerance)
    alpha = np.zeros_like(weights)
    np.put_along_axis(alpha, own, found.alpha, axis=1)
    return Normals(alpha, found.intercept, alpha @ k)


def _own_products(k: AnyProducts, own: Indices) -> Float64Array:
    """The inner products [R, s, s] of each problem's own examples [R, s]."""
    if isinstance(k, FactoredProducts):
        there = k.left[own]
        return there @ np.swapaxes(there, 1, 2)
    return k[own[:, :, None], own[:, None, :]]


def _newton(
    k: AnyProducts, weights: Float64Array, signs: Float64Array, loss: Loss, penalty: float, tolerance: float
) -> Normals:
    """The same over `k` [n, n], or over one for each problem [R, n, n]."""
    rough = _in_single_precision(k, penalty)
    alpha, intercept = np.zeros_like(weights), np.zeros((len(weights), 1))
    if rough is not None:
        start = _State.of(rough, *(each.astype(np.float32) for each in (weights, signs, alpha, intercept)))
        begun, _ = _descend(start, None, loss, 1.0, ROUGH, ROUGH_STEPS)
        alpha, intercept = begun.alpha.astype(np.float64) / penalty, begun.intercept[:, None].astype(np.float64)
    found, left = _descend(
        _State.of(k, weights, signs, alpha, intercept), rough, loss, penalty, tolerance, NEWTON_STEPS
    )
    if left:
        raise InvalidInput(
            "cav-does-not-converge",
            f"{left} CAVs did not converge in {NEWTON_STEPS} Newton steps.",
            "Raise 'method.regularisation': it keeps a CAV determined where concept and reference are separable.",
        )
    return found


def _in_single_precision(k: AnyProducts, penalty: float) -> Floats | None:
    """`K / λ` in single precision, of few examples and where the penalty is not tiny; features are few anyway."""
    if isinstance(k, FactoredProducts) or k.shape[-1] > ROUGH_EXAMPLES:
        return None
    if _trace(k) > LARGEST_ROUGH * penalty:
        return None
    return np.multiply(k, 1 / penalty, out=np.empty(k.shape, np.float32), casting="same_kind")


@dataclass(frozen=True)
class _State:
    """R problems on their way, all in one precision."""

    k: AnyFloatProducts
    """[n, n], or one for each problem [R, n, n]."""
    weights: Floats  # [R, n]
    signs: Floats  # [R, n]
    alpha: Floats  # [R, n]
    intercept: Floats  # [R, 1]
    fitted: Floats  # [R, n]

    @classmethod
    def of(cls, k: AnyFloatProducts, weights: Floats, signs: Floats, alpha: Floats, intercept: Floats) -> _State:
        """The state at some normals and intercepts."""
        fitted = _product(alpha, k) if alpha.any() else np.zeros_like(alpha)
        return cls(k, weights, signs, alpha, intercept, fitted)

    def rows(self, rest: NDArray[np.bool_]) -> _State:
        """Some of the problems."""
        rows = (each[rest] for each in (self.weights, self.signs, self.alpha, self.intercept, self.fitted))
        return _State(_own(self.k, rest), *rows)


def _descend(
    state: _State, rough: AnyFloatProducts | None, loss: Loss, penalty: float, tolerance: float, most: int
) -> tuple[Normals, int]:
    """Where at most so many Newton steps lead, in the precision of the state, and how many problems did not arrive.

    Directions come from `rough`, `K / λ` in single precision, where it is given, or from a matrix of few features. A
    fit ends, too, where no feature tells its gradient from rounding: of sides that are alike, so is the size of α.
    """
    found = Normals(np.zeros_like(state.alpha), np.zeros_like(state.alpha[:, 0]), np.zeros_like(state.alpha))
    active: Indices = np.arange(len(state.alpha))
    whole = _trace(state.k)
    invertible = whole <= LARGEST_ROUGH * penalty
    value, by_margin, bends = loss(state.signs * (state.fitted + state.intercept))
    for step in range(most + 1):
        slope: Floats = state.weights * state.signs * by_margin
        curvature: Floats = state.weights * bends
        gradient: Floats = penalty * state.alpha + slope  # by α
        drift = _sum(slope)  # by the intercept
        bend: Floats = np.maximum(_sum(curvature), TINY)
        residual: Floats = curvature * (drift / bend) - gradient  # the intercept's step is eliminated
        reach = _product(residual, state.k)
        error, size = _dot(residual, reach), _dot(state.alpha, state.fitted)
        close = np.abs(drift) <= tolerance * _sum(state.weights)
        terms = _dot(slope, slope) + penalty**2 * _dot(state.alpha, state.alpha)
        still = error <= ROUNDING**2 * whole * terms
        done = (((error <= (tolerance * penalty) ** 2 * size) | (still & (step > 0))) & close)[:, 0]
        ended = done if step < most else np.ones_like(done)
        found.alpha[active[ended]], found.fitted[active[ended]] = state.alpha[ended], state.fitted[ended]
        found.intercept[active[ended]] = state.intercept[ended, 0]
        if ended.all():
            break
        if done.any():
            rest = ~done
            active, state, rough = active[rest], state.rows(rest), None if rough is None else _own(rough, rest)
            curvature, bend, drift, gradient, residual, reach, error, size, value = (
                each[rest] for each in (curvature, bend, drift, gradient, residual, reach, error, size, value)
            )
        off = np.sqrt(np.maximum(error, 0)) / np.maximum(penalty * np.sqrt(np.maximum(size, 0)), TINY)
        accuracy = np.minimum(0.1, off)
        directions = state.k if rough is None or step >= ROUGH_STEPS else rough
        scale = penalty if directions is state.k else 1.0
        residual, reach = residual / penalty, reach / penalty * (scale / penalty)
        if invertible and isinstance(state.k, FactoredProducts) and _has_few_features(state.k, len(active)):
            along = _by_features(state.k.left, scale, curvature, bend, residual)
            ahead = _product(along, state.k)
        else:
            along, ahead = _conjugate_gradients(directions, scale, curvature, bend, residual, reach, accuracy)
            if directions is not state.k:
                along = along.astype(np.float64)
                ahead = _product(along, state.k)
        state, (value, by_margin, bends) = _moved(
            state, (along, ahead), value, loss, penalty, (gradient, drift, curvature, bend)
        )
    return found, int((~done).sum())


def _trace(k: AnyFloatProducts) -> float:
    """The trace of K, the largest where each problem has its own."""
    return trace(k) if isinstance(k, FactoredProducts) else float(np.trace(k, axis1=-2, axis2=-1).max())


def _conjugate_gradients(
    k: AnyFloatProducts,
    scale: float,
    curvature: Floats,
    bend: Floats,
    residual: Floats,
    reach: Floats,
    accuracy: Floats,
) -> tuple[Floats, Floats]:
    """Solves `(1 + D̃ K / scale) step = residual` in the precision of `k`, D̃ the curvature less its mean.

    `reach` is `residual K`; returns `step` and `step K`.
    """
    dtype = k.left.dtype if isinstance(k, FactoredProducts) else k.dtype
    curvature, bend, residual, ahead = (each.astype(dtype) for each in (curvature, bend, residual, reach))
    step, move, direction = np.zeros_like(residual), np.zeros_like(residual), residual.copy()
    error = _dot(residual, ahead)
    goal = np.maximum(accuracy, 8 * np.finfo(dtype).eps).astype(dtype) ** 2 * error
    for _ in range(CONJUGATE_STEPS):
        bent = ahead - _dot(curvature, ahead) / bend
        bent *= curvature / dtype.type(scale)
        bent += direction
        length = _ratio(error, _dot(bent, ahead))
        step += length * direction
        move += length * ahead
        bent *= length
        residual -= bent
        reach = _product(residual, k)
        left = _dot(residual, reach)
        if (left <= goal).all():
            break
        turn = np.where(left > goal * 1e-2, _ratio(left, error), 0)
        direction *= turn
        direction += residual
        ahead *= turn
        ahead += reach
        error = left
    return step, move


def _has_few_features(k: FactoredProducts, problems: int) -> bool:
    features: int = k.left.shape[1]
    return features <= (FEW_FEATURES if problems == 1 else FEW_FOR_MANY)


def _by_features(x: Float64Array, scale: float, curvature: Floats, bend: Floats, residual: Floats) -> Floats:
    """The steps that `_conjugate_gradients` approaches, over features `x` [n, d].

    The matrix of that system has the inverse `1 − D̃ X (scale + XᵀD̃X)⁻¹ Xᵀ` (Woodbury).
    """
    middles, turned, own = curvature @ x, residual @ x, scale * np.eye(x.shape[1])  # [R, d]
    systems = [
        own + _weighted_gram(x, weights) - np.outer(middle, middle) / total
        for weights, middle, total in zip(curvature, middles, bend, strict=True)
    ]
    reach = np.linalg.solve(np.stack(systems), turned[..., None])[..., 0] @ x.T
    bent: Floats = reach - _dot(curvature, reach) / bend
    bent *= curvature
    return np.subtract(residual, bent, out=bent)


def _weighted_gram(x: Float64Array, weights: Floats) -> Float64Array:
    """`Xᵀ diag(weights) X` [d, d] of features [n, d]."""
    found, roots = np.zeros((x.shape[1], x.shape[1])), np.sqrt(weights)[:, None]
    size = max(1, IN_CACHE // x.shape[1])
    for start in range(0, len(x), size):
        part = x[start : start + size] * roots[start : start + size]
        found += part.T @ part
    return found


def _moved(
    state: _State,
    step: tuple[Floats, Floats],
    value: Floats,
    loss: Loss,
    penalty: float,
    at: tuple[Floats, Floats, Floats, Floats],
) -> tuple[_State, tuple[Floats, Floats, Floats]]:
    """The first of 1, 1/2, 1/4 ... of a step that lowers each objective enough (Armijo), up to rounding."""
    (along, ahead), (gradient, drift, curvature, bend) = step, at
    shift = -(drift + _dot(curvature, ahead)) / bend
    descent = _dot(gradient, ahead) + drift * shift
    objective = _dot(state.weights, value) + penalty / 2 * _dot(state.alpha, state.fitted)
    length, rounding = np.ones_like(objective), 1e3 * np.finfo(objective.dtype).eps * np.abs(objective)
    for _ in range(40):
        alpha, fitted = state.alpha + length * along, state.fitted + length * ahead
        intercept = state.intercept + length * shift
        losses = loss(state.signs * (fitted + intercept))
        reached = _dot(state.weights, losses[0]) + penalty / 2 * _dot(alpha, fitted)
        high = reached > objective + 1e-4 * length * descent + rounding
        if not high.any():
            break
        length = np.where(high, length / 2, length)
    return replace(state, alpha=alpha, fitted=fitted, intercept=intercept), losses


def _own(k: AnyFloatProducts, rest: NDArray[np.bool_]) -> AnyFloatProducts:
    """The products of some problems, which may be common to all."""
    return k if isinstance(k, FactoredProducts) or k.ndim == 2 else k[rest]


def _product(rows: Floats, k: AnyFloatProducts) -> Floats:
    """Each row [R, n] times `k` [n, n], or times its own of `k` [R, n, n]."""
    found: Floats = rows @ k if isinstance(k, FactoredProducts) or k.ndim == 2 else (rows[:, None] @ k)[:, 0]
    return found


def _sum(rows: Floats) -> Floats:
    total: Floats = rows.sum(1, keepdims=True)
    return total


def _dot(left: Floats, right: Floats) -> Floats:
    total: Floats = np.vecdot(left, right)[:, None]
    return total


def _ratio(over: Floats, under: Floats) -> Floats:
    return np.divide(over, under, out=np.zeros_like(over), where=under > 0)
