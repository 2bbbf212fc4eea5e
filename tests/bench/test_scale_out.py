"""The model behind docs/scaling.md: what follows from its costs, whatever they are."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.scale_out import DAY, Costs, first_full, fleet, one_audit, page

COSTS = Costs(
    api=0.02,
    database=0.01,
    broker=0.001,
    worker=0.5,
    fixed=1.5,
    example=0.03,
    statistics=1e-4,
    fetched=0.001,
    picture=0.01,
)


def test_a_day_is_full_of_audits() -> None:
    one, ten = (fleet(COSTS, workers, 100) for workers in (1, 10))
    assert one.audits * (1.5 + 0.5 + 100 * (0.03 + 0.01 * 0.001)) == pytest.approx(DAY)
    assert ten.audits == pytest.approx(10 * one.audits)
    assert ten.busy["API"] == pytest.approx(ten.audits / DAY * 0.02)


def test_the_first_part_to_fill_a_core_is_the_dearest() -> None:
    assert [part for part, *_ in first_full(COSTS, 100)] == ["API", "database", "broker"]
    assert next(first_full(replace(COSTS, database=0.5), 100))[0] == "database"


def test_workers_share_examples_and_nothing_else() -> None:
    alone, four, many = (one_audit(COSTS, workers, 10_000) for workers in (1, 4, 10_000))
    assert four["examples"] == pytest.approx(alone["examples"] / 4)
    assert alone["statistics"] == four["statistics"] == many["statistics"] == 10_000 * 1e-4
    assert four["fetching"] == pytest.approx(4 * alone["fetching"])  # four shards each, and each fetches everything
    assert many["examples"] == pytest.approx(alone["examples"] / 256)  # no shard for the others


def test_the_page_has_every_cost_and_three_limits() -> None:
    text = page(COSTS, "Here.")
    assert all(f"\n{number}. **" in text for number in (1, 2, 3))
    assert "calculated" in text
    assert "256 times" in text
