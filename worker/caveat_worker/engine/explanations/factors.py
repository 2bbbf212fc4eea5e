"""Non-negative factors of a matrix: scikit-learn's NMF by coordinate descent, with its order and its start fixed."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from caveat_worker.engine.base.arrays import Float64Array

_MEMBERS = 3
"""Channels that a note names for each group."""


@dataclass(frozen=True)
class SignedFactors:
    """Factors of a matrix [n, d] whose negative numbers stand beside the positive ones: [A⁺, A⁻] ≈ U [V⁺, V⁻]."""

    shares: Float64Array
    """U [n, k]"""
    positive: Float64Array
    """V⁺ [k, d]"""
    negative: Float64Array
    """V⁻ [k, d]"""
    missed: float
    """The share of the matrix's size that the factors miss."""

    @property
    def mixes(self) -> Float64Array:
        """V⁺ − V⁻ [k, d], so that the matrix is about U V."""
        return np.asarray(self.positive - self.negative)

    def parts(self, matrix: Float64Array) -> Float64Array:
        """The share of each number of the matrix that each factor has [k, n, d]; 0 of those that no factor has."""
        u = self.shares.T[:, :, None]
        of_each = np.where(matrix >= 0, u * self.positive[:, None], u * self.negative[:, None])
        whole = of_each.sum(0)
        return np.asarray(np.divide(of_each, whole, out=np.zeros_like(of_each), where=whole > 0))


def signed_factors(matrix: Float64Array, count: int) -> SignedFactors:
    """Non-negative factors of [A⁺, A⁻], or of A where nothing is negative."""
    d = matrix.shape[1]
    signed = bool((matrix < 0).any())
    stacked = _side_by_side(matrix) if signed else matrix
    shares, mixes = factors(stacked, count)
    positive = mixes[:, :d]
    negative = mixes[:, d:] if signed else np.zeros_like(positive)
    return SignedFactors(shares, positive, negative, share_missed(stacked, shares @ mixes))


def share_missed(matrix: Float64Array, told: Float64Array) -> float:
    """The share of a matrix's size that what is told of it misses."""
    return float(np.linalg.norm(matrix - told)) / max(float(np.linalg.norm(matrix)), np.finfo(float).tiny)


def _side_by_side(matrix: Float64Array) -> Float64Array:
    """[A⁺, A⁻]"""
    return np.concatenate([np.maximum(matrix, 0), np.maximum(-matrix, 0)], axis=1)


@dataclass(frozen=True)
class Dictionary:
    """Groups of channels that many examples share, the largest first."""

    positive: Float64Array
    """V⁺ [k, d]"""
    negative: Float64Array
    """V⁻ [k, d]"""
    places: int
    """Rows that it is from."""
    missed: float
    """The share of their size that it misses."""

    def shares(self, a: Float64Array) -> SignedFactors:
        """How much of each group is at rows [n, d]: non-negative least squares, row by row."""
        from scipy.optimize import nnls  # takes half a second to import, which few explanations need

        stacked, mixes = _side_by_side(a), np.concatenate([self.positive, self.negative], axis=1)
        shares = np.stack([nnls(mixes.T, row)[0] for row in stacked])
        return SignedFactors(shares, self.positive, self.negative, share_missed(stacked, shares @ mixes))


def dictionary(rows: Float64Array, count: int) -> Dictionary:
    """Groups of rows [n, d] from many examples, in the order of the size that each has of them."""
    found = signed_factors(rows, count)
    lengths = np.linalg.norm(np.concatenate([found.positive, found.negative], axis=1), axis=1)
    order = np.argsort(-np.linalg.norm(found.shares, axis=0) * lengths, kind="stable")
    return Dictionary(found.positive[order], found.negative[order], len(rows), found.missed)


def factors(matrix: Float64Array, count: int) -> tuple[Float64Array, Float64Array]:
    """U [n, k] and V [k, d], both without negative numbers, whose product is about the matrix [n, d].

    A matrix that is 0, or too small for so many factors, has some of 0.
    """
    left, right = np.zeros((len(matrix), count)), np.zeros((count, matrix.shape[1]))
    possible = min(count, *matrix.shape)
    largest = float(matrix.max(initial=0.0))
    if largest == 0 or possible < 2:
        if largest > 0:
            left[:, 0], right[0] = _one_factor(matrix)
        return left, right
    from sklearn.decomposition import NMF  # with pandas, whose threads no forkserver may have; 1.4 s
    from sklearn.exceptions import ConvergenceWarning

    model = NMF(possible, init="nndsvda", max_iter=500, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        left[:, :possible] = model.fit_transform(matrix / largest) * largest
    right[:possible] = model.components_
    return left, right


def _one_factor(matrix: Float64Array) -> tuple[Float64Array, Float64Array]:
    """The first singular pair, which has no negative number where the matrix has none."""
    u, s, v = np.linalg.svd(matrix, full_matrices=False)
    return np.abs(u[:, 0]) * s[0], np.abs(v[0])


def strongest_channels(directions: Float64Array, names: Iterable[str]) -> str:
    """The channels that each group has most of [k, channels], by the group's name."""
    each = zip(names, directions, strict=False)
    return "; ".join(f"group {name}: {_listed(direction)}" for name, direction in each if direction.any())


def _listed(direction: Float64Array) -> str:
    order: Sequence[int] = np.argsort(-np.abs(direction), kind="stable")[:_MEMBERS].tolist()
    return ", ".join(str(one) for one in order if direction[one])
