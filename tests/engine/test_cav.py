"""CAVs in Gram space are the classifiers' own normals, for any layer, any weights and any origin."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from caveat_worker.engine.activations.gram import gram
from caveat_worker.engine.base.arrays import Float64Array
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.concepts.cav import (
    ESTIMATORS,
    cosine_matrix,
    direction,
    fit_cavs,
    projections,
    residual,
    sensitivity_by_position,
)


def layer(seed: int = 0, n_concept: int = 20, n_reference: int = 45, d: int = 300, shift: float = 0.15) -> Float64Array:
    rng = np.random.default_rng(seed)
    x: Float64Array = rng.normal(size=(n_concept + n_reference, d)) * np.arange(1, d + 1) ** -0.3 + 2
    x[:n_concept] += shift
    return x


def sides(n_concept: int, n: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    concept = np.arange(n) < n_concept
    return concept[None], ~concept[None]


def primal(x: Float64Array, positive: NDArray[np.bool_], regularisation: float) -> tuple[Float64Array, float]:
    """The primal solution over the activations themselves: unit normal and intercept."""
    origin = x.mean(0)
    c = 1 / (regularisation * float(((x - origin) ** 2).sum(1).mean()))
    model: Any = LogisticRegression(C=c, class_weight="balanced", tol=1e-12, max_iter=20_000).fit(x - origin, positive)
    w, intercept = np.ravel(model.coef_), float(np.ravel(model.intercept_)[0])
    norm = float(np.linalg.norm(w))
    return w / norm, (intercept - float(w @ origin)) / norm


@pytest.mark.parametrize("regularisation", [1.0, 0.01])
def test_logistic_cav_is_the_primal_solution(regularisation: float) -> None:
    x = layer()
    positives, negatives = sides(20, len(x))
    cavs = fit_cavs(gram(x), positives, negatives, "logistic", regularisation)
    v, (w, intercept) = direction(cavs.alpha[0], x), primal(x, positives[0], regularisation)
    assert np.linalg.norm(v) == pytest.approx(1)
    assert v @ w > 0.999999
    assert cavs.intercept[0] == pytest.approx(intercept, abs=2e-3)


def test_mean_difference_is_the_difference_of_means() -> None:
    x = layer()
    cavs = fit_cavs(gram(x), *sides(20, len(x)), "mean_difference")
    between = x[:20].mean(0) - x[20:].mean(0)
    np.testing.assert_allclose(direction(cavs.alpha[0], x), between / np.linalg.norm(between), atol=1e-10)
    middle = (x[:20].mean(0) + x[20:].mean(0)) / 2
    assert direction(cavs.alpha[0], x) @ middle + cavs.intercept[0] == pytest.approx(0, abs=1e-9)


def test_any_linear_classifier_of_scikit_learn_fits_on_gram_features() -> None:
    x = layer()
    positives, negatives = sides(20, len(x))
    k = gram(x)
    by_newton = fit_cavs(k, positives, negatives, "logistic").alpha[0]
    by_scikit_learn = fit_cavs(k, positives, negatives, "scikit_learn.LogisticRegression").alpha[0]
    assert cosine_matrix(k, np.stack([by_newton, by_scikit_learn]))[0, 1] > 0.9999


@pytest.mark.parametrize("name", [*ESTIMATORS, "scikit_learn.RidgeClassifier"])
def test_an_example_drawn_twice_counts_twice(name: str) -> None:
    x = layer()
    counts = np.random.default_rng(1).integers(0, 3, size=len(x))
    repeated = np.repeat(x, counts, axis=0)
    n_concept = int(counts[:20].sum())
    by_weight = fit_cavs(
        gram(x), np.where(np.arange(65) < 20, counts, 0)[None], np.where(np.arange(65) < 20, 0, counts)[None], name
    )
    scale = ((x - x.mean(0)) ** 2).sum(1).mean() / ((repeated - repeated.mean(0)) ** 2).sum(1).mean()
    by_copy = fit_cavs(gram(repeated), *sides(n_concept, len(repeated)), name, scale if "scikit" not in name else 1.0)
    cosine = direction(by_weight.alpha[0], x) @ direction(by_copy.alpha[0], repeated)
    assert cosine > (0.99 if "scikit" in name else 1 - 1e-9)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), name=st.sampled_from(list(ESTIMATORS)), scale=st.sampled_from([1e-4, 1.0, 1e4]))
def test_cav_turns_with_the_layer_and_ignores_its_origin_and_scale(seed: int, name: str, scale: float) -> None:
    rng = np.random.default_rng(seed)
    x = layer(seed % 1000, 8, 12, 15)
    turn = np.linalg.qr(rng.normal(size=(15, 15)))[0]
    moved = scale * (x @ turn) + rng.normal(size=15) * scale
    before, after = (fit_cavs(gram(each), *sides(8, 20), name) for each in (x, moved))
    np.testing.assert_allclose(direction(after.alpha[0], moved), direction(before.alpha[0], x) @ turn, atol=1e-5)
    np.testing.assert_allclose(
        after.alpha @ gram(moved) + after.intercept,
        scale * (before.alpha @ gram(x) + before.intercept),
        atol=1e-5 * scale,
    )


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 999), name=st.sampled_from(list(ESTIMATORS)))
def test_cav_changes_its_sign_with_the_sides(seed: int, name: str) -> None:
    x = layer(seed, 8, 12, 15)
    positives, negatives = sides(8, 20)
    there, back = fit_cavs(gram(x), positives, negatives, name), fit_cavs(gram(x), negatives, positives, name)
    np.testing.assert_allclose(there.alpha, -back.alpha, atol=1e-7)
    np.testing.assert_allclose(there.intercept, -back.intercept, atol=1e-7)


def test_many_fits_at_once_are_the_same_as_each_alone() -> None:
    x, rng = layer(), np.random.default_rng(0)
    sets = rng.permuted(np.tile(np.arange(65) < 20, (150, 1)), axis=1)
    k = gram(x)
    together = fit_cavs(k, sets, ~sets)
    for number in (0, 77, 149):
        alone = fit_cavs(k, sets[number : number + 1], ~sets[number : number + 1])
        np.testing.assert_allclose(together.alpha[number], alone.alpha[0], atol=1e-9)


def test_few_examples_of_many_are_fitted_on_their_own() -> None:
    x, rng = layer(), np.random.default_rng(0)
    order = rng.permuted(np.tile(np.arange(65), (9, 1)), axis=1)
    positives, negatives = order < 10, (order >= 10) & (order < 16 + np.arange(9)[:, None] % 3)
    cavs = fit_cavs(gram(x), positives, negatives, "logistic")
    for number in range(9):
        taken = positives[number] | negatives[number]
        sub = x[taken]
        scale = np.trace(np.cov(sub.T, ddof=0)) / np.trace(np.cov(x.T, ddof=0))  # the penalty is a share of all 65
        own, rest = positives[number : number + 1, taken], negatives[number : number + 1, taken]
        alone = fit_cavs(gram(sub), own, rest, "logistic", 1 / scale)
        np.testing.assert_allclose(cavs.alpha[number] @ x, alone.alpha[0] @ sub, atol=1e-7)
    np.testing.assert_allclose(cavs.along, cavs.alpha @ (x - x.mean(0)) @ (x - x.mean(0)).T, atol=1e-9)


def test_examples_outside_both_sides_do_not_matter() -> None:
    x = layer()
    positives, negatives = sides(20, len(x))
    negatives[:, 40:] = False
    cav = fit_cavs(gram(x), positives, negatives)
    assert not cav.alpha[0, 40:].any() or np.abs(cav.alpha[0, 40:] - cav.alpha[0, 40]).max() < 1e-12
    np.testing.assert_allclose(cav.alpha.sum(1), 0, atol=1e-10)


def test_an_unknown_estimator_is_refused_with_those_there_are() -> None:
    with pytest.raises(InvalidInput, match="logistic, mean_difference"):
        fit_cavs(gram(layer()), *sides(20, 65), "perceptor")


def test_a_constant_layer_is_refused() -> None:
    with pytest.raises(InvalidInput, match="the same for all 6 examples") as refused:
        fit_cavs(gram(np.ones((6, 4))), *sides(3, 6))
    assert refused.value.code == "layer-constant"


def test_an_empty_side_is_refused() -> None:
    with pytest.raises(InvalidInput, match="both sides"):
        fit_cavs(gram(layer()), *sides(0, 65))


def test_cosines_are_those_of_the_directions() -> None:
    x = layer()
    k = gram(x)
    alphas = np.concatenate([fit_cavs(k, *sides(20, 65)).alpha, fit_cavs(k, *sides(30, 65)).alpha])
    vs = np.stack([direction(alpha, x) for alpha in alphas])
    np.testing.assert_allclose(cosine_matrix(k, alphas), vs @ vs.T, atol=1e-10)


def test_directions_are_taken_out_of_the_layer_and_of_gradients() -> None:
    x, g = layer(), np.random.default_rng(0).normal(size=(5, 300))
    k = gram(x)
    alphas = np.concatenate([fit_cavs(k, *sides(size, 65)).alpha for size in (15, 45)])
    basis = np.linalg.qr(np.stack([direction(alpha, x) for alpha in alphas]).T)[0]
    left = x - x @ basis @ basis.T
    rest = residual(k, alphas)
    np.testing.assert_allclose(rest.k, gram(left), atol=1e-8)
    np.testing.assert_allclose(rest.products(g @ x.T), g @ left.T, atol=1e-8)
    own = fit_cavs(rest.k, *sides(30, 65)).alpha[0]
    np.testing.assert_allclose(direction(rest.lifted(own), x), direction(own, left), atol=1e-8)


def test_concepts_that_coincide_cannot_be_taken_out_together() -> None:
    k = gram(layer())
    alpha = fit_cavs(k, *sides(20, 65)).alpha
    with pytest.raises(InvalidInput, match="combination of the others"):
        residual(k, np.concatenate([alpha, alpha]))


def test_projections_are_in_standard_deviations() -> None:
    x = layer()
    along = projections(gram(x), fit_cavs(gram(x), *sides(20, 65)).alpha[0])
    assert along.std() == pytest.approx(1)
    assert along[:20].min() > along[20:].mean()


def test_sensitivity_by_position_sums_to_the_mean_sensitivity() -> None:
    rng = np.random.default_rng(0)
    gradients, v = rng.normal(size=(3, 5, 7)), rng.normal(size=(5, 7))
    flat, along = gradients.reshape(3, -1), v.ravel()
    by_pixel = sensitivity_by_position(flat, along, (5, 7, 1), 0)
    np.testing.assert_allclose(by_pixel[:, 0], np.einsum("mcp,cp->p", gradients, v) / 3)
    by_token = sensitivity_by_position(flat, along, (5, 7), 1)
    np.testing.assert_allclose(by_token, np.einsum("mtf,tf->t", gradients, v) / 3)
    assert by_pixel.sum() == pytest.approx((flat @ along).mean())
    assert by_token.sum() == pytest.approx((flat @ along).mean())
