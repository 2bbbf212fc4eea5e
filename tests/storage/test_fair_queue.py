"""Whose turn it is: a tenant with a long queue delays nobody else, on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Event
from typing import Any

import pytest
from celery import Celery
from pydantic import ValidationError
from sqlalchemy import event

from caveat_spec.jobs import QUEUES, Division, Rows
from caveat_storage import job_records, job_state, retention, shards
from caveat_storage.fair_queue import Shares
from caveat_storage.job_records import Database, new_id, now
from caveat_storage.job_state import Lease
from caveat_storage.tables import jobs
from caveat_worker.jobs import reaper
from caveat_worker.jobs.settings import Settings

HOUR = timedelta(hours=1)


def backlog(database: Database, tenant: str, many: int) -> None:
    """Queues jobs of a tenant without the rest of their life."""
    moment = now()
    row = {
        "tenant": tenant, "kind": "model", "payload": {}, "state": "queued", "stage": "queued", "progress": 0.0,
        "attempts": 0, "cancel_requested": False, "release_requested": False, "available_at": moment,
        "created_at": moment, "updated_at": moment,
    }  # fmt: skip
    with database.writing() as connection:
        connection.execute(jobs.insert(), [row | {"id": new_id()} for _ in range(many)])


def submit(database: Database, tenant: str, **also: Any) -> str:
    return job_state.submit(database, tenant, "model", {}, **also).record.id


def claim(database: Database, **also: Any) -> Lease:
    lease = job_state.claim_next(database, worker="w", lasts=HOUR, **also)
    assert lease is not None
    return lease


def turns(database: Database, many: int, *, keep: bool = False, **also: Any) -> str:
    """The tenants of the next jobs, each of which ends before the next is claimed unless they are to `keep` running."""
    taken = []
    for _ in range(many):
        lease = claim(database, **also)
        taken.append(lease.tenant)
        if not keep:
            assert job_state.succeed(database, lease, {})
    return "".join(taken)


def test_a_tenant_waits_for_one_job_of_a_tenant_with_two_thousand(database: Database) -> None:
    """Fairness looked at the first 1,000 queued jobs, so behind 1,861 of one tenant nobody else ever started."""
    backlog(database, "a", 2_000)
    submit(database, "b")
    assert "b" in turns(database, 2)


def test_another_tenant_is_published_although_a_full_one_has_two_thousand_jobs(database: Database) -> None:
    backlog(database, "a", 2_000)
    urgent = submit(database, "b")
    shares = Shares({}, most_running=2)
    turns(database, 2, keep=True, shares=Shares({}, most_running=1))
    with database.writing() as connection:
        connection.execute(jobs.update().values(published_at=None))
    assert urgent not in list(job_state.unclaimed(database, published_before=None, shares=shares)), "it runs"
    submit(database, "c")
    with database.writing() as connection:
        connection.execute(jobs.update().values(published_at=None))
    found = list(job_state.unclaimed(database, published_before=None, shares=shares))
    assert Counter(tenant_of(database, job) for job in found) == {"a": 1, "c": 1}


def tenant_of(database: Database, job_id: str) -> str:
    with database.reading() as connection:
        return str(connection.execute(jobs.select().where(jobs.c.id == job_id)).one().tenant)


@pytest.mark.parametrize("keep", [False, True], ids=["one slot", "many slots"])
def test_tenants_take_turns(database: Database, keep: bool) -> None:
    for tenant in "abc":
        backlog(database, tenant, 10)
    assert [*map(Counter, (turns(database, 3, keep=keep) for _ in range(3)))] == [Counter("abc")] * 3


@pytest.mark.parametrize("keep", [False, True], ids=["one slot", "many slots"])
def test_turns_are_in_proportion_to_weights(database: Database, keep: bool) -> None:
    for tenant in "abc":
        backlog(database, tenant, 40)
    weights = Shares({"a": 3, "b": 0.5})
    assert Counter(turns(database, 36, keep=keep, shares=weights)) == {"a": 24, "c": 8, "b": 4}


def test_a_tenant_that_asked_for_nothing_saves_up_no_turns(database: Database) -> None:
    submit(database, "b")
    turns(database, 1)
    backlog(database, "a", 100)
    turns(database, 50)
    backlog(database, "b", 100)
    assert Counter(turns(database, 10)) == {"a": 5, "b": 5}


def test_who_comes_last_does_not_wait_until_others_have_used_up_their_turns(database: Database) -> None:
    backlog(database, "a", 100)
    turns(database, 50)
    backlog(database, "z", 100)
    assert Counter(turns(database, 10)) == {"a": 5, "z": 5}


def test_long_jobs_of_a_tenant_leave_others_their_share_of_the_slots(database: Database) -> None:
    backlog(database, "a", 10)
    turns(database, 3, keep=True)
    backlog(database, "b", 10)
    assert turns(database, 3) == "bbb", "each is short and ends; a uses three slots meanwhile"


def test_the_most_urgent_job_of_a_tenant_runs_first_and_delays_no_other_tenant(database: Database) -> None:
    plain, urgent, least = submit(database, "a"), submit(database, "a", urgency=0), submit(database, "a", urgency=7)
    other = submit(database, "b")
    order = [claim(database).job_id for _ in range(4)]
    assert [job for job in order if job != other] == [urgent, plain, least]
    assert order.index(other) < 2


def test_shards_are_as_urgent_as_their_audit(database: Database) -> None:
    job_state.submit(database, "a", "audit", {}, urgency=1)
    lease = claim(database)
    submit(database, "a", urgency=2)
    rows = [[Rows(examples="pool", start=start, stop=start + 10)] for start in (0, 10)]
    parts = shards.divide(database, lease, Division(rows=rows, interacts=False))
    assert {claim(database).job_id for _ in parts} == set(parts)


def test_no_slot_is_idle_while_a_tenant_waits(database: Database) -> None:
    """Also if the one whose turn it is has only jobs for other workers, or that pause, or runs as many as it may."""
    for _ in range(2):
        submit(database, "a", queue="gpu")
    backlog(database, "b", 5)
    assert turns(database, 2, keep=True, queues=["default"], shares=Shares({}, most_running=3)) == "bb"
    paused = claim(database, queues=["default"])
    problem = job_state.ProblemDetails.of("x", 500, "It was killed.", "Try again.")
    assert job_state.retry(database, paused, problem, attempts=3, backoff=HOUR)
    assert turns(database, 2, queues=["default"], shares=Shares({}, most_running=3)) == "bb"
    assert job_state.claim_next(database, worker="w", lasts=HOUR, queues=["default"]) is None
    assert turns(database, 2, queues=QUEUES) == "aa"


def test_no_more_jobs_of_a_tenant_run_than_may_and_others_pass(database: Database) -> None:
    backlog(database, "a", 10)
    backlog(database, "b", 1)
    shares = Shares({}, most_running=2)
    with ThreadPoolExecutor(8) as pool:
        leases = list(
            pool.map(lambda _: job_state.claim_next(database, worker="w", lasts=HOUR, shares=shares), range(8))
        )
    assert Counter(lease.tenant for lease in leases if lease) == {"a": 2, "b": 1}


def test_a_job_is_claimed_once_however_many_ask(database: Database) -> None:
    for tenant in "abcd":
        backlog(database, tenant, 4)
    with ThreadPoolExecutor(8) as pool:
        leases = list(pool.map(lambda _: claim(database), range(16)))
    assert len({lease.job_id for lease in leases}) == 16
    assert Counter(lease.tenant for lease in leases[:8]).most_common(1)[0][1] <= 4


def test_pools_have_turns_of_their_own(database: Database) -> None:
    for _ in range(20):
        submit(database, "a", queue="gpu")
    turns(database, 20, queues=["gpu"])
    backlog(database, "a", 5)
    backlog(database, "b", 5)
    assert Counter(turns(database, 4, queues=["default"])) == {"a": 2, "b": 2}


def test_a_worker_that_leaves_claims_nothing_until_it_joins_again(database: Database) -> None:
    submit(database, "a")
    job_records.record_worker(database, "w", [])
    job_records.leave(database, "w")
    assert job_state.claim_next(database, worker="w", lasts=HOUR) is None
    job_records.record_worker(database, "w", [], leaving=True)
    assert job_state.claim_next(database, worker="w", lasts=HOUR) is None
    job_records.record_worker(database, "w", [])
    claim(database)


def test_a_worker_told_to_leave_before_its_first_report_claims_nothing(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its row is made by a report that comes after SIGTERM, when the database was away at the start."""
    submit(database, "a")
    told = Event()
    told.set()
    monkeypatch.setattr(reaper, "_leaving", told)
    monkeypatch.setattr(reaper, "_gone", told)
    monkeypatch.setattr(reaper, "reap", lambda *_: None)
    monkeypatch.setattr(job_records, "remove_worker", lambda *_: None)  # its last act
    job_records.leave(database, "w")
    reaper._reap_until_gone(Celery(), database, "w", [])
    assert job_state.claim_next(database, worker="w", lasts=HOUR) is None


@pytest.mark.parametrize("weight", ["0." + "0" * 400 + "1", "0.0001", "1" + "0" * 400, "0"])
def test_no_weight_is_so_small_or_large_that_turns_could_not_be_calculated(weight: str) -> None:
    """The first of them is 0 as a float, and a share is divided by it in every claim."""
    with pytest.raises(ValidationError, match="tenant_weights"):
        Settings(tenant_weights=f"a={weight}")


def test_nothing_of_an_erased_tenant_stays_in_the_turns(database: Database) -> None:
    submit(database, "a")
    turns(database, 1)
    retention.forget_tenant(database, "a", by="operator")
    with database.reading() as connection:
        assert list(connection.execute(job_state.fair_queue.turns.select())) == []


def test_a_turn_reads_no_more_rows_of_a_long_queue_than_of_a_short_one(database: Database) -> None:
    """By the plans of the database: each query finds its rows by an index, and no query sorts them."""
    backlog(database, "a", 3_000)
    backlog(database, "b", 3)
    with database.writing() as connection:
        connection.exec_driver_sql("ANALYZE")
    asked: list[tuple[str, Any]] = []
    event.listen(database.engine, "before_cursor_execute", lambda *said: asked.append((said[2], said[3])))
    claim(database)
    explain = "EXPLAIN QUERY PLAN " if database.engine.dialect.name == "sqlite" else "EXPLAIN "
    with database.reading() as connection:
        plans = {
            query: " ".join(str(row) for row in connection.exec_driver_sql(explain + query, given))
            for query, given in asked.copy()
            if query.startswith(("SELECT", "WITH")) and "jobs" in query
        }
    assert sum("ORDER BY jobs.urgency" in query for query in plans) >= 1
    for query, plan in plans.items():
        assert "Seq Scan on jobs" not in plan
        assert "SCAN jobs" not in plan.replace("SCAN jobs USING INDEX ix_jobs_running", ""), "only what runs is counted"
        if "ORDER BY jobs.urgency" in query:
            assert "Sort" not in plan
            assert "TEMP B-TREE" not in plan
