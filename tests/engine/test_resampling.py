"""Random sets are those of the smallest random numbers, however these are found."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from caveat_worker.engine.statistics import resampling
from caveat_worker.engine.statistics.resampling import matched, random_sets


def sorted_out(drawn: NDArray[np.float64], sizes: NDArray[np.intp]) -> NDArray[np.bool_]:
    """The places of the smallest numbers of each row, by sorting all of them."""
    return drawn.argsort(axis=1).argsort(axis=1) < sizes[:, None]


@pytest.mark.parametrize("bracket", [resampling.BRACKET, 0.0, 0.3])
@pytest.mark.parametrize(("n", "size"), [(1, 1), (7, 3), (150, 1), (150, 149), (1880, 300), (20_000, 3)])
def test_random_sets_have_the_smallest_of_as_many_numbers(
    n: int, size: int, bracket: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the largest of them lies outside the bracket, as with a bracket of nearly nothing."""
    monkeypatch.setattr(resampling, "BRACKET", bracket)
    sets = random_sets(n, size, 40, np.random.default_rng(5))
    drawn = np.random.default_rng(5).random((40, n))
    np.testing.assert_array_equal(sets, sorted_out(drawn, np.full(40, size)))


def test_sets_of_nothing_and_of_everything() -> None:
    rng = np.random.default_rng(0)
    assert not random_sets(5, 0, 3, rng).any()
    assert random_sets(5, 5, 3, rng).all()


def test_equal_numbers_do_not_make_a_set_larger() -> None:
    class Equal(np.random.Generator):
        def random(self, shape: tuple[int, int]) -> NDArray[np.float64]:  # type: ignore[override]
            return np.full(shape, 0.25)

    sets = random_sets(12, 3, 4, Equal(np.random.PCG64(0)))
    np.testing.assert_array_equal(sets, np.arange(12) < np.full((4, 1), 3))


def test_matched_sides_are_subsets_of_equal_size() -> None:
    rng = np.random.default_rng(1)
    positives = rng.random((30, 400)) < np.linspace(0, 0.9, 30)[:, None]  # the first has none
    negatives = ~positives & (rng.random((30, 400)) < 0.7)
    some, others = matched(positives, negatives, np.random.default_rng(2))
    size = np.minimum(positives.sum(1), negatives.sum(1))
    again = np.random.default_rng(2)
    for side, chosen in ((positives, some), (negatives, others)):
        np.testing.assert_array_equal(chosen.sum(1), size)
        np.testing.assert_array_equal(chosen, sorted_out(np.where(side, again.random(side.shape), np.inf), size))
