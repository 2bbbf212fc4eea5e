"""A layer with few features gives the same numbers by its features as by the inner products of its examples."""

from __future__ import annotations

import numpy as np
import pytest

from caveat_spec.results import Figures
from caveat_worker.engine.activations.feature_space import FactoredProducts, in_feature_space
from caveat_worker.engine.activations.gram import (
    AnyProducts,
    centred,
    gram,
    inner_products,
    isometric_features,
    products,
    trace,
)
from caveat_worker.engine.base.arrays import Float64Array
from caveat_worker.engine.concepts import cav, linear_models
from caveat_worker.engine.concepts.cav import (
    ESTIMATORS,
    SCIKIT_LEARN,
    cosine_matrix,
    direction,
    fit_cavs,
    mean_differences,
    projections,
    residual,
)
from caveat_worker.engine.concepts.concept_test import cav_of, run_concept_test
from caveat_worker.engine.concepts.fit_problem import ConceptData, Settings, TargetData
from caveat_worker.engine.statistics.resampling import random_sets

N, D, TARGETS = 120, 9, 30
EVERY = [*ESTIMATORS, *(f"scikit_learn.{name}" for name in SCIKIT_LEARN)]
QUICK = Settings(runs=40, permutations=39, bootstrap=40, alpha=0.1, cross_check="logistic")


@pytest.fixture
def x() -> Float64Array:
    """Features [N, D]: a concept's rows, its reference's, and targets, away from the origin, and of several sizes."""
    rng = np.random.default_rng(3)
    found = 5 + rng.normal(size=(N, D)) * np.geomspace(0.1, 3, D)
    found[:35] += 0.8 * np.geomspace(0.1, 3, D) * (np.arange(D) % 3 == 0)
    return found


def in_both(x: Float64Array) -> tuple[AnyProducts, AnyProducts]:
    """The same Gram matrix, multiplied out and not."""
    return gram(x), FactoredProducts(x, x)


def test_products_that_are_not_multiplied_out_are_used_like_those_that_are(x: Float64Array) -> None:
    whole, factored = in_both(x)
    rng, some = np.random.default_rng(0), np.arange(5, 60)
    rows, columns = rng.normal(size=(4, N)), rng.normal(size=(N, 4))
    close = {"rtol": 1e-12, "atol": 1e-10}
    np.testing.assert_allclose(rows @ factored, rows @ whole, **close)
    np.testing.assert_allclose(factored @ columns, whole @ columns, **close)
    np.testing.assert_allclose(factored[some] @ columns, whole[some] @ columns, **close)
    np.testing.assert_allclose(factored[:, some] @ columns[some], whole[:, some] @ columns[some], **close)
    np.testing.assert_allclose(factored.mean(1), whole.mean(1), **close)
    np.testing.assert_allclose(factored.mean(0), whole.mean(0), **close)
    np.testing.assert_allclose(factored.diagonal(), whole.diagonal(), **close)
    assert trace(factored) == pytest.approx(trace(whole), rel=1e-12)
    assert factored.size() == pytest.approx(float(np.linalg.norm(whole)), rel=1e-12)
    part = factored[np.ix_(some, some)]
    assert part.left is part.right, "a part of a Gram matrix is one"
    np.testing.assert_allclose(
        rows[:, some] @ centred(part), rows[:, some] @ centred(whole[np.ix_(some, some)]), **close
    )
    features, inverse = isometric_features(centred(factored))
    np.testing.assert_allclose(features @ features.T, centred(whole), **close)
    np.testing.assert_allclose(features.T @ inverse, np.eye(D), atol=1e-9)


@pytest.mark.parametrize("estimator", EVERY)
@pytest.mark.parametrize("share", [0.1, 0.45])
def test_every_estimator_finds_the_same_cavs_in_both_spaces(x: Float64Array, estimator: str, share: float) -> None:
    """Also where each fit is of a few examples alone, which have inner products of their own."""
    rng = np.random.default_rng(1)
    positives = random_sets(N, int(share * N), 6, rng)
    negatives = ~positives & (rng.random((6, N)) < (0.2 if share < 0.2 else 1))
    by_examples, by_features = (fit_cavs(k, positives, negatives, estimator) for k in in_both(x))
    for one, other in zip(by_examples.alpha, by_features.alpha, strict=True):
        np.testing.assert_allclose(direction(other, x), direction(one, x), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(by_features.along, by_examples.along, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(by_features.intercept, by_examples.intercept, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("share", [0.02, 0.5])
@pytest.mark.parametrize("negatives_are", ["all others", "some others", "counted"])
def test_normals_by_mean_difference_are_those_of_the_two_means(
    share: float, negatives_are: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However a side is summed: one by one, from the sum of the other side, or a part after the other."""
    monkeypatch.setattr(cav, "MOST_ROWS", 64)
    rng, n = np.random.default_rng(4), 300
    x = rng.normal(size=(n, D))
    x -= x.mean(0)
    positives = random_sets(n, int(share * n), 5, rng)
    negatives = ~positives
    if negatives_are != "all others":
        negatives &= rng.random(positives.shape) < share
    sides = [
        side * rng.integers(1, 4, side.shape) if negatives_are == "counted" else side for side in (positives, negatives)
    ]
    found = mean_differences(FactoredProducts(x, x), *sides)
    concept, rest = (side.astype(float) @ x / side.sum(1, keepdims=True) for side in sides)
    steps = np.linalg.norm(concept - rest, axis=1)
    np.testing.assert_allclose(found.steps, steps, rtol=1e-12)
    np.testing.assert_allclose(found.normals, (concept - rest) / steps[:, None], rtol=1e-9, atol=1e-12)
    middles = np.vecdot(found.normals, (concept + rest) / 2)
    np.testing.assert_allclose(found.intercept, -middles, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("problems", "regularisation"), [(1, 1.0), (40, 1.0), (40, 0.01)])
def test_logistic_fits_over_few_features_are_solved_by_a_matrix_of_them(
    problems: int, regularisation: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None by conjugate gradients, which rounding kept from their end over so few features."""
    rng, n = np.random.default_rng(5), 600
    x = rng.normal(size=(n, D)) * np.geomspace(0.1, 3, D)
    x[:60] += 0.5
    positives = random_sets(n, 60, problems, rng)
    positives[0] = np.arange(n) < 60
    by_examples = fit_cavs(gram(x), positives, ~positives, "logistic", regularisation)
    monkeypatch.setattr(linear_models, "CONJUGATE_STEPS", 0)
    monkeypatch.setattr(linear_models, "NEWTON_STEPS", 12)
    by_features = fit_cavs(FactoredProducts(x, x), positives, ~positives, "logistic", regularisation)
    np.testing.assert_allclose(by_features.along, by_examples.along, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(by_features.intercept, by_examples.intercept, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("estimator", ["mean_difference", "logistic"])
@pytest.mark.parametrize("seed", range(40))
def test_two_sides_that_are_alike_have_no_direction(seed: int, estimator: str) -> None:
    """What rounding leaves of their difference has no size that a fit could end by, and no direction to believe."""
    rng = np.random.default_rng(seed)
    side = rng.normal(size=(5, D)).astype(np.float32)[rng.integers(5, size=40)]
    x, positives = np.concatenate([side, side[rng.permutation(40)]]).astype(float), np.arange(80)[None] < 40
    x -= x.mean(0)
    for k in (FactoredProducts(x, x), gram(x)):
        found = fit_cavs(k, positives, ~positives, estimator)
        assert not found.along.any()
        assert not found.intercept.any()
    assert not mean_differences(FactoredProducts(x, x), positives, ~positives).normals.any()


def numbers(value: object) -> list[float]:
    """Every number of a document, in order."""
    if isinstance(value, dict):
        return [number for one in value.values() for number in numbers(one)]
    if isinstance(value, list):
        return [number for one in value for number in numbers(one)]
    return [float(value)] if isinstance(value, int | float) else []


def flags(figures: Figures) -> list[str]:
    return [flag.code for flag in figures.flags]


@pytest.mark.parametrize("estimator", ["mean_difference", "logistic", "scikit_learn.RidgeClassifier"])
@pytest.mark.parametrize("kind", ["plain", "pairs", "controlled"])
def test_a_whole_test_has_the_same_numbers_in_both_spaces(x: Float64Array, estimator: str, kind: str) -> None:
    rng = np.random.default_rng(2)
    g, settings = rng.normal(size=(TARGETS, D)), Settings(**{**vars(QUICK), "estimator": estimator})
    values, rows = rng.normal(size=TARGETS), np.arange(N)
    pairs = np.arange(35) if kind == "pairs" else None
    found = []
    for k in in_both(x):
        gx: AnyProducts = FactoredProducts(g, x) if isinstance(k, FactoredProducts) else products(g, x)
        data = ConceptData(k, rows[:35], rows[35:90], pairs=pairs, targets=rows[90:])
        if kind == "controlled":
            left = residual(k, cav_of(ConceptData(k, rows[60:80], rows[80:]), settings)[None])
            data, gx = ConceptData(left.k, rows[:35], rows[35:90], targets=rows[90:]), left.products(gx)
        found.append(run_concept_test(data, [TargetData(gx, values)], settings, np.random.default_rng(7)))
    by_examples, by_features = found
    assert flags(by_features.figures[0]) == flags(by_examples.figures[0])
    ours, theirs = (numbers(one.figures[0].model_dump(exclude={"flags"})) for one in (by_features, by_examples))
    assert ours == pytest.approx(theirs, rel=1e-9, abs=1e-9)
    np.testing.assert_allclose(by_features.alpha, by_examples.alpha, rtol=1e-8, atol=1e-10)
    assert by_features.step == pytest.approx(by_examples.step, rel=1e-9)


def test_cosines_and_projections_are_the_same_in_both_spaces(x: Float64Array) -> None:
    alphas = np.random.default_rng(0).normal(size=(3, N))
    alphas -= alphas.mean(1, keepdims=True)
    (whole, factored), some = in_both(x), np.arange(90, N)
    np.testing.assert_allclose(cosine_matrix(factored, alphas), cosine_matrix(whole, alphas), atol=1e-12)
    np.testing.assert_allclose(projections(factored[some], alphas[0]), projections(whole[some], alphas[0]), atol=1e-10)


def test_few_features_stay_features_and_many_are_multiplied_out(x: Float64Array) -> None:
    assert isinstance(inner_products(x.astype(np.float32)), FactoredProducts)
    assert isinstance(inner_products(x[: 2 * D - 1]), np.ndarray)
    assert in_feature_space(D, 2 * D)
    assert not in_feature_space(D, 2 * D - 1)
