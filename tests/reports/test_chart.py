from __future__ import annotations

import pytest

from caveat_reports.chart import Scale, silhouette, symmetric
from caveat_spec.results import Histogram


@pytest.mark.parametrize(
    ("values", "end"), [([], 1), ([0.0], 1), ([0.31, -1.82], 2), ([1.0], 1), ([-0.0007], 0.0008), ([9.9], 10)]
)
def test_a_symmetric_scale_holds_every_value_and_ends_round(values: list[float], end: float) -> None:
    scale = symmetric(values)
    assert scale.low == -scale.high
    assert scale.high == pytest.approx(end)
    assert scale.at(0) == 50


def test_values_become_percentages_and_stay_inside() -> None:
    scale = Scale(-2, 2)
    assert [scale.at(value) for value in (-9, -2, 0, 1, 2, 9)] == [0, 0, 50, 75, 100, 100]
    assert scale.span((-1, 1)).width == 50


def test_ticks_run_from_end_to_end() -> None:
    assert [tick.label for tick in Scale(-2, 2).ticks(4)] == ["−2", "−1", "0", "+1", "+2"]
    assert [(tick.at, tick.label) for tick in Scale(0, 1).ticks(2)] == [(0, "0"), (50, "0.5"), (100, "1")]


def test_a_silhouette_is_as_tall_as_its_bars_are_dense() -> None:
    histogram = Histogram(edges=[-1, 0, 2], counts=[4, 4])
    assert silhouette(histogram, Scale(-2, 2)) == "M250 100V0H500V50H1000V100Z"
    assert silhouette(histogram, Scale(-1, 1), divided_by=2) == "M250 100V0H500V50H1000V100Z"


def test_an_empty_null_has_no_silhouette() -> None:
    assert silhouette(Histogram(edges=[], counts=[]), Scale(-1, 1)) == ""
    assert silhouette(Histogram(edges=[1, 1], counts=[9]), Scale(-1, 1)) == ""
