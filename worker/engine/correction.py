"""Corrections for having asked many questions, over every row of a report."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from worker.engine.errors import Refused
from worker.engine.gram import Floats


def correct(p: ArrayLike, method: str = "holm") -> Floats:
    """Corrected p-values in the order given; `holm`, `benjamini_hochberg` or `none`."""
    values = np.asarray(p, dtype=float)
    if method == "none":
        return values.copy()
    if method == "holm":
        return _holm(values)
    if method == "benjamini_hochberg":
        return _benjamini_hochberg(values)
    raise Refused(
        "unknown-correction",
        f"There is no correction '{method}'.",
        "Choose holm, benjamini_hochberg or none.",
    )


def _holm(p: Floats) -> Floats:
    """max over j ≤ i of (n − j + 1) p₍ⱼ₎: the chance of any false alarm stays under α (Holm 1979)."""
    order = p.argsort(kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    return _placed(stepped, order)


def _benjamini_hochberg(p: Floats) -> Floats:
    """min over j ≥ i of n p₍ⱼ₎ / j: the expected share of false alarms stays under α (Benjamini and Hochberg 1995)."""
    order = p.argsort(kind="stable")
    ratio = p[order] * len(p) / np.arange(1, len(p) + 1)
    return _placed(np.minimum.accumulate(ratio[::-1])[::-1], order)


def _placed(ordered: Floats, order: np.ndarray[tuple[int], np.dtype[np.intp]]) -> Floats:
    corrected = np.empty_like(ordered)
    corrected[order] = np.minimum(ordered, 1.0)
    return corrected


def fewest_null_sets(rows: int, alpha: float) -> int:
    """The smallest number of null sets with which one of `rows` rows can come under α after the Holm correction.

    The smallest p of M null sets is 1 / (M + 1), and the correction multiplies it by the number of rows; with fewer
    sets than this no effect of any size can be found.
    """
    return math.floor(rows / alpha)
