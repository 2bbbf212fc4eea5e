"""Divided audits have one counter and end once, whatever happens to their shards."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from caveat_spec.jobs import Division, Rows
from caveat_spec.problem import ProblemDetails
from caveat_storage import job_records, job_state, shards
from caveat_storage.job_records import Database, Record
from caveat_storage.job_state import Lease

LASTS = timedelta(seconds=30)
ROWS = [[Rows(examples="pool", start=start, stop=start + 10)] for start in range(0, 80, 10)]
PARTS = Division(rows=ROWS, interacts=False)
PROBLEM = ProblemDetails.of("not-finite", 422, "It is not finite.", "Look at it.")


def claimed(database: Database, job_id: str) -> Lease:
    lease = job_state.claim(database, job_id, worker="w", lasts=LASTS)
    assert lease is not None
    return lease


def divided(database: Database) -> tuple[str, list[str]]:
    """A divided audit and its shards."""
    audit = job_state.submit(database, "t", "audit", {"model": "m"}).record.id
    return audit, shards.divide(database, claimed(database, audit), PARTS)


def get(database: Database, audit: str) -> Record:
    record = job_records.get(database, "t", "audit", audit)
    assert record is not None
    return record


def test_the_last_shard_of_many_at_once_puts_the_audit_back(database: Database) -> None:
    audit, parts = divided(database)
    assert (get(database, audit).state, get(database, audit).attempts) == ("running", 0)
    leases = [claimed(database, part) for part in parts]
    assert {lease.payload["rows"][0]["start"] for lease in leases} == set(range(0, 80, 10))
    with ThreadPoolExecutor(4) as pool:
        ended = list(pool.map(lambda lease: shards.succeed(database, lease, {lease.job_id: "d"}), leases))
    assert sorted(filter(None, ended)) == [audit]
    record = get(database, audit)
    assert (record.state, record.shards, record.shards_left) == ("queued", 8, 0)
    assert shards.pieces_of(database, audit) == dict.fromkeys(parts, "d")
    counts = [event.data["done"] for event in job_records.history(database, "t", audit) if event.what == "shard"]
    assert sorted(counts) == list(range(1, 9))
    job_state.succeed(database, claimed(database, audit), {})
    assert get(database, audit).attempts == 1


def test_a_lost_shard_is_redone_alone(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    audit, parts = divided(database)
    late = claimed(database, parts[0])
    real = job_records.clock
    monkeypatch.setattr(job_state, "clock", lambda connection: real(connection) + 2 * LASTS)
    assert job_state.expire(database, attempts=3, backoff=timedelta(0)) == [parts[0]]
    again = claimed(database, parts[0])
    assert again.attempt == 2
    assert shards.succeed(database, late, {}) is None
    assert get(database, audit).shards_left == 8
    shards.succeed(database, again, {})
    assert get(database, audit).shards_left == 7


def test_an_audit_that_is_cancelled_ends_with_its_shards(database: Database) -> None:
    audit, parts = divided(database)
    running = claimed(database, parts[0])
    shards.succeed(database, claimed(database, parts[1]), {"a": "d"})
    job_state.cancel(database, "t", "audit", audit)
    shards.settle(database)
    shards.settle(database)
    assert get(database, audit).state == "cancelled"
    assert job_state.heartbeat(database, running) == "cancel"
    assert job_state.claim(database, parts[2], worker="w", lasts=LASTS) is None
    job_state.stop(database, running)
    assert list(shards.leftovers(database)) == [audit]
    assert list(shards.leftovers(database)) == []


def test_an_audit_fails_with_the_shard_that_failed_for_good(database: Database) -> None:
    audit, parts = divided(database)
    shards.settle(database)
    assert get(database, audit).state == "running"
    job_state.fail(database, claimed(database, parts[3]), PROBLEM)
    shards.settle(database)
    record = get(database, audit)
    assert (record.state, record.problem) == ("failed", PROBLEM.model_dump(mode="json"))
    assert job_state.claim(database, parts[0], worker="w", lasts=LASTS) is None


def test_a_lease_that_was_lost_divides_nothing(database: Database) -> None:
    audit = job_state.submit(database, "t", "audit", {}).record.id
    lease = claimed(database, audit)
    job_state.release(database, lease)
    assert shards.divide(database, lease, PARTS) == []
    assert get(database, audit).shards is None
