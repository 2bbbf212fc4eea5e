"""Groups over many examples: planted ones are found, and how much of each is at a place."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from caveat_worker.engine.explanations.factors import dictionary

COUNT, CHANNELS, ROWS = 6, 24, 600


def planted(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Six groups of channels that overlap [6, 24], how much of each is at places [600, 6], and those with noise."""
    rng = np.random.default_rng(seed)
    groups = rng.uniform(0.2, 1, (COUNT, CHANNELS)) * (rng.random((COUNT, CHANNELS)) < 0.4)
    groups[np.arange(COUNT), rng.permutation(CHANNELS)[:COUNT]] = 1
    shares = rng.exponential(1, (ROWS, COUNT)) * (rng.random((ROWS, COUNT)) < 0.3)
    return groups, shares, shares @ groups + 0.02 * rng.random((ROWS, CHANNELS))


def cosines(seed: int) -> np.ndarray:
    """Of each planted group with the one that was found for it."""
    groups, _, rows = planted(seed)
    found = dictionary(rows, COUNT).positive
    products = (found / np.linalg.norm(found, axis=1)[:, None]) @ (groups / np.linalg.norm(groups, axis=1)[:, None]).T
    return np.asarray(products[linear_sum_assignment(-products)])


@pytest.mark.parametrize("seed", range(10))
def test_a_planted_dictionary_is_found(seed: int) -> None:
    assert cosines(seed).min() > 0.95


def test_shares_are_those_of_non_negative_least_squares() -> None:
    groups, shares, rows = planted(0)
    found = dictionary(rows, COUNT)
    assert found.places == ROWS
    assert found.missed < 0.05
    one = found.shares(shares[:20] @ groups)
    assert (one.shares >= 0).all()
    assert one.shares @ one.mixes == pytest.approx(shares[:20] @ groups, abs=0.05)
    assert one.missed < 0.03
    sizes = np.linalg.norm(found.shares(rows).shares, axis=0) * np.linalg.norm(found.positive, axis=1)
    assert list(sizes) == pytest.approx(sorted(sizes, reverse=True), rel=0.02), "the largest first"


def test_what_is_negative_has_mixes_of_its_own_and_is_missed_where_the_set_had_none() -> None:
    rng = np.random.default_rng(1)
    rows = rng.exponential(1, (200, 2)) @ np.array([[1.0, 0, -1, 0], [0, 2, 0, 1]])
    both = dictionary(rows, 2)
    assert both.negative.any()
    assert both.shares(rows[:5]).missed < 1e-3
    above = dictionary(np.maximum(rows, 0), 2)
    assert not above.negative.any()
    assert above.shares(-np.ones((1, 4))).missed == pytest.approx(1)
