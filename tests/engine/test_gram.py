"""Inner products in tiles equal inner products, and hold no more than a tile in float64."""

from pathlib import Path

import numpy as np
import pytest

from caveat_worker.engine.activations.gram import PANEL, Product, centred, gram, inner, isometric_features, products
from caveat_worker.engine.base.errors import InvalidInput


def test_gram_in_tiles_is_the_gram_matrix() -> None:
    x = np.random.default_rng(0).normal(size=(13, 101)).astype(np.float32)
    whole = x.astype(np.float64) @ x.astype(np.float64).T
    for tile_bytes in (1, 8 * 13 * 7, 2**20):
        np.testing.assert_allclose(gram(x, tile_bytes), whole, rtol=1e-12)


def test_gram_reads_a_memory_map(tmp_path: Path) -> None:
    stored = np.memmap(tmp_path / "activations", dtype=np.float32, mode="w+", shape=(5, 40))
    stored[:] = np.random.default_rng(0).normal(size=(5, 40))
    np.testing.assert_allclose(gram(stored, 256), stored.astype(float) @ stored.astype(float).T, rtol=1e-12)


def test_products_in_tiles_are_products() -> None:
    rng = np.random.default_rng(0)
    g, x = rng.normal(size=(4, 101)).astype(np.float32), rng.normal(size=(13, 101)).astype(np.float32)
    np.testing.assert_allclose(products(g, x, 512), g.astype(float) @ x.astype(float).T, rtol=1e-12)


def test_products_computed_together_are_those_computed_alone_to_the_last_bit() -> None:
    rng = np.random.default_rng(0)
    a, b, c = (rng.normal(size=(rows, 700)).astype(np.float32) for rows in (PANEL + 30, 2 * PANEL + 5, 40))
    pairs = [(a, a), (a, b), (c, b), (c, c)]
    together = [Product(left, right, np.full((len(left), len(right)), np.nan)) for left, right in pairs]
    inner(together, threads=3)
    for (left, right), product in zip(pairs, together, strict=True):
        np.testing.assert_array_equal(product.out, products(left, right))
        np.testing.assert_allclose(product.out, left.astype(float) @ right.astype(float).T, rtol=1e-9, atol=1e-9)


def test_gradient_along_a_direction_is_their_inner_product() -> None:
    """LIT's and tensorflow/tcav's case: gradient [0, 1, 2] along the CAV [1, 2, 3] is 8."""
    assert products(np.array([[0.0, 1.0, 2.0]]), np.array([[1.0, 2.0, 3.0]])) == 8


def test_layers_that_differ_in_size_are_refused() -> None:
    with pytest.raises(InvalidInput, match="3 features and activations 4") as refused:
        products(np.zeros((2, 3)), np.zeros((2, 4)))
    assert refused.value.code == "layer-size-differs"


def test_activations_that_are_not_finite_are_refused() -> None:
    x = np.ones((4, 3))
    x[1, 2] = np.nan
    with pytest.raises(InvalidInput, match="not finite"):
        gram(x)


def test_centring_moves_the_origin_to_the_mean() -> None:
    x = np.random.default_rng(0).normal(size=(9, 5)) + 3
    np.testing.assert_allclose(centred(gram(x)), gram(x - x.mean(0)), atol=1e-12)


def test_isometric_features_have_the_layer_s_inner_products() -> None:
    k = centred(gram(np.random.default_rng(0).normal(size=(9, 50))))
    features, inverse = isometric_features(k)
    assert features.shape == (9, 8)  # centring takes one direction away
    np.testing.assert_allclose(features @ features.T, k, atol=1e-9)
    np.testing.assert_allclose(features.T @ inverse, np.eye(8), atol=1e-9)
