"""Advice holds at the alpha of the report's intervals, whatever that is."""

from __future__ import annotations

import math
import random
from statistics import NormalDist

import pytest

from caveat_spec.audit import ConceptLine
from caveat_spec.results import Estimate
from caveat_spec.verdict.more_examples import chances, times_to_settle

LINE = ConceptLine(concept="mark", target="carton", must="not_matter", tolerance=0.3)


@pytest.mark.parametrize("alpha", [0.001, 0.01, 0.0375, 0.05])
def test_advice_settles_nine_of_ten_lines_at_any_alpha(alpha: float) -> None:
    """1,000 audits whose figures lie around what the first one found, with intervals of the same alpha."""
    rng, found = random.Random(1), _found(0.12, 0.19)
    times = times_to_settle(found, LINE, alpha)
    assert 1 < times < 20
    error = 0.19 / NormalDist().inv_cdf(1 - alpha / 2)
    scatter, half = error * math.sqrt(1 - 1 / times), 0.19 / math.sqrt(times)
    settled = sum(abs(rng.gauss(found.value, scatter)) + half <= LINE.tolerance for _ in range(1000))
    assert 880 <= settled <= 945


def test_a_smaller_alpha_leaves_an_interval_of_the_same_width_less_uncertain() -> None:
    found = _found(0.12, 0.19)
    assert times_to_settle(found, LINE, 0.01) < times_to_settle(found, LINE, 0.05) < times_to_settle(found, LINE, 0.2)


def test_nothing_that_already_has_no_width_is_settled_by_more() -> None:
    assert times_to_settle(_found(0.1, 0.0), LINE, 0.05) == math.inf


def test_a_change_beyond_the_tolerance_is_settled_beyond_it_alone() -> None:
    found = _found(0.6, 0.32)
    times = times_to_settle(found, LINE, 0.05)
    assert times_to_settle(found, LINE, 0.05, inside_only=True) == math.inf
    inside, beyond = chances(found, LINE.tolerance, times, 0.05, 0.05)
    assert inside < 0.01
    assert beyond > 0.9


def _found(value: float, half: float) -> Estimate:
    return Estimate(value=value, interval=(value - half, value + half))
