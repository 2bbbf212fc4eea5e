"""Counts for metrics: added to with the end of an audit, and never less."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import delete

from vault import lifecycle, measures
from vault.records import Database, Event
from vault.tables import events, jobs

HOUR, NO_TIME = timedelta(hours=1), timedelta(0)
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def at(seconds: float, what: str, **data: Any) -> Event:
    return Event(0, what, BEGAN + timedelta(seconds=seconds), data)


def test_time_is_spent_in_the_stage_that_was_last_begun_over_all_attempts() -> None:
    history = [
        at(0, "submit"), at(2, "claim"), at(3, "advance", stage="probing"), at(8, "retry"), at(10, "claim"),
        at(11, "advance", stage="probing"), at(12, "ask_to_cancel"), at(14, "advance", stage="fitting"),
    ]  # fmt: skip
    spent = measures.stages(history, BEGAN + timedelta(seconds=15))
    assert spent == {"queued": 4.0, "loading": 2.0, "probing": 8.0, "fitting": 1.0}


def run(database: Database, end: str = "succeed", kind: Any = "audit") -> None:
    job_id = lifecycle.submit(database, "acme", kind, {"model": "x"}).record.id
    lease = lifecycle.claim(database, job_id, worker="w", lasts=NO_TIME if end == "expire" else HOUR)
    assert lease is not None
    if end == "expire":
        lifecycle.expire(database, attempts=1, backoff=NO_TIME)
    else:
        lifecycle.advance(database, lease, "probing", 0.5)
        assert lifecycle.succeed(database, lease, {"outcome": "pass"})


def test_what_was_counted_stays_when_its_audits_are_deleted(database: Database) -> None:
    for _ in range(3):
        run(database)
    run(database, "expire")
    run(database, kind="model")
    with database.writing() as connection:
        connection.execute(delete(events))
        connection.execute(delete(jobs))
    assert measures.counted(database, "audits") == {"succeeded": 3, "failed": 1}
    assert measures.counted(database, "expired") == {"": 1}
    took = measures.durations(database)
    assert took.keys() == {"queued", "loading", "probing"}
    assert took["probing"].buckets[-1] == ("+Inf", 3)
    assert took["queued"].buckets[-1] == ("+Inf", 4)
    counts = [count for _, count in took["loading"].buckets]
    assert counts == sorted(counts)


def test_ends_at_the_same_time_are_all_counted(database: Database) -> None:
    def several() -> None:
        for _ in range(5):
            run(database)

    together = [threading.Thread(target=several) for _ in range(4)]
    for one in together:
        one.start()
    for one in together:
        one.join()
    assert measures.counted(database, "audits") == {"succeeded": 20}
    assert measures.durations(database)["probing"].buckets[-1] == ("+Inf", 20)


@pytest.mark.parametrize(("seconds", "bound"), [(0.1, "0.1"), (0.11, "0.3"), (99_999.0, "+Inf")])
def test_a_bucket_holds_what_took_no_longer_than_its_bound(database: Database, seconds: float, bound: str) -> None:
    with database.writing() as connection:
        measures.observe(connection, {"probing": seconds})
    found = measures.durations(database)["probing"]
    assert next(one for one, count in found.buckets if count) == bound
    assert found.seconds == seconds
