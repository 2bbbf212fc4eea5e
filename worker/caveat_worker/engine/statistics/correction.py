"""Corrections of p-values for the number of tests in a report."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from caveat_worker.engine.base.arrays import Float64Array
from caveat_worker.engine.base.errors import InvalidInput


def correct(p: ArrayLike, method: str = "holm") -> Float64Array:
    """Corrected p-values in the order given; `holm`, `benjamini_hochberg` or `none`."""
    values = np.asarray(p, dtype=float)
    if method == "none":
        return values.copy()
    if method == "holm":
        return _holm(values)
    if method == "benjamini_hochberg":
        return _benjamini_hochberg(values)
    raise InvalidInput(
        "unknown-correction",
        f"There is no correction '{method}'.",
        "Choose holm, benjamini_hochberg or none.",
    )


def _holm(p: Float64Array) -> Float64Array:
    """max over j ≤ i of (n − j + 1) p₍ⱼ₎: the chance of any false alarm stays under α (Holm 1979)."""
    order = p.argsort(kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    return _placed(stepped, order)


def _benjamini_hochberg(p: Float64Array) -> Float64Array:
    """min over j ≥ i of n p₍ⱼ₎ / j: the expected share of false alarms stays under α (Benjamini and Hochberg 1995)."""
    order = p.argsort(kind="stable")
    ratio = p[order] * len(p) / np.arange(1, len(p) + 1)
    return _placed(np.minimum.accumulate(ratio[::-1])[::-1], order)


def _placed(ordered: Float64Array, order: np.ndarray[tuple[int], np.dtype[np.intp]]) -> Float64Array:
    corrected = np.empty_like(ordered)
    corrected[order] = np.minimum(ordered, 1.0)
    return corrected


def fewest_permutations(rows: int, alpha: float) -> int:
    """The fewest permutations with which one that exceeds a test's effect does not lose it among `rows` tests.

    With one of M permutations beyond it a test has p = 2 / (M + 1), and the Holm correction multiplies the smallest p
    by the number of tests; with half as many permutations, only effects that none exceeds can be found.
    """
    return math.floor(2 * rows / alpha)
