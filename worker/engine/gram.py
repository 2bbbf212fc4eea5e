"""Inner products of activations: all that a linear concept needs, whatever the size of a layer.

An L2-regularised linear classifier has its normal in the span of its examples, `w = Xᵀα` (the representer theorem;
Kimeldorf and Wahba 1971). So its fit needs `K = X Xᵀ`, and its sensitivities need `G Xᵀ`; both are computed once.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.engine.errors import Refused
from worker.engine.threads import on_one_thread

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

PANEL = 256
"""Examples on a side of one panel: a panel of inner products is the work of one thread."""
TILE_BYTES = 2 * 2**20
"""A panel's features in float64; two are held at a time by each thread."""


def gram(
    activations: NDArray[Any], tile_bytes: int = TILE_BYTES, *, out: Floats | None = None, threads: int = 1
) -> Floats:
    """`K = X Xᵀ` of `X` [n, d] in float64 [n, n], read a tile of features at a time; `X` may be a float32 memmap."""
    return _inner(activations, activations, tile_bytes, out, threads)


def products(
    gradients: NDArray[Any],
    activations: NDArray[Any],
    tile_bytes: int = TILE_BYTES,
    *,
    out: Floats | None = None,
    threads: int = 1,
) -> Floats:
    """`G Xᵀ` of gradients [m, d] and activations [n, d] in float64 [m, n], a tile of features at a time."""
    width, features = gradients.shape[1], activations.shape[1]
    if width != features:
        raise Refused(
            "layer-size-differs",
            f"Gradients have {width} features and activations {features}.",
            "Take both at the same layer with the same reduction.",
        )
    return _inner(gradients, activations, tile_bytes, out, threads)


def inner(left: NDArray[Any], right: NDArray[Any], out: Floats, threads: int = 1) -> None:
    """Fills `out` [m, n] with the inner products of `left` [m, d] and `right` [n, d]."""
    if left is right:
        gram(left, out=out, threads=threads)
    else:
        products(left, right, out=out, threads=threads)


@on_one_thread
def _inner(left: NDArray[Any], right: NDArray[Any], tile_bytes: int, out: Floats | None, threads: int) -> Floats:
    """`left @ right.T` in panels. Each is summed in one order by one thread, so that threads do not change a bit."""
    found = np.empty((len(left), len(right))) if out is None else out
    itself = left is right
    width = max(1, tile_bytes // (8 * PANEL))

    def fill(corner: tuple[int, int]) -> None:
        above, beside = (slice(start, start + PANEL) for start in corner)
        rows, columns = left[above], right[beside]
        panel = np.zeros((len(rows), len(columns)))
        for start in range(0, left.shape[1], width):
            tile = _float64(rows[:, start : start + width])
            other = tile if itself and above == beside else _float64(columns[:, start : start + width])
            panel += tile @ other.T
        found[above, beside] = panel
        if itself and above != beside:
            found[beside, above] = panel.T

    starts, others = range(0, len(left), PANEL), range(0, len(right), PANEL)
    corners = [(above, beside) for above in starts for beside in others if beside >= above or not itself]
    with ThreadPoolExecutor(min(threads, len(corners)) or 1) as workers:
        for _ in workers.map(fill, corners):
            pass
    return finite(found)


def panels(count: int) -> Iterator[slice]:
    """The rows of a matrix of so many, a panel's at a time: what is worked on of a matrix that may be in a file."""
    return (slice(start, start + PANEL) for start in range(0, count, PANEL))


def centred(k: Floats, *, out: Floats | None = None) -> Floats:
    """The Gram matrix [n, n] of the same examples with their mean as the origin; `out` may be `k` itself."""
    column = k.mean(0)
    mean = column.mean()
    moved: Floats = np.subtract(k, column, out=out)
    moved -= column[:, None]
    moved += mean
    return moved


def isometric_features(k: Floats, tolerance: float = 1e-12) -> tuple[Floats, Floats]:
    """Features `Z` [n, r] with `Z Zᵀ = K`, and `Z (ZᵀZ)⁻¹` [n, r], which turns a normal over them into `α`.

    Directions whose eigenvalue is under `tolerance` of the largest are rounding, and are left out.
    """
    values, vectors = np.linalg.eigh(k)
    kept = values > tolerance * max(values[-1], 0.0)
    roots = np.sqrt(values[kept])
    return vectors[:, kept] * roots, vectors[:, kept] / roots


def _float64(tile: NDArray[Any]) -> Floats:
    return np.ascontiguousarray(tile, dtype=np.float64)


def finite(values: Floats) -> Floats:
    """The same values; raises `Refused` where some are not finite numbers."""
    bad = sum(int((~np.isfinite(values[rows])).any(axis=1).sum()) for rows in panels(len(values)))
    if bad:
        raise Refused(
            "not-finite",
            f"Activations or gradients of {bad} examples are not finite numbers.",
            "Look for NaN or infinity in those inputs, or audit an earlier layer.",
        )
    return values
