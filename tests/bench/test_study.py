"""Simulated raters: what they are asked to be, and that the statistics neither invent nor miss much."""

from __future__ import annotations

import numpy as np
import pytest

from bench import study
from bench.study import ASSUMED, Noise, false_alarms, powered, rate


def test_simulated_raters_are_what_is_assumed() -> None:
    """Every answer is on its scale; the concept is rated as far above the image as was planted, but for the ends."""
    rated = rate((1.0, 0.0), ASSUMED, 4_000, np.random.default_rng(1))
    for scale in (rated.image, rated.concept):
        assert set(np.unique(scale)) == set(range(1, 11))
    planted, other = rated.difference.mean(axis=(0, 1))
    assert planted == pytest.approx(0.9, abs=0.08), "a little is lost at the ends of the scale"
    assert other == pytest.approx(0.0, abs=0.05)
    by_class = rated.difference[:, :, 1].mean(axis=0)
    assert by_class[0] > 0.8 > -0.8 > by_class[2], "classes differ, and not in the mean"


def test_quick_counts_are_plausible() -> None:
    alarms, intervals = false_alarms(40, 1)
    assert alarms <= 7
    assert intervals <= 7
    assert powered(20, 2.0, 4) >= 19
    assert powered(10, 1.0, 4, noise=Noise(answer=0.5, leaning=0.2)) == 10


@pytest.mark.slow
def test_the_bounds_of_the_page_are_kept() -> None:
    met = [row.met for row in study.rows(quick=True)]
    assert met[:7] == [True] * 7
    assert set(met[7:]) == {None}
