"""Concept activation vectors, as combinations of examples: a CAV is `v = Xᵀα`, and `α` [n] is what is kept.

`v` is the unit normal of a linear classifier of the concept against the reference set, pointing to the concept (Kim et
al. 2018, section 3.1). Every `α` here sums to zero, so `v` does not depend on where the layer has its origin.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from caveat_worker.engine.activations.feature_space import AnyProducts, FactoredProducts
from caveat_worker.engine.activations.gram import centred, isometric_features, trace
from caveat_worker.engine.base.arrays import Float64Array
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.concepts.linear_models import ROUNDING, Normals, logistic, minimise


@dataclass(frozen=True)
class Cavs:
    """R unit CAVs over n examples; `alpha @ k + intercept` [R, n] is over 0 on the side of the concept."""

    alpha: Float64Array  # [R, n]
    intercept: Float64Array  # [R]
    along: Float64Array  # [R, n] where each example lies along each CAV, from the mean of all

    def sensitivities(self, gx: AnyProducts) -> Float64Array:
        """The slope of a target along each CAV at each of its examples [R, m]; `gx` [m, n] is `G Xᵀ`."""
        found: Float64Array = self.alpha @ gx.T
        return found

    def projected_gaps(self, positives: NDArray[Any], negatives: NDArray[Any]) -> Float64Array:
        """How far the positives' mean lies from the negatives' along each CAV [R]; both [R, n]."""
        between = positives / positives.sum(1, keepdims=True) - negatives / negatives.sum(1, keepdims=True)
        found: Float64Array = np.vecdot(self.along, between)
        return found


@dataclass(frozen=True)
class FeatureCavs:
    """R unit CAVs by mean difference as the normals themselves, where the layer's features are few.

    A draw of which only sensitivities and gaps are asked is one product [R, n] @ [n, d], and `α` is never made.
    """

    normals: Float64Array  # [R, d]
    intercept: Float64Array  # [R]
    examples: Float64Array  # [n, d] centred
    steps: Float64Array  # [R] from the mean of the negatives to that of the positives

    @property
    def along(self) -> Float64Array:
        """Where each example lies along each CAV [R, n], from the mean of all."""
        found: Float64Array = self.normals @ self.examples.T
        return found

    def sensitivities(self, gx: AnyProducts) -> Float64Array:
        """The slope of a target along each CAV at each of its examples [R, m]."""
        assert isinstance(gx, FactoredProducts), "one layer is in one space"
        found: Float64Array = self.normals @ gx.left.T
        return found

    def projected_gaps(self, positives: NDArray[Any], negatives: NDArray[Any]) -> Float64Array:
        """The steps [R]: a CAV by mean difference points from one mean to the other."""
        return self.steps


def mean_differences(k: FactoredProducts, positives: NDArray[Any], negatives: NDArray[Any]) -> FeatureCavs:
    """The CAVs of `fit_cavs` by mean difference over centred features, for sides [R, n] that are not empty.

    A side [1, n] is that of every CAV.
    """
    of_concept = _sums(positives, k.left)
    all_others = positives.dtype == negatives.dtype == bool and np.array_equal(positives, ~negatives)
    of_rest = k.total - of_concept if all_others else _sums(negatives, k.left)
    counts = _counts(positives), _counts(negatives)
    concept, rest = of_concept / counts[0], of_rest / counts[1]
    normals = concept - rest
    steps = np.sqrt(np.vecdot(normals, normals))
    normals /= _or_infinite(steps[:, None], k, 1 / counts[0] + 1 / counts[1])
    return FeatureCavs(normals, -np.vecdot(normals, concept + rest) / 2, k.left, steps)


def _sums(side: NDArray[Any], features: Float64Array) -> Float64Array:
    """The sum of features [R, d] over examples that count so often [R, n]: what counts as nothing is not looked at."""
    found = np.zeros((len(side), features.shape[1]))
    if side.dtype == bool and FEW_MEMBERS * np.count_nonzero(side) <= side.size:
        for total, members in zip(found, side, strict=True):
            features[np.flatnonzero(members)].sum(0, out=total)
        return found
    for start in range(0, len(features), MOST_ROWS):
        some = slice(start, start + MOST_ROWS)
        if side[:, some].any():
            found += side[:, some].astype(np.float64, copy=False) @ features[some]
    return found


def _counts(side: NDArray[Any]) -> NDArray[Any]:
    """How much all examples count together [R, 1]; `sum` of truth values takes several times as long."""
    found: NDArray[Any] = np.count_nonzero(side, axis=1) if side.dtype == bool else side.sum(1)
    return found[:, None]


class Estimator(Protocol):
    """Normals of R classifiers over a centred Gram matrix."""

    def __call__(self, k: AnyProducts, weights: Float64Array, signs: Float64Array, penalty: float) -> Normals:
        """Weights [R, n] sum to the number of examples; `signs` [R, n] are 1 for the concept, -1 for the rest."""
        ...


ESTIMATORS: dict[str, Estimator] = {}
FEW_MEMBERS = 50
"""Sides of so many times fewer examples than there are are summed one by one: a product would look at all of them."""
MOST_ROWS = 1 << 13
"""Examples whose features are multiplied at a time: the numbers of a side are made double precision for as many."""
MOST_FEATURES, MOST_NUMBERS = 1 << 9, 1 << 23
"""Features that are turned into double precision at a time, and their numbers over all examples."""


def fit_cavs(
    k: AnyProducts,
    positives: NDArray[Any],
    negatives: NDArray[Any],
    estimator: str = "logistic",
    regularisation: float = 1.0,
    *,
    centre: bool = True,
) -> Cavs:
    """One CAV for each row of `positives` and `negatives` [R, n]: how often an example is on that side, 0 for not.

    Both sides weigh the same, whatever their sizes, and all weights of a fit sum to its number of examples: with the
    penalty `regularisation · τ`, τ the mean squared norm of the centred activations, `logistic` is scikit-learn's
    `LogisticRegression(C=1/(regularisation·τ), class_weight="balanced")`. An example that is drawn twice counts twice,
    exactly. `centre=False` promises that `k` is centred, and makes no copy of it. Raises InvalidInput for an unknown
    estimator, an empty side, or activations that are all the same.
    """
    origin, k = k.mean(1), centred(k) if centre else k
    scale = trace(k) / len(k)
    if not scale > 0:
        raise InvalidInput(
            "layer-constant",
            f"The layer is the same for all {len(k)} examples, so no direction in it can mean anything.",
            "Audit another layer.",
        )
    n_positive, n_negative = (side.sum(1, keepdims=True, dtype=float) for side in (positives, negatives))
    if not (n_positive.all() and n_negative.all()):
        raise InvalidInput(
            "few-examples",
            "A CAV needs examples on both sides.",
            "Give the concept and its reference set more examples.",
        )
    weights = positives / n_positive  # in place from here on: of many examples, room takes longer than arithmetic
    weights += negatives / n_negative
    weights *= (n_positive + n_negative) / 2
    signs = np.where(positives > 0, 1.0, -1.0)
    normals = estimator_named(estimator)(k, weights, signs, regularisation * scale)
    alpha, along = normals.alpha, normals.fitted
    alpha -= alpha.mean(1, keepdims=True)
    norm = np.sqrt(np.maximum(np.vecdot(along, alpha), 0.0))[:, None]
    norm = _or_infinite(norm, k, np.vecdot(alpha, alpha)[:, None])
    alpha /= norm
    along /= norm
    return Cavs(alpha, normals.intercept / norm[:, 0] - alpha @ origin, along)


def _or_infinite(norm: Float64Array, k: AnyProducts, squares: Float64Array) -> Float64Array:
    """The norms of normals `Xᵀα` [R, 1], infinite where they are but rounding; `squares` [R, 1] are those of each α.

    Of sides that are alike there is no direction: what rounding leaves of it, another processor leaves differently.
    """
    return np.where(norm > ROUNDING * np.sqrt(trace(k) * squares), norm, np.inf)


def estimator_named(name: str) -> Estimator:
    """The estimator of a name; `scikit_learn.X` is X fitted on isometric features of K. Raises InvalidInput."""
    if name in ESTIMATORS:
        return ESTIMATORS[name]
    library, _, classifier = name.partition(".")
    if library == "scikit_learn" and classifier in SCIKIT_LEARN:
        return from_scikit_learn(SCIKIT_LEARN[classifier])
    there = ", ".join([*ESTIMATORS, *(f"scikit_learn.{each}" for each in SCIKIT_LEARN)])
    raise InvalidInput("unknown-estimator", f"There is no estimator '{name}'.", f"Choose one of {there}.")


def estimator(name: str) -> Callable[[Estimator], Estimator]:
    """Registers an estimator under the name that an audit asks for it by."""

    def register(fit: Estimator) -> Estimator:
        assert name not in ESTIMATORS, f"two estimators are called {name}"
        ESTIMATORS[name] = fit
        return fit

    return register


@estimator("logistic")
def logistic_regression(k: AnyProducts, weights: Float64Array, signs: Float64Array, penalty: float) -> Normals:
    """Logistic regression with an L2 penalty, solved to its optimum."""
    return minimise(k, weights, signs, logistic, penalty)


@estimator("mean_difference")
def mean_difference(k: AnyProducts, weights: Float64Array, signs: Float64Array, penalty: float) -> Normals:
    """`w = μ⁺ − μ⁻`, the boundary half-way (FastCAV, Schmalwasser et al. 2025; pattern CAVs, Pahde et al. 2025)."""
    alpha = signs * weights
    alpha *= 2
    alpha /= weights.sum(1, keepdims=True)
    fitted = alpha @ k
    middle = np.vecdot(fitted, np.abs(alpha)) / 2
    return Normals(alpha, -middle, fitted)


def from_scikit_learn(make: Callable[[], Any]) -> Estimator:
    """Any linear classifier of scikit-learn, fitted on features [n, r] with the inner products of the layer.

    Features have a mean squared norm of 1, and the classifier its own penalty: exact where that does not change under a
    rotation (any L2 penalty, or none).
    """

    def fit(k: AnyProducts, weights: Float64Array, signs: Float64Array, penalty: float) -> Normals:
        scale = trace(k) / len(k)
        features, inverse = isometric_features(k / scale)
        normals, intercepts = [], []
        for weight, sign in zip(weights, signs, strict=True):
            used = weight > 0
            fitted = make().fit(features[used], sign[used], sample_weight=weight[used])
            normals.append(inverse @ np.ravel(fitted.coef_) / scale)
            intercepts.append(float(np.ravel(fitted.intercept_)[0]))
        return Normals(np.array(normals), np.array(intercepts), np.array(normals) @ k)

    return fit


def _classifier(module: str, name: str, **settings: Any) -> Callable[[], Any]:
    """Makes a classifier of scikit-learn, which is imported with the first: that takes longer than a small audit."""
    return lambda: getattr(import_module(f"sklearn.{module}"), name)(**settings)


SCIKIT_LEARN = {
    "LogisticRegression": _classifier("linear_model", "LogisticRegression", max_iter=10_000),
    "LinearSVC": _classifier("svm", "LinearSVC", random_state=0, max_iter=100_000),
    "RidgeClassifier": _classifier("linear_model", "RidgeClassifier"),
    "SGDClassifier": _classifier("linear_model", "SGDClassifier", random_state=0),
    "Perceptron": _classifier("linear_model", "Perceptron", random_state=0),
}
"""scikit-learn's linear classifiers, with their own defaults and a fixed seed."""


def direction(alpha: Float64Array, activations: NDArray[Any]) -> Float64Array:
    """The CAV itself, `v = Xᵀα` [d], from `alpha` [n] and its examples' activations [n, d]."""
    v = np.empty(activations.shape[1])
    width = min(MOST_FEATURES, max(1, MOST_NUMBERS // len(activations)))
    for start in range(0, len(v), width):
        tile = slice(start, start + width)
        v[tile] = alpha @ activations[:, tile].astype(np.float64)
    return v


def cosine_matrix(k: AnyProducts, alphas: Float64Array, *, out: Float64Array | None = None) -> Float64Array:
    """Cosines [q, q] between CAVs `alphas` [q, n] over one Gram matrix [n, n]: how entangled concepts are.

    `out` [n, n] takes the centred matrix.
    """
    inner = alphas @ centred(k, out=out) @ alphas.T
    norm = np.sqrt(np.maximum(np.diag(inner), 0.0))
    sizes = np.outer(norm, norm)
    cosines: Float64Array = np.divide(inner, sizes, out=np.zeros_like(inner), where=sizes > 0)
    return np.clip(cosines, -1.0, 1.0)


@dataclass(frozen=True)
class Residual:
    """A layer with CAVs `alphas` [q, n] taken out of every example: what is left of `x` is orthogonal to each of them.

    A concept that is tested there is tested beyond what it shares with the concepts behind those CAVs, which count as
    given. With `Pᵥ` the projection on their span, `X` becomes `X (1 − Pᵥ)`.
    """

    k: AnyProducts  # [n, n] inner products of what is left
    alphas: Float64Array  # [q, n]
    shares: Float64Array  # [q, n] each example's part in their span, as a combination of the CAVs

    def products(self, gx: AnyProducts) -> AnyProducts:
        """`G Xᵀ` [m, n] of any gradients with what is left of the examples."""
        if isinstance(gx, FactoredProducts):
            assert isinstance(self.k, FactoredProducts), "one layer is in one space"
            return FactoredProducts(gx.left, self.k.right)
        left: Float64Array = gx - (gx @ self.alphas.T) @ self.shares
        return left

    def lifted(self, alpha: Float64Array) -> Float64Array:
        """A CAV [n] of what is left, as a combination of the examples themselves."""
        whole: Float64Array = alpha - (self.shares @ alpha) @ self.alphas
        return whole


def residual(k: AnyProducts, alphas: Float64Array) -> Residual:
    """The layer `k` [n, n] without the directions of `alphas` [q, n], each of which sums to zero.

    Raises InvalidInput where one CAV is a combination of the others.
    """
    along = alphas @ k  # [q, n]
    inner = along @ alphas.T
    if np.linalg.cond(inner) > 1e10:
        raise InvalidInput(
            "concepts-coincide",
            "One concept's CAV is a combination of the others', so they cannot be taken out side by side.",
            "Name fewer concepts in 'controlling_for'.",
        )
    shares = np.linalg.solve(inner, along).astype(np.float64, copy=False)
    if isinstance(k, FactoredProducts):
        rest = k.left - shares.T @ (alphas @ k.left)
        return Residual(FactoredProducts(rest, rest), alphas, shares)
    return Residual(k - along.T @ shares, alphas, shares)


def projections(cross: AnyProducts, alpha: Float64Array) -> Float64Array:
    """Where examples [e] lie along a CAV, in standard deviations from their mean; `cross` [e, n] is `E Xᵀ`."""
    along: Float64Array = cross @ alpha
    spread = float(along.std())
    return (along - along.mean()) / spread if spread > 0 else np.zeros_like(along)


def sensitivity_by_position(
    gradients: NDArray[Any], v: Float64Array, shape: Sequence[int], channels: int
) -> Float64Array:
    """The mean of `∇h·v` over examples, taken apart by position, so that the parts sum to it.

    Gradients [m, d] and `v` [d] are those of a whole layer of this shape, whose axis `channels` is summed.
    """
    products: Float64Array = (gradients.mean(axis=0, dtype=np.float64) * v).reshape(shape)
    parts: Float64Array = products.sum(channels)
    return parts
