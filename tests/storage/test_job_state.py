"""The state machine of jobs, step by step."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from caveat_spec.problem import ProblemDetails
from caveat_storage import job_records, job_state
from caveat_storage.job_records import Database, Key, migrate
from caveat_storage.job_state import ENDED, STEPS, EndedError, KeyReusedError, Lease

PAYLOAD = {"blob": "sha256:" + "0" * 64, "name": None}
HOUR = timedelta(hours=1)
PROBLEM = ProblemDetails.of("not-onnx", 422, "This is not an ONNX file.", "Export it to ONNX.")
Clock = Callable[[timedelta], None]


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Moves the clock of the database."""

    moments: list[datetime] = []

    def move(by: timedelta) -> None:
        moments.append((moments[-1] if moments else job_records.now()) + by)
        monkeypatch.setattr(job_state, "clock", lambda connection: moments[-1])

    return move


def submit(database: Database, **also: Any) -> str:
    return job_state.submit(database, "acme", "model", PAYLOAD, **also).record.id


def claim(database: Database, job_id: str) -> Lease:
    lease = job_state.claim(database, job_id, worker="w", lasts=HOUR)
    assert lease is not None
    return lease


def state(database: Database, job_id: str) -> str:
    record = job_records.get(database, "acme", "model", job_id)
    assert record is not None
    return record.state


def steps(database: Database, job_id: str) -> list[str]:
    return [event.what for event in job_records.history(database, "acme", job_id)]


def test_a_job_is_submitted_claimed_and_ends(database: Database) -> None:
    job_id = submit(database, name="net")
    lease = claim(database, job_id)
    assert (lease.payload, lease.attempt, lease.kind) == (PAYLOAD, 1, "model")
    assert job_state.heartbeat(database, lease) == "go_on"
    assert job_state.advance(database, lease, "testing", 0.5)
    assert job_state.advance(database, lease, "testing", 0.6)
    assert job_state.succeed(database, lease, {"layers": []})
    record = job_records.get(database, "acme", "model", job_id)
    assert record is not None
    assert (record.state, record.stage, record.progress, record.name) == ("succeeded", "done", 1.0, "net")
    assert record.result == {"layers": []}
    assert steps(database, job_id) == ["submit", "claim", "advance", "succeed"]


def test_only_one_of_many_workers_claims_a_job(database: Database) -> None:
    job_id = submit(database)
    leases: list[Lease | None] = []
    threads = [
        threading.Thread(target=lambda: leases.append(job_state.claim(database, job_id, worker="w", lasts=HOUR)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(lease is not None for lease in leases) == 1


def test_another_tenant_sees_and_cancels_nothing(database: Database) -> None:
    job_id = submit(database)
    assert job_records.get(database, "other", "model", job_id) is None
    assert job_records.get(database, "acme", "audit", job_id) is None
    assert job_records.page(database, "other", "model", limit=10) == []
    assert job_records.history(database, "other", job_id) == []
    assert job_state.cancel(database, "other", "model", job_id) is None
    assert state(database, job_id) == "queued"


def test_what_is_submitted_is_told_as_it_is_kept(database: Database) -> None:
    for key in (None, Key("k", "f")):
        record = job_state.submit(database, "acme", "model", PAYLOAD, name="net", queue="large", key=key).record
        assert record == job_records.get(database, "acme", "model", record.id)


def test_a_key_submits_once_and_only_for_one_request(database: Database) -> None:
    first = job_state.submit(database, "acme", "model", PAYLOAD, key=Key("k", "f"))
    again = job_state.submit(database, "acme", "model", PAYLOAD, key=Key("k", "f"))
    assert (first.replayed, again.replayed, again.record.id) == (False, True, first.record.id)
    with pytest.raises(KeyReusedError):
        job_state.submit(database, "acme", "model", PAYLOAD, key=Key("k", "another"))
    assert job_state.submit(database, "other", "model", PAYLOAD, key=Key("k", "f")).replayed is False
    assert len(job_records.page(database, "acme", "model", limit=10)) == 1


def test_a_key_that_comes_many_times_at_once_submits_once(database: Database) -> None:
    found: list[str] = []
    threads = [
        threading.Thread(
            target=lambda: found.append(
                job_state.submit(database, "acme", "model", PAYLOAD, key=Key("k", "f")).record.id
            )
        )
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1


def test_a_queued_job_is_cancelled_at_once(database: Database) -> None:
    job_id = submit(database)
    record = job_state.cancel(database, "acme", "model", job_id)
    assert record is not None
    assert record.state == "cancelled"
    assert job_state.claim(database, job_id, worker="w", lasts=HOUR) is None
    again = job_state.cancel(database, "acme", "model", job_id)
    assert again == record
    assert steps(database, job_id) == ["submit", "cancel"]


def test_a_running_job_is_asked_to_stop_and_its_worker_stops_it(database: Database) -> None:
    job_id = submit(database)
    lease = claim(database, job_id)
    for _ in range(2):
        record = job_state.cancel(database, "acme", "model", job_id)
        assert record is not None
        assert record.state == "running"
    assert job_state.heartbeat(database, lease) == "cancel"
    assert job_state.stop(database, lease)
    assert steps(database, job_id) == ["submit", "claim", "ask_to_cancel", "stop"]


def test_a_job_that_ended_cannot_be_cancelled(database: Database) -> None:
    job_id = submit(database)
    job_state.fail(database, claim(database, job_id), PROBLEM)
    with pytest.raises(EndedError, match="failed"):
        job_state.cancel(database, "acme", "model", job_id)
    record = job_records.get(database, "acme", "model", job_id)
    assert record is not None
    assert record.problem == PROBLEM.model_dump(mode="json")


def test_a_leaving_worker_gives_its_jobs_back_without_counting_the_attempt(database: Database) -> None:
    job_id = submit(database)
    lease = claim(database, job_id)
    assert job_state.ask_to_release(database, "another") == 0
    assert job_state.ask_to_release(database, "w") == 1
    assert job_state.heartbeat(database, lease) == "release"
    assert job_state.release(database, lease)
    assert list(job_state.unclaimed(database, published_before=None)) == [job_id]
    assert claim(database, job_id).attempt == 1


def test_a_lease_that_ran_out_is_taken_back_after_a_pause_that_doubles(database: Database, later: Clock) -> None:
    job_id = submit(database)
    for pause in (10, 20):
        lease = claim(database, job_id)
        later(2 * HOUR)
        assert job_state.expire(database, attempts=3, backoff=timedelta(seconds=10)) == [job_id]
        assert job_state.claim(database, job_id, worker="w", lasts=HOUR) is None
        assert list(job_state.unclaimed(database, published_before=None)) == []
        later(timedelta(seconds=pause))
        assert list(job_state.unclaimed(database, published_before=None)) == [job_id]
        assert list(job_state.unclaimed(database, published_before=None)) == []
        assert job_state.heartbeat(database, lease) == "lost"
        assert not job_state.succeed(database, lease, {})
    claim(database, job_id)
    later(2 * HOUR)
    assert job_state.expire(database, attempts=3, backoff=timedelta(seconds=10)) == [job_id]
    record = job_records.get(database, "acme", "model", job_id)
    assert record is not None
    assert record.state == "failed"
    assert record.problem is not None
    assert record.problem["type"] == "urn:caveat:problem:worker-lost"


def test_a_job_that_something_killed_is_begun_again_and_its_last_attempt_says_how_it_ended(
    database: Database, later: Clock
) -> None:
    job_id = submit(database)
    killed = ProblemDetails.of("child-died", 500, "It was killed.", "Look for what killed it.")
    for attempt in (1, 2):
        lease = claim(database, job_id)
        assert job_state.retry(database, lease, killed, attempts=3, backoff=HOUR)
        assert job_state.claim(database, job_id, worker="w", lasts=HOUR) is None, "the pause"
        assert not job_state.retry(database, lease, killed, attempts=3, backoff=HOUR), "the lease is gone"
        later(min(HOUR * attempt, job_state.LONGEST_PAUSE))
    assert job_state.retry(database, claim(database, job_id), killed, attempts=3, backoff=HOUR)
    record = job_records.get(database, "acme", "model", job_id)
    assert record is not None
    assert (record.state, record.problem) == ("failed", killed.model_dump(mode="json"))


def test_a_lease_that_was_renewed_does_not_run_out(database: Database, later: Clock) -> None:
    lease = claim(database, submit(database))
    later(HOUR / 2)
    assert job_state.heartbeat(database, lease) == "go_on"
    later(HOUR * 0.9)
    assert job_state.expire(database, attempts=3, backoff=HOUR) == []


def test_a_job_to_be_cancelled_whose_worker_vanished_is_cancelled(database: Database, later: Clock) -> None:
    job_id = submit(database)
    claim(database, job_id)
    job_state.cancel(database, "acme", "model", job_id)
    later(2 * HOUR)
    job_state.expire(database, attempts=3, backoff=HOUR)
    assert state(database, job_id) == "cancelled"


def test_a_bell_that_nobody_heard_is_rung_again(database: Database, later: Clock) -> None:
    job_id = submit(database)
    assert list(job_state.unclaimed(database, published_before=timedelta(seconds=5))) == []
    later(timedelta(seconds=6))
    assert list(job_state.unclaimed(database, published_before=None)) == []
    assert list(job_state.unclaimed(database, published_before=timedelta(seconds=5))) == [job_id]
    assert list(job_state.unclaimed(database, published_before=timedelta(seconds=5))) == []


def test_pages_go_from_the_newest_to_the_oldest(database: Database) -> None:
    made = [submit(database) for _ in range(5)]
    newest = job_records.page(database, "acme", "model", limit=2)
    assert {record.id for record in newest} < set(made)
    assert [record.id for record in newest] == sorted(made, reverse=True)[:2]
    rest = job_records.page(database, "acme", "model", limit=9, before=newest[-1].id)
    assert [record.id for record in rest] == sorted(made, reverse=True)[2:]
    job_state.cancel(database, "acme", "model", made[0])
    assert [record.id for record in job_records.page(database, "acme", "model", limit=9, state="cancelled")] == [
        made[0]
    ]


def test_times_come_back_as_they_went_in(database: Database) -> None:
    before = job_records.now()
    job_id = submit(database)
    record = job_records.get(database, "acme", "model", job_id)
    assert record is not None
    assert isinstance(record.created_at, datetime)
    assert before <= record.created_at <= job_records.now()


def test_every_step_leaves_from_a_state_that_some_step_reaches() -> None:
    reached = {after for _, after in STEPS.values()}
    left = {before for before, _ in STEPS.values() if before is not None}
    assert left <= reached
    assert reached - left == ENDED


@pytest.mark.parametrize("skew", [-60, 60])
def test_the_clocks_of_machines_neither_end_a_lease_nor_prolong_it(
    postgresql: str, monkeypatch: pytest.MonkeyPatch, skew: float
) -> None:
    """A worker whose clock was 31 seconds ahead took a lease back that was held; SQLite has one machine, one clock."""
    migrate(postgresql)
    database, real = Database(postgresql), job_records.now

    def skewed() -> pytest.MonkeyPatch:
        for module in (job_state, job_records):
            monkeypatch.setattr(module, "now", lambda: real() + timedelta(seconds=skew), raising=False)
        return monkeypatch

    skewed()
    job_id = submit(database)
    monkeypatch.undo()
    lease = job_state.claim(database, job_id, worker="w", lasts=timedelta(seconds=30))
    assert lease is not None, "a job waits for no clock of the machine that submitted it"
    skewed()
    assert job_id not in job_state.expire(database, attempts=3, backoff=timedelta(0))
    assert job_state.heartbeat(database, lease) == "go_on"
    monkeypatch.undo()
    assert job_id not in job_state.expire(database, attempts=3, backoff=timedelta(0))
    assert job_state.heartbeat(database, replace(lease, lasts=timedelta(0))) == "go_on"
    skewed()
    assert job_id in job_state.expire(database, attempts=3, backoff=timedelta(0))
    database.close()
