"""Inner products of activations: all that a linear concept needs, whatever the size of a layer.

An L2-regularised linear classifier has its normal in the span of its examples, `w = Xᵀα` (the representer theorem;
Kimeldorf and Wahba 1971). So its fit needs `K = X Xᵀ`, and its sensitivities need `G Xᵀ`; both are computed once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.engine.errors import Refused
from worker.engine.threads import on_one_thread

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

TILE_BYTES = 32 * 2**20
"""A tile of activations in float64; two are held at a time."""


@on_one_thread
def gram(activations: NDArray[Any], tile_bytes: int = TILE_BYTES) -> Floats:
    """`K = X Xᵀ` of `X` [n, d] in float64 [n, n], read a tile of features at a time; `X` may be a float32 memmap."""
    n = activations.shape[0]
    k = np.zeros((n, n))
    for features in _tiles(activations.shape[1], n, tile_bytes):
        tile = _float64(activations[:, features])  # [n, tile]
        k += tile @ tile.T
    return _finite((k + k.T) / 2)


@on_one_thread
def products(gradients: NDArray[Any], activations: NDArray[Any], tile_bytes: int = TILE_BYTES) -> Floats:
    """`G Xᵀ` of gradients [m, d] and activations [n, d] in float64 [m, n], a tile of features at a time."""
    (m, width), (n, features) = gradients.shape, activations.shape
    if width != features:
        raise Refused(
            "layer-size-differs",
            f"Gradients have {width} features and activations {features}.",
            "Take both at the same layer with the same reduction.",
        )
    found = np.zeros((m, n))
    for tile in _tiles(width, m + n, tile_bytes):
        found += _float64(gradients[:, tile]) @ _float64(activations[:, tile]).T
    return _finite(found)


def centred(k: Floats) -> Floats:
    """The Gram matrix [n, n] of the same examples with their mean as the origin."""
    column = k.mean(0)
    moved: Floats = k - column - column[:, None] + column.mean()
    return moved


def isometric_features(k: Floats, tolerance: float = 1e-12) -> tuple[Floats, Floats]:
    """Features `Z` [n, r] with `Z Zᵀ = K`, and `Z (ZᵀZ)⁻¹` [n, r], which turns a normal over them into `α`.

    Directions whose eigenvalue is under `tolerance` of the largest are rounding, and are left out.
    """
    values, vectors = np.linalg.eigh(k)
    kept = values > tolerance * max(values[-1], 0.0)
    roots = np.sqrt(values[kept])
    return vectors[:, kept] * roots, vectors[:, kept] / roots


def _tiles(features: int, rows: int, tile_bytes: int) -> Iterator[slice]:
    width = max(1, tile_bytes // (8 * max(rows, 1)))
    return (slice(start, start + width) for start in range(0, features, width))


def _float64(tile: NDArray[Any]) -> Floats:
    return np.ascontiguousarray(tile, dtype=np.float64)


def _finite(values: Floats) -> Floats:
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).any(axis=1).sum())
        raise Refused(
            "not-finite",
            f"Activations or gradients of {bad} examples are not finite numbers.",
            "Look for NaN or infinity in those inputs, or audit an earlier layer.",
        )
    return values
