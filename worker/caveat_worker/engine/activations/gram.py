"""Inner products of activations: all that a linear concept needs, whatever the size of a layer.

An L2-regularised linear classifier has its normal in the span of its examples, `w = Xᵀα` (the representer theorem;
Kimeldorf and Wahba 1971). So its fit needs `K = X Xᵀ`, and its sensitivities need `G Xᵀ`; both are computed once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from caveat_worker.engine.activations.feature_space import AnyProducts, FactoredProducts, in_feature_space
from caveat_worker.engine.base.arrays import Float64Array
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.base.threads import on_one_thread

PANEL = 256
"""Examples on a side of one panel: a panel of inner products is the work of one thread."""
TILE_BYTES = 2 * 2**20
"""A panel's features in float64; two are held at a time by each thread."""


class Product(NamedTuple):
    """Two arrays, [m, d] and [n, d], and where their inner products [m, n] go."""

    left: NDArray[Any]
    right: NDArray[Any]
    out: Float64Array


def gram(
    activations: NDArray[Any], tile_bytes: int = TILE_BYTES, *, out: Float64Array | None = None, threads: int = 1
) -> Float64Array:
    """`K = X Xᵀ` of `X` [n, d] in float64 [n, n], read a tile of features at a time; `X` may be a float32 memmap."""
    return products(activations, activations, tile_bytes, out=out, threads=threads)


def inner_products(activations: NDArray[Any]) -> AnyProducts:
    """The Gram matrix of `X` [n, d], multiplied out where features are not few beside the examples."""
    if in_feature_space(activations.shape[1], len(activations)):
        x = finite(_float64(activations))
        return FactoredProducts(x, x)
    return gram(activations)


def products(
    gradients: NDArray[Any],
    activations: NDArray[Any],
    tile_bytes: int = TILE_BYTES,
    *,
    out: Float64Array | None = None,
    threads: int = 1,
) -> Float64Array:
    """`G Xᵀ` of gradients [m, d] and activations [n, d] in float64 [m, n], a tile of features at a time."""
    found = np.empty((len(gradients), len(activations))) if out is None else out
    inner([Product(gradients, activations, found)], threads, tile_bytes)
    return found


@on_one_thread
def inner(wanted: Sequence[Product], threads: int = 1, tile_bytes: int = TILE_BYTES) -> None:
    """Computes products in panels, so many at a time, the largest first, so that none is left to a single thread.

    Each panel is summed in one order by one thread: neither threads nor other products change a bit. Raises
    InvalidInput for arrays of different widths, and for numbers that are not finite.
    """
    for gradients, activations, _ in wanted:
        width, features = gradients.shape[1], activations.shape[1]
        if width != features:
            raise InvalidInput(
                "layer-size-differs",
                f"Gradients have {width} features and activations {features}.",
                "Take both at the same layer with the same reduction.",
            )
    found = [panel for product in wanted for panel in _panels_of(product)]
    found.sort(key=lambda panel: panel.out.size, reverse=True)
    with ThreadPoolExecutor(min(threads, len(found)) or 1) as workers:
        for _ in workers.map(partial(_fill, tile_bytes=tile_bytes), found):
            pass
    for product in wanted:
        if product.left is product.right:
            _mirror(product.out)
        finite(product.out)


def _panels_of(product: Product) -> Iterator[Product]:
    """A product in panels; of a Gram matrix those on its diagonal, whose two sides are one array, and above it."""
    left, right, out = product
    for above in panels(len(left)):
        rows = left[above]
        for beside in panels(len(right)):
            if left is not right or beside.start >= above.start:
                columns = rows if left is right and beside == above else right[beside]
                yield Product(rows, columns, out[above, beside])


def _fill(wanted: Product, tile_bytes: int) -> None:
    """Computes one panel, a tile of features after the other."""
    left, right, out = wanted
    width = max(1, tile_bytes // (8 * PANEL))
    panel = np.zeros(out.shape)  # `out` may be in a file
    for start in range(0, left.shape[1], width):
        tile = _float64(left[:, start : start + width])
        other = tile if left is right else _float64(right[:, start : start + width])
        panel += tile @ other.T
    out[...] = panel


def _mirror(k: Float64Array) -> None:
    """Fills what is under the diagonal of a Gram matrix by what is above it."""
    for above in panels(len(k)):
        k[above.stop :, above] = k[above, above.stop :].T


def panels(count: int) -> Iterator[slice]:
    """The rows of a matrix of so many, a panel's at a time: what is worked on of a matrix that may be in a file."""
    return (slice(start, start + PANEL) for start in range(0, count, PANEL))


@overload
def centred(k: Float64Array, *, out: Float64Array | None = None) -> Float64Array: ...
@overload
def centred(k: FactoredProducts, *, out: Float64Array | None = None) -> FactoredProducts: ...
def centred(k: AnyProducts, *, out: Float64Array | None = None) -> AnyProducts:
    """The Gram matrix [n, n] of the same examples with their mean as the origin; `out` may be `k` itself."""
    if isinstance(k, FactoredProducts):
        return k.centred()
    column = k.mean(0)
    mean = column.mean()
    moved: Float64Array = np.subtract(k, column, out=out)
    moved -= column[:, None]
    moved += mean
    return moved


def trace(k: AnyProducts) -> float:
    """The sum of the squared norms of a Gram matrix's examples."""
    return k.trace if isinstance(k, FactoredProducts) else float(np.trace(k))


def isometric_features(k: AnyProducts, tolerance: float = 1e-12) -> tuple[Float64Array, Float64Array]:
    """Features `Z` [n, r] with `Z Zᵀ = K`, and `Z (ZᵀZ)⁻¹` [n, r], which turns a normal over them into `α`.

    Directions whose eigenvalue is under `tolerance` of the largest are rounding, and are left out.
    """
    if isinstance(k, FactoredProducts):
        values, turned = np.linalg.eigh(k.left.T @ k.left)
        kept = values > tolerance * max(values[-1], 0.0)
        features = k.left @ turned[:, kept]
        return features, features / values[kept]
    values, vectors = np.linalg.eigh(k)
    kept = values > tolerance * max(values[-1], 0.0)
    roots = np.sqrt(values[kept])
    return vectors[:, kept] * roots, vectors[:, kept] / roots


def _float64(tile: NDArray[Any]) -> Float64Array:
    return np.ascontiguousarray(tile, dtype=np.float64)


def finite(values: Float64Array) -> Float64Array:
    """The same values; raises InvalidInput where some are not finite numbers."""
    bad = sum(int((~np.isfinite(values[rows])).any(axis=1).sum()) for rows in panels(len(values)))
    if bad:
        raise InvalidInput(
            "not-finite",
            f"Activations or gradients of {bad} examples are not finite numbers.",
            "Look for NaN or infinity in those inputs, or audit an earlier layer.",
        )
    return values
