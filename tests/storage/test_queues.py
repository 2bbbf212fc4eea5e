"""Queues: which workers can claim a job, where it is published, and when it moves to the default queue."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from sqlalchemy import text

from caveat_spec.artifacts import Queue
from caveat_spec.jobs import QUEUES, Division, Rows
from caveat_storage import job_records, job_state, shards
from caveat_storage.job_records import Database, Record
from caveat_storage.job_state import Lease

HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
ROWS = [[Rows(examples="pool", start=start, stop=start + 10)] for start in range(0, 30, 10)]
PARTS = Division(rows=ROWS, interacts=False)


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[timedelta], None]:
    """Moves the clock of the database."""

    moments: list[datetime] = []

    def move(by: timedelta) -> None:
        moments.append((moments[-1] if moments else job_records.now()) + by)
        for module in (job_state, job_records, shards):
            monkeypatch.setattr(module, "clock", lambda connection: moments[-1])

    return move


def submit(database: Database, queue: Queue) -> str:
    return job_state.submit(database, "t", "audit", {"model": "m"}, queue=queue).record.id


def claim(database: Database, job_id: str, *queues: Queue) -> Lease | None:
    return job_state.claim(database, job_id, worker="w", lasts=HOUR, queues=queues or QUEUES)


def get(database: Database, job_id: str) -> Record:
    record = job_records.get(database, "t", "audit", job_id)
    assert record is not None
    return record


def published(database: Database, queue: Queue, *, published_before: timedelta | None = None) -> list[str]:
    return list(job_state.unclaimed(database, published_before=published_before, queue=queue))


def test_only_workers_of_its_queue_claim_a_job(database: Database) -> None:
    plain, cuda = submit(database, "default"), submit(database, "gpu")
    assert claim(database, cuda, "default", "large") is None
    assert claim(database, plain, "gpu") is None
    lease = claim(database, cuda, "gpu")
    assert lease is not None
    assert lease.queue == "gpu"
    assert claim(database, plain, "default") is not None


def test_a_bell_that_was_not_heard_is_rung_in_its_own_queue(database: Database) -> None:
    jobs: dict[Queue, str] = {queue: submit(database, queue) for queue in QUEUES}
    assert {queue: published(database, queue, published_before=timedelta(0)) for queue in QUEUES} == {
        queue: [job] for queue, job in jobs.items()
    }


def test_what_waits_and_who_serves_is_counted_for_each_queue(database: Database) -> None:
    for queue in ("gpu", "gpu", "default"):
        submit(database, queue)
    assert job_records.count_waiting(database) == {"default": 1, "gpu": 2, "large": 0}
    job_records.record_worker(database, "cpu", [], ["default", "large"])
    job_records.record_worker(database, "everything", [])
    assert job_records.serving(database, within=MINUTE) == {"default": 2, "gpu": 1, "large": 2}
    job_records.remove_worker(database, "everything")
    assert job_records.serving(database, within=MINUTE) == {"default": 1, "gpu": 0, "large": 1}


def test_a_process_of_the_version_before_writes_for_the_default_queue(database: Database) -> None:
    """An old worker does not know queues, and continues while an upgrade replaces it."""
    with database.writing() as connection:
        connection.execute(
            text(
                "INSERT INTO jobs (id, tenant, kind, payload, state, stage, progress, attempts, cancel_requested, "
                "release_requested, available_at, created_at, updated_at) VALUES "
                "(:id, 't', 'audit', '{}', 'queued', 'queued', 0, 0, false, false, :at, :at, :at)"
            ),
            {"id": "0" * 26, "at": "2026-01-02 03:04:05+00:00"},
        )
        connection.execute(
            text("INSERT INTO workers (name, seen_at, missing_protections) VALUES ('old', :at, '[]')"),
            {"at": job_records.now().isoformat(sep=" ")},
        )
    assert get(database, "0" * 26).queue == "default"
    assert job_records.serving(database, within=MINUTE) == {"default": 1, "gpu": 0, "large": 0}
    assert claim(database, "0" * 26, "default") is not None


def test_a_job_for_nobody_goes_to_the_default_queue_after_a_while(
    database: Database, later: Callable[[timedelta], None]
) -> None:
    cuda, plain = submit(database, "gpu"), submit(database, "default")
    job_records.record_worker(database, "cpu", [], ["default"])
    assert job_state.reroute(database, after=HOUR) == []
    later(HOUR + MINUTE)
    assert job_state.reroute(database, after=HOUR) == [cuda]
    assert job_state.reroute(database, after=HOUR) == []
    assert (get(database, cuda).queue, get(database, cuda).state) == ("default", "queued")
    event = job_records.history(database, "t", cuda)[-1]
    assert (event.what, event.data["from"], event.data["to"]) == ("reroute", "gpu", "default")
    assert published(database, "default") == [cuda]
    assert claim(database, cuda, "gpu") is None, "the message for a GPU worker is obsolete"
    assert claim(database, cuda, "default") is not None
    assert [event.what for event in job_records.history(database, "t", plain)] == ["submit"]


def test_a_job_waits_for_workers_that_are_busy_or_begin_again(
    database: Database, later: Callable[[timedelta], None]
) -> None:
    job_records.record_worker(database, "gpu", [], ["gpu"])
    cuda = submit(database, "gpu")
    later(2 * HOUR)
    job_records.record_worker(database, "gpu", [], ["gpu"])
    job_records.remove_worker(database, "gpu")
    assert job_state.reroute(database, after=HOUR) == [], "a worker served the queue recently"
    later(HOUR + MINUTE)
    assert job_state.reroute(database, after=HOUR) == [cuda]


def test_shards_are_for_the_workers_of_their_audit(database: Database) -> None:
    audit = submit(database, "gpu")
    lease = claim(database, audit, "gpu")
    assert lease is not None
    parts = shards.divide(database, lease, PARTS)
    assert [claim(database, part, "default") for part in parts] == [None] * 3
    for part in parts:
        held = claim(database, part, "gpu")
        assert held is not None
        shards.succeed(database, held, {})
    assert get(database, audit).state == "queued"
    assert claim(database, audit, "default") is None
    assert claim(database, audit, "gpu") is not None


def test_an_audit_goes_where_its_shards_go(database: Database, later: Callable[[timedelta], None]) -> None:
    audit = submit(database, "gpu")
    lease = claim(database, audit, "gpu")
    assert lease is not None
    parts = shards.divide(database, lease, PARTS)
    later(HOUR + MINUTE)
    assert sorted(job_state.reroute(database, after=HOUR)) == sorted(parts)
    for part in parts:
        held = claim(database, part, "default")
        assert held is not None
        shards.succeed(database, held, {})
    assert claim(database, audit, "default") is not None
