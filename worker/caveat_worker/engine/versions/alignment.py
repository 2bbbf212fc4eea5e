"""How alike two layers are at the same examples: as wholes, and channel by channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caveat_worker.engine.activations.gram import centred
from caveat_worker.engine.base.arrays import Float64Array

MATCHED = 0.9
"""The correlation from which two channels count as the same."""
FEWEST = 4
"""Examples below which debiased CKA is not defined."""
MOST_ROWS = 20_000
"""Examples times positions over which channels are correlated; of more, evenly spaced ones."""
MOST_CHANNELS = 4_096
LEAST_SHARE = 1e-12
"""The share of a layer's squared numbers that has to vary with the example; below it is rounding in float32."""


def debiased_cka(k: Float64Array, other: Float64Array) -> float | None:
    """Linear CKA of two layers from their Gram matrices [n, n], about 0 for unrelated ones whatever their width.

    HSIC is Song et al.'s unbiased estimator (2012, equation 5) in CKA of Kornblith et al. (2019). None for fewer than
    `FEWEST` examples, and for a layer that hardly varies.
    """
    if len(k) < FEWEST:
        return None
    left, right = centred(k), centred(other)
    if any(np.trace(moved) <= LEAST_SHARE * np.trace(each) for moved, each in ((left, k), (right, other))):
        return None
    own, its = _hsic(left, left), _hsic(right, right)
    if own <= 0 or its <= 0:
        return None
    return float(_hsic(left, right) / np.sqrt(own * its))


def _hsic(k: Float64Array, other: Float64Array) -> float:
    """The unbiased estimate of HSIC times n(n − 3)."""
    n = len(k)
    left, right = (each - np.diag(np.diag(each)) for each in (k, other))
    trace = float(np.vdot(left, right))
    sums = left.sum(0), right.sum(0)
    return trace + float(sums[0].sum() * sums[1].sum()) / ((n - 1) * (n - 2)) - 2 * float(sums[0] @ sums[1]) / (n - 2)


@dataclass(frozen=True)
class Matching:
    """The channels of one layer, each with its partner in the other."""

    channels: int
    """Channels of this layer that vary."""
    partners: NDArray[np.intp]  # [pairs, 2] channels of either layer, by their own numbers
    correlations: Float64Array  # [pairs]

    @property
    def matched(self) -> float:
        """The share of this layer's varying channels whose partner is the same but for scale and shift."""
        return float((self.correlations >= MATCHED).sum() / self.channels)

    @property
    def median(self) -> float:
        """The median correlation of partners."""
        return float(np.median(self.correlations))


def match_channels(own: NDArray[Any], other: NDArray[Any]) -> Matching | None:
    """Pairs the channels of two layers so that their correlations sum to the most (the Hungarian method).

    Both are [rows, channels] over the same rows; channels that do not vary are left out. None where one layer has none
    that varies, or over `MOST_CHANNELS`.
    """
    if max(own.shape[1], other.shape[1]) > MOST_CHANNELS:
        return None
    (left, mine), (right, its) = _standardised(own), _standardised(other)
    if not len(mine) or not len(its):
        return None
    from scipy.optimize import linear_sum_assignment  # loads slowly

    correlations = left.T @ right
    rows, columns = linear_sum_assignment(-correlations)
    return Matching(len(mine), np.stack([mine[rows], its[columns]], 1), correlations[rows, columns])


def by_channel(activations: NDArray[Any]) -> NDArray[Any]:
    """Activations [n, …, channels] as rows [n · positions, channels], evenly thinned to `MOST_ROWS`."""
    rows = activations.reshape(-1, activations.shape[-1])
    return rows[:: -(-len(rows) // MOST_ROWS)]


def _standardised(rows: NDArray[Any]) -> tuple[Float64Array, NDArray[np.intp]]:
    """Columns that vary, with mean 0 and norm 1, and which they are."""
    centred = rows.astype(np.float64) - rows.mean(0, dtype=np.float64)
    norms = np.sqrt((centred**2).sum(0))
    kept = np.flatnonzero(norms > 1e-6 * max(float(norms.max(initial=0.0)), 1e-30))
    return centred[:, kept] / norms[kept], kept
