"""Linear classifiers by their margins: many weighted fits over one Gram matrix, solved together.

Each problem r minimises over a normal `w = Xᵀα` and an intercept b, which is not penalised,

    Σᵢ sᵢ ℓ(yᵢ (w·xᵢ + b))  +  λ/2 ‖w‖²,

by Newton steps (Keerthi and DeCoste 2005; Chapelle 2007, "Training a support vector machine in the primal") whose
linear systems conjugate gradients solve in the inner product of `K`. One iteration of all problems is one matrix
product [R, n] @ [n, n], which is why five hundred fits take about as long as one over 100,000 features. Where the
examples that weigh anything are few, as in a run or a fold, each problem has a small Gram matrix of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from caveat_worker.engine.activations.feature_space import AnyProducts, FactoredProducts
from caveat_worker.engine.base.arrays import Float64Array, Indices
from caveat_worker.engine.base.errors import InvalidInput

Loss = Callable[[Float64Array], tuple[Float64Array, Float64Array, Float64Array]]
"""Margins to value, slope and curvature."""

BLOCK = 128
"""Problems solved together: few enough for the cache, and always the same, so that results do not depend on memory."""
MOST_WEIGHTS = 1 << 20
"""Of many examples fewer problems are solved together: their weights, slopes and steps are held at a time."""
FEW = 1 / 3
"""Of the examples: where no problem of a block has more than these, each is solved over its own."""
NEWTON_STEPS = 200
CONJUGATE_STEPS = 400


@dataclass(frozen=True)
class Normals:
    """`w = Xᵀα` and its intercept for R problems: `alpha` [R, n], `intercept` [R], and `fitted` [R, n], `alpha @ k`."""

    alpha: Float64Array
    intercept: Float64Array
    fitted: Float64Array


def logistic(margin: Float64Array) -> tuple[Float64Array, Float64Array, Float64Array]:
    """log(1 + e⁻ᵐ)."""
    miss = expit(-margin)
    return np.logaddexp(0.0, -margin), -miss, miss * (1 - miss)


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
    if most > FEW * len(k) or (isinstance(k, FactoredProducts) and most > k.left.shape[1]):
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
    found = Normals(np.zeros_like(weights), np.zeros(len(weights)), np.zeros_like(weights))
    active = np.arange(len(weights))
    alpha, fitted, intercept = np.zeros_like(weights), np.zeros_like(weights), np.zeros((len(weights), 1))
    total = weights.sum(1, keepdims=True)
    for _ in range(NEWTON_STEPS):
        value, slope, curvature = loss(signs * (fitted + intercept))
        slope, curvature = weights * signs * slope, weights * curvature
        objective = _dot(weights, value) + penalty / 2 * _dot(alpha, fitted)
        gradient, drift = penalty * alpha + slope, _sum(slope)  # by α, and by the intercept
        bend = np.maximum(_sum(curvature), 1e-300)
        residual = curvature * (drift / bend) - gradient  # the intercept's step is eliminated
        reach = _product(residual, k)
        error, size = _dot(residual, reach), _dot(alpha, fitted)
        done = ((error <= (tolerance * penalty) ** 2 * size) & (np.abs(drift) <= tolerance * total))[:, 0]
        found.alpha[active[done]], found.intercept[active[done]] = alpha[done], intercept[done, 0]
        found.fitted[active[done]] = fitted[done]
        if done.all():
            return found
        if done.any():
            rest = ~done
            k = k if isinstance(k, FactoredProducts) or k.ndim == 2 else k[rest]
            active, alpha, fitted, intercept, weights, signs, total = (
                each[rest] for each in (active, alpha, fitted, intercept, weights, signs, total)
            )
            curvature, bend, drift, gradient, objective, residual, reach, error, size = (
                each[rest] for each in (curvature, bend, drift, gradient, objective, residual, reach, error, size)
            )
        off = np.sqrt(np.maximum(error, 0.0)) / np.maximum(penalty * np.sqrt(np.maximum(size, 0.0)), 1e-30)
        step, move = _conjugate_gradients(k, curvature, bend, penalty, residual, reach, error, np.minimum(0.1, off))
        shift = -(drift + _dot(curvature, move)) / bend
        descent = _dot(gradient, move) + drift * shift
        length = _line_search(
            loss, weights, signs, penalty, (alpha, fitted, intercept), (step, move, shift), objective, descent
        )
        alpha, fitted, intercept = alpha + length * step, fitted + length * move, intercept + length * shift
    raise InvalidInput(
        "cav-does-not-converge",
        f"{len(active)} CAVs did not converge in {NEWTON_STEPS} Newton steps.",
        "Raise 'method.regularisation': it keeps a CAV determined where concept and reference are separable.",
    )


def _conjugate_gradients(
    k: AnyProducts,
    curvature: Float64Array,
    bend: Float64Array,
    penalty: float,
    residual: Float64Array,
    reach: Float64Array,
    error: Float64Array,
    accuracy: Float64Array,
) -> tuple[Float64Array, Float64Array]:
    """Solves `(λ + D̃ K) step = residual` for each problem, D̃ the curvature less its mean; returns `step`, `step K`."""
    step, move = np.zeros_like(residual), np.zeros_like(residual)
    direction, ahead = residual, reach
    goal = accuracy**2 * error
    for _ in range(CONJUGATE_STEPS):
        bent = curvature * ahead
        bent -= curvature * (_sum(bent) / bend)
        bent += penalty * direction
        length = _ratio(error, _dot(bent, ahead))
        step += length * direction
        move += length * ahead
        residual = residual - length * bent
        reach = _product(residual, k)
        left = _dot(residual, reach)
        if (left <= goal).all():
            break
        turn = np.where(left > goal * 1e-2, _ratio(left, error), 0.0)
        direction, ahead, error = residual + turn * direction, reach + turn * ahead, left
    return step, move


def _line_search(
    loss: Loss,
    weights: Float64Array,
    signs: Float64Array,
    penalty: float,
    at: tuple[Float64Array, Float64Array, Float64Array],
    along: tuple[Float64Array, Float64Array, Float64Array],
    objective: Float64Array,
    descent: Float64Array,
) -> Float64Array:
    """The first of 1, 1/2, 1/4 ... that lowers each objective enough (Armijo), up to rounding."""
    (alpha, fitted, intercept), (step, move, shift) = at, along
    length = np.ones_like(objective)
    for _ in range(40):
        value = loss(signs * (fitted + length * move + intercept + length * shift))[0]
        norm = _dot(alpha + length * step, fitted + length * move)
        reached = _dot(weights, value) + penalty / 2 * norm
        high = reached > objective + 1e-4 * length * descent + 1e-12 * np.abs(objective)
        if not high.any():
            break
        length = np.where(high, length / 2, length)
    return length


def _product(rows: Float64Array, k: AnyProducts) -> Float64Array:
    """Each row [R, n] times `k` [n, n], or times its own of `k` [R, n, n]."""
    found: Float64Array = rows @ k if isinstance(k, FactoredProducts) or k.ndim == 2 else (rows[:, None] @ k)[:, 0]
    return found


def _sum(rows: Float64Array) -> Float64Array:
    total: Float64Array = rows.sum(1, keepdims=True)
    return total


def _dot(left: Float64Array, right: Float64Array) -> Float64Array:
    total: Float64Array = np.vecdot(left, right)[:, None]
    return total


def _ratio(over: Float64Array, under: Float64Array) -> Float64Array:
    return np.where(under > 0, over / np.where(under > 0, under, 1.0), 0.0)
