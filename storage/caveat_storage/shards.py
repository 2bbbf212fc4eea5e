"""Large audits as several jobs: divided, counted down as their shards end, and queued again after the last one.

```
  audit    running ──divide──► running, without a lease ──shard, shard, …──► join ──► queued ──claim──► running ──► …
  shards                       queued ──claim──► running ──succeed──► succeeded
```

Shards are ordinary jobs with their own leases, heartbeats and retries, so a lost one is redone alone. The counter is in
the row of the audit and decreases in the transaction that ends a shard.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, Select, and_, or_, select

from caveat_spec.jobs import Division
from caveat_spec.problem import ProblemDetails
from caveat_storage.job_records import Database, clock, new_id
from caveat_storage.job_state import BACK_IN_QUEUE, ENDED, NO_LEASE, STEPS, Lease, held_step, note, step
from caveat_storage.tables import jobs

FROM, TO = 0.06, 0.6
"""Progress of an audit when its shards begin, and when all are done."""
Pieces = dict[str, str]
"""Name of a piece of an array → digest of its bytes."""

DIVIDED = and_(jobs.c.kind == "audit", jobs.c.state == "running", jobs.c.lease_token.is_(None), jobs.c.shards > 0)


def divide(database: Database, lease: Lease, division: Division) -> list[str]:
    """Ends the lease of an audit and queues its shards; returns their ids, or none if the lease was lost."""
    with database.writing() as connection:
        moment = clock(connection)
        divided = held_step(
            connection, "divide", lease, data={"shards": len(division.shards)},
            shards=len(division.shards), shards_left=len(division.shards), attempts=jobs.c.attempts - 1,
            stage="collecting", progress=FROM, **NO_LEASE,
        )  # fmt: skip
        if not divided:
            return []
        urgency = connection.execute(select(jobs.c.urgency).where(jobs.c.id == lease.job_id)).scalar_one()
        ids = [new_id() for _ in division.shards]
        for shard_id, asked in zip(ids, division.shards, strict=True):
            payload = {"audit": lease.payload, **asked, "interacts": division.interacts}
            values: dict[str, Any] = {
                "id": shard_id, "tenant": lease.tenant, "kind": "shard", "queue": lease.queue, "urgency": urgency,
                "payload": payload,
                "state": STEPS["submit"][1], "stage": "queued", "progress": 0.0, "attempts": 0,
                "cancel_requested": False, "release_requested": False, "parent_id": lease.job_id,
                "traceparent": lease.traceparent,
                "available_at": moment, "published_at": moment, "created_at": moment, "updated_at": moment,
            }  # fmt: skip
            connection.execute(jobs.insert().values(**values))
            note(connection, lease.tenant, shard_id, "shard", "submit", {"kind": "shard"}, lease.worker, {})
        return ids


def succeed(database: Database, lease: Lease, pieces: Pieces) -> str | None:
    """Ends a shard with its pieces; returns the id of its audit if that was the last shard and the audit is queued."""
    with database.writing() as connection:
        done = held_step(
            connection, "succeed", lease, data={}, result={"pieces": pieces}, stage="done", progress=1.0, **NO_LEASE
        )
        if not done:
            return None
        parent = connection.execute(select(jobs.c.parent_id).where(jobs.c.id == lease.job_id)).scalar_one()
        counter = select(jobs.c.shards, jobs.c.shards_left).where(jobs.c.id == parent, DIVIDED).with_for_update()
        counted = connection.execute(counter).one_or_none()
        if counted is None:
            return None  # the audit has ended
        left = counted.shards_left - 1
        finished = counted.shards - left
        step(
            connection, "shard", parent, DIVIDED, data={"done": finished, "of": counted.shards},
            shards_left=left, progress=round(FROM + (TO - FROM) * finished / counted.shards, 4),
        )  # fmt: skip
        if left:
            return None
        step(connection, "join", parent, DIVIDED, **BACK_IN_QUEUE | {"progress": TO, "published_at": clock(connection)})
        return str(parent)


def parent_of(database: Database, shard_id: str) -> str:
    """The id of a shard's audit."""
    with database.reading() as connection:
        return str(connection.execute(select(jobs.c.parent_id).where(jobs.c.id == shard_id)).scalar_one())


def pieces_of(database: Database, audit_id: str) -> Pieces:
    """The pieces that the shards of an audit left; none if it was not divided."""
    wanted = select(jobs.c.result).where(jobs.c.parent_id == audit_id, jobs.c.state == "succeeded")
    with database.reading() as connection:
        return {name: digest for row in connection.scalars(wanted) if row for name, digest in row["pieces"].items()}


def settle(database: Database) -> None:
    """Ends divided audits that were cancelled or lost a shard for good, and the shards of audits that ended."""
    shard = jobs.alias()
    lost = select(shard.c.problem).where(shard.c.parent_id == jobs.c.id, shard.c.state == "failed").limit(1)
    over = or_(jobs.c.cancel_requested, lost.exists())
    with database.reading() as connection:
        audits = connection.execute(
            select(jobs.c.id, jobs.c.cancel_requested, lost.scalar_subquery().label("problem")).where(DIVIDED, over)
        ).all()
    for audit in audits:
        with database.writing() as connection:
            if audit.cancel_requested:
                step(connection, "stop", audit.id, DIVIDED)
            else:
                problem = ProblemDetails.model_validate(audit.problem)
                data = {"problem": problem.type}
                step(connection, "fail", audit.id, DIVIDED, data=data, problem=problem.model_dump(mode="json"))
    for shard_id in _orphans(database):
        with database.writing() as connection:
            _cancel(connection, shard_id)


def leftovers(database: Database) -> Iterator[str]:
    """Yields ended audits whose pieces the caller has to delete; each is cleared when the caller asks for the next."""
    needless = and_(jobs.c.parent_id.in_(_ended()), jobs.c.state.in_(ENDED), jobs.c.result.is_not(None))
    with database.reading() as connection:
        audits = list(connection.scalars(select(jobs.c.parent_id).where(needless).distinct()))
    for audit in audits:
        yield audit
        with database.writing() as connection:
            connection.execute(jobs.update().where(needless, jobs.c.parent_id == audit).values(result=None))


def _orphans(database: Database) -> list[str]:
    """Queued or running shards whose audit has ended."""
    alive = and_(jobs.c.state.in_(("queued", "running")), jobs.c.cancel_requested.is_(False))
    with database.reading() as connection:
        return list(connection.scalars(select(jobs.c.id).where(jobs.c.parent_id.in_(_ended()), alive)))


def _ended() -> Select[tuple[str]]:
    """The ids of divided audits that have ended."""
    audit = jobs.alias()
    return select(audit.c.id).where(audit.c.kind == "audit", audit.c.shards > 0, audit.c.state.in_(ENDED))


def _cancel(connection: Connection, shard_id: str) -> None:
    mine = jobs.c.kind == "shard"
    if not step(connection, "cancel", shard_id, mine, cancel_requested=True):
        step(connection, "ask_to_cancel", shard_id, mine, cancel_requested=True)
