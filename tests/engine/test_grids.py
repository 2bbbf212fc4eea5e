"""Maps as grids: totals stay, places are named as people name them, and a rectangle is found on a grid of any size."""

from __future__ import annotations

import numpy as np
import pytest

from caveat_worker.engine.panels.grids import blocks, changed_box, focus, grid, weight


@pytest.mark.parametrize("shape", [(5, 7), (28, 28), (29, 57), (224, 224), (1, 300)])
def test_a_map_of_parts_keeps_its_total_and_another_its_mean(shape: tuple[int, int]) -> None:
    values = np.random.default_rng(0).normal(size=shape)
    cells = blocks(values, additive=True)
    assert max(cells.shape) <= 28
    assert cells.sum() == pytest.approx(values.sum())
    even = blocks(np.full(shape, 0.3), additive=False)
    assert even == pytest.approx(np.full(cells.shape, 0.3)), "also at an edge that does not divide"


def test_cells_are_whole_numbers_of_a_scale_that_holds_them() -> None:
    cells = np.array([[-2.0, 0.0], [1.0, 2.0]])
    assert grid(cells, 2.0).rows() == [[-127, 0], [64, 127]]
    assert grid(cells / 8, 2.0).rows() == [[-16, 0], [8, 16]]
    assert grid(np.zeros((2, 2)), 0.0).rows() == [[0, 0], [0, 0]]


@pytest.mark.parametrize(
    ("y", "x", "where"),
    [(0, 0, "in the upper left"), (0, 4, "at the top"), (4, 4, "in the middle"), (4, 8, "at the right"),
     (8, 4, "at the bottom"), (8, 8, "in the lower right")],
)  # fmt: skip
def test_the_strongest_places_are_said_in_words(y: int, x: int, where: str) -> None:
    cells = np.full((9, 9), 0.01)
    cells[y, x] = -5
    found = weight(cells)
    assert (found.where, found.signed < 0) == (where, True)
    assert found.share > 0.8


def test_the_rectangle_in_which_two_pictures_differ_is_found_on_every_grid() -> None:
    one = np.zeros((3, 224, 224))
    other = one.copy()
    other[1, 94:128, 4:218] = 1
    box = changed_box(one, other)
    assert box == (94 / 224, 128 / 224, 4 / 224, 218 / 224)
    assert changed_box(one, one) is None
    for cells, area in ((224, 34 * 214 / 224**2), (7, 1 / 7), (14, 2 / 14), (1, 1.0)):
        even = focus(np.ones((cells, cells)), box, additive=True)
        assert even.share == pytest.approx(even.area) == pytest.approx(area)


def test_the_value_of_a_rectangle_is_a_sum_of_parts_or_a_mean() -> None:
    values = np.zeros((4, 4))
    values[1] = [1, -1, 2, 2]
    box = (0.25, 0.5, 0.0, 1.0)
    assert focus(values, box, additive=True).value == 4
    assert focus(values, box, additive=False).value == 1
    assert focus(values, box, additive=True).share == 1
