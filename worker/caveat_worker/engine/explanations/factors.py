"""Non-negative factors of a matrix: scikit-learn's NMF by coordinate descent, with its order and its start fixed."""

from __future__ import annotations

import warnings

import numpy as np
from sklearn.decomposition import NMF
from sklearn.exceptions import ConvergenceWarning

from caveat_worker.engine.base.arrays import Float64Array


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
