"""Counters of metrics increase when an audit ends and never decrease."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import delete

from caveat_storage import job_state, metrics
from caveat_storage.job_records import Database, Event
from caveat_storage.tables import events, jobs

HOUR, NO_TIME = timedelta(hours=1), timedelta(0)
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def at(seconds: float, what: str, **data: Any) -> Event:
    return Event(0, what, BEGAN + timedelta(seconds=seconds), data)


def test_time_is_spent_in_the_stage_that_was_last_begun_over_all_attempts() -> None:
    history = [
        at(0, "submit"), at(2, "claim"), at(3, "advance", stage="collecting"), at(8, "retry"), at(10, "claim"),
        at(11, "advance", stage="collecting"), at(12, "ask_to_cancel"), at(14, "advance", stage="testing"),
    ]  # fmt: skip
    spent = metrics.stages(history, BEGAN + timedelta(seconds=15))
    assert spent == {"queued": 4.0, "loading": 2.0, "collecting": 8.0, "testing": 1.0}


def run(database: Database, end: str = "succeed", kind: Any = "audit") -> None:
    job_id = job_state.submit(database, "acme", kind, {"model": "x"}).record.id
    lease = job_state.claim(database, job_id, worker="w", lasts=NO_TIME if end == "expire" else HOUR)
    assert lease is not None
    if end == "expire":
        job_state.expire(database, attempts=1, backoff=NO_TIME)
    else:
        job_state.advance(database, lease, "collecting", 0.5)
        assert job_state.succeed(database, lease, {"outcome": "pass"})


def test_what_was_counted_stays_when_its_audits_are_deleted(database: Database) -> None:
    for _ in range(3):
        run(database)
    run(database, "expire")
    run(database, kind="model")
    with database.writing() as connection:
        connection.execute(delete(events))
        connection.execute(delete(jobs))
    assert metrics.counted(database, "audits") == {"succeeded": 3, "failed": 1}
    assert metrics.counted(database, "expired") == {"": 1}
    took = metrics.durations(database)
    assert took.keys() == {"queued", "loading", "collecting"}
    assert took["collecting"].buckets[-1] == ("+Inf", 3)
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
    assert metrics.counted(database, "audits") == {"succeeded": 20}
    assert metrics.durations(database)["collecting"].buckets[-1] == ("+Inf", 20)


@pytest.mark.parametrize(("seconds", "bound"), [(0.1, "0.1"), (0.11, "0.3"), (99_999.0, "+Inf")])
def test_a_bucket_holds_what_took_no_longer_than_its_bound(database: Database, seconds: float, bound: str) -> None:
    with database.writing() as connection:
        metrics.observe(connection, {"collecting": seconds})
    found = metrics.durations(database)["collecting"]
    assert next(one for one, count in found.buckets if count) == bound
    assert found.seconds == seconds
