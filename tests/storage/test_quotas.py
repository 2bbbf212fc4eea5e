"""Quotas of tenants hold under concurrent requests."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

from caveat_storage import blob_registry, job_records, job_state
from caveat_storage.fair_queue import Shares
from caveat_storage.job_records import Database, NoRoomError
from caveat_storage.job_state import FullError, Lease

HOUR = timedelta(hours=1)


def submit(database: Database, tenant: str = "acme", **also: Any) -> str:
    return job_state.submit(database, tenant, "model", {}, **also).record.id


def claim(database: Database) -> Lease | None:
    return job_state.claim_next(database, worker="w", lasts=HOUR, shares=Shares({}, most_running=4))


def together(action: Callable[[Any], Any], over: Iterable[Any]) -> list[Any]:
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(action, over))


def test_a_job_that_ends_while_others_are_claimed_stops_nobody(database: Database) -> None:
    """A claim locks the turns, and the end of a job its tenant's log: neither waits for the other forever."""
    for _ in range(3):
        for _ in range(2):
            submit(database)
        leases = [claim(database) for _ in range(2)]
        waiting = [submit(database) for _ in range(4)]
        steps = [lambda lease=lease: job_state.succeed(database, lease, {}) for lease in leases if lease]
        steps += [lambda: claim(database) for _ in waiting]
        steps += [lambda job=job: job_state.cancel(database, "acme", "model", job) for job in waiting]
        assert together(lambda step: step(), steps)[: len(leases)] == [True] * len(leases)
        for job in waiting:
            job_state.cancel(database, "acme", "model", job)
        for job in job_records.page(database, "acme", "model", limit=100, state="running"):
            job_state.expire(database, attempts=1, backoff=HOUR)
            with database.writing() as connection:
                connection.execute(job_state.jobs.update().where(job_state.jobs.c.id == job.id).values(state="failed"))


def test_no_more_jobs_of_a_tenant_wait_than_may(database: Database) -> None:
    def ask(_: int) -> str | None:
        try:
            return submit(database, most_waiting=3)
        except FullError:
            return None

    assert sum(asked is not None for asked in together(ask, range(8))) == 3
    assert submit(database, "other", most_waiting=3)


def test_no_more_bytes_are_kept_than_there_is_room_for(database: Database) -> None:
    digests = [f"sha256:{number:064x}" for number in range(8)]
    for digest in digests:
        blob_registry.touch(database, digest)

    def own(digest: str) -> bool | int:
        try:
            return job_records.own(database, "acme", digest, 4, most=10)
        except NoRoomError as fault:
            return fault.used

    assert sorted(together(own, digests)) == [True] * 2 + [8] * 6
    owned = job_records.owned(database, "acme", digests)
    assert job_records.kept(database, "acme") == 8
    assert [own(digest) for digest in owned] == [False, False]
    assert job_records.own(database, "other", digests[0], 4, most=10)
