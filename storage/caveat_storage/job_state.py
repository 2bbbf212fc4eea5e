"""The state machine of jobs: the only code that changes a job's state.

```
  submit ──► queued ──claim──► running ──succeed──► succeeded
               ▲ │                │ │ │
               │ └─cancel─┐       │ │ └──fail, give_up──► failed
               │          ▼       │ │
               │      cancelled ◄─┘ └──release, retry──┐
               └───────────────────stop────────────────┘
```

Every step is one conditional UPDATE with its event in the same transaction, so a step is either done and recorded, or
not done. Requests and outcomes are also appended to the tenant's audit log (`caveat_storage.audit_log`) in that
transaction. The worker that runs a job holds a lease: a token that only it has, and a time by which it must renew it.
A step that requires the lease does nothing if the lease was lost, whatever its holder believes. `caveat_storage.shards`
runs a large audit as several jobs while nobody holds its lease (divide; shard, shard, …; join). A job whose queue has
no workers moves to the default queue (reroute).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from typing import Any, Literal, TypedDict, Unpack

from sqlalchemy import ColumnElement, Connection, and_, func, or_, select
from sqlalchemy.exc import IntegrityError

from caveat_spec.artifacts import Queue, Stage, State
from caveat_spec.jobs import QUEUES, JobKind
from caveat_spec.problem import ProblemDetails
from caveat_storage import audit_log, fair_queue, hash_chain, metrics, webhooks
from caveat_storage.fair_queue import Shares
from caveat_storage.job_records import (
    ANONYMOUS,
    RECORD,
    Database,
    Key,
    Record,
    clock,
    happened,
    idempotent_job,
    new_id,
    take_turn,
    unserved,
    upsert,
)
from caveat_storage.tables import QUEUED, deliveries, events, idempotency, jobs, tallies, workers
from caveat_storage.tables import uses as held

Step = Literal[
    "submit", "claim", "succeed", "fail", "cancel", "stop", "release", "retry", "give_up", "ask_to_cancel", "advance",
    "divide", "shard", "join", "reroute",
]  # fmt: skip

STEPS: dict[Step, tuple[State | None, State]] = {
    "submit": (None, "queued"),
    "claim": ("queued", "running"),
    "cancel": ("queued", "cancelled"),
    "ask_to_cancel": ("running", "running"),
    "advance": ("running", "running"),
    "succeed": ("running", "succeeded"),
    "fail": ("running", "failed"),
    "stop": ("running", "cancelled"),
    "release": ("running", "queued"),
    "retry": ("running", "queued"),
    "give_up": ("running", "failed"),
    "divide": ("running", "running"),
    "shard": ("running", "running"),
    "join": ("running", "queued"),
    "reroute": ("queued", "queued"),
}
"""Each step: the state it requires and the state it leads to."""

LOGGED: frozenset[Step] = frozenset({"submit", "cancel", "ask_to_cancel", "succeed", "fail", "stop", "give_up"})
"""Steps recorded in the audit log: requests and outcomes. Shards are not requests, so theirs are not recorded."""
ENDED: frozenset[State] = frozenset({"succeeded", "failed", "cancelled"})
NO_LEASE: dict[str, Any] = {"lease_owner": None, "lease_token": None, "lease_until": None, "release_requested": False}
BACK_IN_QUEUE: dict[str, Any] = {**NO_LEASE, "stage": "queued", "progress": 0.0, "published_at": None}

REAPER = "reaper"

LONGEST_PAUSE = timedelta(minutes=5)

AWAITED = and_(QUEUED, jobs.c.kind != "shard")
"""Jobs that were submitted and that no worker has claimed yet."""
MOST_PUBLISHED = 1000
"""About how many jobs are published at once; whoever hears of one of them takes the job whose turn it is."""
ORDINARY = 3
"""Urgency of a job whose client asked for none; 0 is the most urgent, 7 the least (RFC 9218)."""

Order = Literal["go_on", "cancel", "release", "lost"]
"""The answer to a heartbeat."""


@dataclass(frozen=True)
class Lease:
    """The right to run a job, as long as it is renewed in time."""

    job_id: str
    tenant: str
    kind: JobKind
    queue: Queue
    payload: dict[str, Any]
    token: str
    lasts: timedelta
    attempt: int
    worker: str
    traceparent: str | None
    """Trace context of the request (W3C Trace Context)."""


@dataclass(frozen=True)
class Submission:
    """A submitted job; `replayed` if an earlier request with its `Idempotency-Key` had submitted it."""

    record: Record
    replayed: bool


class KeyReusedError(Exception):
    """The `Idempotency-Key` was used before with another request."""


class GoneError(Exception):
    """Some bytes that the job refers to are no longer stored."""


class FullError(Exception):
    """The tenant has as many queued jobs as it may."""


class EndedError(Exception):
    """The job has ended and cannot be cancelled."""


class Asked(TypedDict, total=False):
    """What a job may be submitted with."""

    queue: Queue
    urgency: int
    name: str | None
    by: str
    """The principal."""
    sources: Collection[str]
    """The digests that the job will read, which are kept as long as the job."""
    to_fetch: Collection[str]
    """Those of `sources` that are not stored yet."""
    traceparent: str | None
    most_waiting: int
    """How many queued jobs the tenant may have; 0 for any number."""


def submit(
    database: Database,
    tenant: str,
    kind: JobKind,
    payload: dict[str, Any],
    *,
    key: Key | None = None,
    **asked: Unpack[Asked],
) -> Submission:
    """Stores a job, once for each idempotency key: job and key are written in one transaction.

    Raises:
        KeyReusedError: the key was used with another request.
        GoneError: some of `sources` are not stored.
        FullError: the tenant has `most_waiting` queued jobs already.
    """
    try:
        with database.writing() as connection:
            record = add(connection, tenant, kind, payload, **asked)
            if key is not None:
                said = {"tenant": tenant, "key": key.key, "fingerprint": key.fingerprint, "job_id": record.id}
                connection.execute(idempotency.insert(), {**said, "created_at": record.created_at})
        return Submission(record, replayed=False)
    except (IntegrityError, FullError) as fault:
        known = None if key is None else idempotent_job(database, tenant, key.key)
        if known is None:
            if isinstance(fault, FullError):
                raise
            raise GoneError from fault
    fingerprint, first = known
    if key is not None and fingerprint != key.fingerprint:
        raise KeyReusedError(key.key)
    with database.reading() as connection:
        return Submission(_read(connection, first), replayed=True)


def add(connection: Connection, tenant: str, kind: JobKind, payload: dict[str, Any], **asked: Unpack[Asked]) -> Record:
    """Stores a job in a transaction that writes something else with it.

    Raises:
        IntegrityError: some of its sources are not stored.
        FullError: the tenant has `most_waiting` queued jobs already.
    """
    name, sources, most_waiting = asked.get("name"), set(asked.get("sources", ())), asked.get("most_waiting", 0)
    job_id, moment = new_id(), clock(connection)
    values: dict[str, Any] = {
        "id": job_id, "tenant": tenant, "kind": kind, "payload": payload, "name": name,
        "queue": asked.get("queue", "default"), "urgency": asked.get("urgency", ORDINARY),
        "state": STEPS["submit"][1], "stage": "queued", "progress": 0.0, "attempts": 0,
        "cancel_requested": False, "release_requested": False, "traceparent": asked.get("traceparent"),
    }  # fmt: skip
    values |= dict.fromkeys(("available_at", "published_at", "created_at", "updated_at"), moment)
    if most_waiting:
        take_turn(connection, "submit", tenant)
        if _count(connection, tenant, AWAITED) >= most_waiting:
            raise FullError(most_waiting)
    connection.execute(jobs.insert(), values)
    _hold(connection, job_id, sources - set(asked.get("to_fetch", ())))
    said = {"request": hash_chain.digest(payload), "sources": sorted(sources), "name": name}
    note(connection, tenant, job_id, kind, "submit", {"kind": kind}, asked.get("by", ANONYMOUS), said)
    return _as_kept(values)


def claim(
    database: Database, job_id: str, *, worker: str, lasts: timedelta, queues: Collection[Queue] = QUEUES
) -> Lease | None:
    """Claims this job, out of turn; None if it is not queued, or in none of `queues`."""
    with database.writing() as connection:
        return _claim(connection, job_id, worker, lasts, queues)


def claim_next(
    database: Database,
    *,
    worker: str,
    lasts: timedelta,
    queues: Collection[Queue] = QUEUES,
    shares: Shares = fair_queue.EQUAL,
) -> Lease | None:
    """Claims the job whose turn it is in `queues`; None if no job may start, or if the worker is leaving."""
    with database.writing() as connection:
        take_turn(connection, "claim", "")
        leaves = select(workers.c.leaving).where(workers.c.name == worker)
        if connection.execute(leaves).scalar_one_or_none():
            return None
        job_id = fair_queue.next_job(connection, queues, shares, clock(connection))
        return None if job_id is None else _claim(connection, job_id, worker, lasts, queues)


def _claim(
    connection: Connection, job_id: str, worker: str, lasts: timedelta, queues: Collection[Queue]
) -> Lease | None:
    moment, token = clock(connection), new_id()
    taken = step(
        connection, "claim", job_id, and_(jobs.c.available_at <= moment, jobs.c.queue.in_(queues)),
        data={"worker": worker},
        lease_owner=worker, lease_token=seal(token), lease_until=moment + lasts,
        attempts=jobs.c.attempts + 1, stage="loading", progress=0.0,
    )  # fmt: skip
    if not taken:
        return None
    record = _read(connection, job_id)
    traceparent = connection.execute(select(jobs.c.traceparent).where(jobs.c.id == job_id)).scalar_one()
    return Lease(
        job_id, record.tenant, record.kind, record.queue, record.payload, token, lasts, record.attempts, worker,
        traceparent,
    )  # fmt: skip


def heartbeat(database: Database, lease: Lease) -> Order:
    """Renews a lease; returns whether the worker should go on."""
    with database.writing() as connection:
        held = and_(jobs.c.id == lease.job_id, show(connection, lease), jobs.c.state == "running")
        renewed = connection.execute(jobs.update().where(held).values(lease_until=clock(connection) + lease.lasts))
        if renewed.rowcount == 0:
            return "lost"
        asked = connection.execute(
            select(jobs.c.cancel_requested, jobs.c.release_requested).where(jobs.c.id == lease.job_id)
        ).one()
    if asked.cancel_requested:
        return "cancel"
    return "release" if asked.release_requested else "go_on"


def advance(database: Database, lease: Lease, stage: Stage, progress: float) -> bool:
    """Records the progress of a running job; a new stage is an event."""
    with database.writing() as connection:
        before = connection.execute(select(jobs.c.stage).where(jobs.c.id == lease.job_id)).scalar_one()
        data = {"stage": stage} if stage != before else None
        return held_step(connection, "advance", lease, data=data, stage=stage, progress=progress)


def succeed(
    database: Database,
    lease: Lease,
    result: dict[str, Any],
    report_digest: str | None = None,
    maps_digest: str | None = None,
) -> bool:
    """Ends a job with its result; the bytes of its report, and of the report's file of maps, are stored before."""
    said = {"outcome": result.get("outcome")} if report_digest else {}
    data = {"report_digest": report_digest} | ({"maps_digest": maps_digest} if maps_digest else {})
    with database.writing() as connection:
        return held_step(
            connection, "succeed", lease, data=data, said=said, uses=[one for one in data.values() if one],
            result=result, **data, stage="done", progress=1.0, **NO_LEASE,
        )  # fmt: skip


def fail(database: Database, lease: Lease, problem: ProblemDetails) -> bool:
    """Ends a job with a problem."""
    with database.writing() as connection:
        data = {"problem": problem.type}
        return held_step(connection, "fail", lease, data=data, problem=problem.model_dump(mode="json"), **NO_LEASE)


def retry(database: Database, lease: Lease, problem: ProblemDetails, *, attempts: int, backoff: timedelta) -> bool:
    """Returns a job whose process was killed to the queue after a pause; the last of its `attempts` fails instead."""
    if lease.attempt >= attempts:
        return fail(database, lease, problem)
    with database.writing() as connection:
        data = {"attempt": lease.attempt, "problem": problem.type}
        later = clock(connection) + _pause(backoff, lease.attempt)
        return held_step(connection, "retry", lease, data=data, available_at=later, **BACK_IN_QUEUE)


def stop(database: Database, lease: Lease) -> bool:
    """Ends a running job whose cancellation was requested."""
    with database.writing() as connection:
        return held_step(connection, "stop", lease, **NO_LEASE)


def release(database: Database, lease: Lease) -> bool:
    """Returns a job to the queue because its worker is leaving; the attempt does not count."""
    with database.writing() as connection:
        return held_step(connection, "release", lease, attempts=jobs.c.attempts - 1, **BACK_IN_QUEUE)


def cancel(database: Database, tenant: str, kind: JobKind, job_id: str, *, by: str = ANONYMOUS) -> Record | None:
    """Cancels a queued job, or asks the worker of a running one to stop; None if the tenant has no such job.

    Raises:
        EndedError: the job has succeeded or failed.
    """
    mine = and_(jobs.c.tenant == tenant, jobs.c.kind == kind)
    with database.writing() as connection:
        if not step(connection, "cancel", job_id, mine, by=by, cancel_requested=True):
            step(
                connection,
                "ask_to_cancel",
                job_id,
                and_(mine, jobs.c.cancel_requested.is_(False)),
                by=by,
                cancel_requested=True,
            )
        row = connection.execute(select(*RECORD).where(mine, jobs.c.id == job_id)).one_or_none()
    record = None if row is None else Record(**row._mapping)
    if record is not None and record.state in ("succeeded", "failed"):
        raise EndedError(record.state)
    return record


def ask_to_release(database: Database, worker: str) -> int:
    """Asks a leaving worker to give its jobs back; returns their number."""
    held = and_(jobs.c.state == "running", jobs.c.lease_owner == worker)
    with database.writing() as connection:
        return connection.execute(jobs.update().where(held).values(release_requested=True)).rowcount


def expire(database: Database, *, attempts: int, backoff: timedelta) -> list[str]:
    """Takes back jobs whose lease expired: into the queue after a pause that doubles, or as failed after `attempts`."""
    with database.reading() as connection:
        ran_out = and_(jobs.c.state == "running", jobs.c.lease_until < clock(connection))
        lost = connection.execute(
            select(jobs.c.id, jobs.c.lease_token, jobs.c.attempts, jobs.c.cancel_requested).where(ran_out)
        ).all()
    taken = []
    for row in lost:
        with database.writing() as connection:
            moment = clock(connection)
            still = and_(jobs.c.lease_token == row.lease_token, jobs.c.lease_until < moment)
            if row.cancel_requested:
                done = step(connection, "stop", row.id, still, **NO_LEASE)
            elif row.attempts < attempts:
                later = moment + _pause(backoff, row.attempts)
                done = step(
                    connection, "retry", row.id, still, data={"attempt": row.attempts},
                    available_at=later, **BACK_IN_QUEUE,
                )  # fmt: skip
            else:
                problem = _given_up(row.attempts).model_dump(mode="json")
                done = step(connection, "give_up", row.id, still, problem=problem, **NO_LEASE)
            if done:
                metrics.count(connection, "expired")
        taken += [row.id] * done
    return taken


def reroute(database: Database, *, after: timedelta) -> list[str]:
    """Moves jobs that waited for `after` in a queue that no worker served for as long to the default queue.

    The audit of a shard moves with it, so that a worker learns of the end of the shards.
    """
    left = unserved(database, for_=after) - {"default"}
    with database.reading() as connection:
        old = jobs.c.updated_at < clock(connection) - after
        stuck = and_(jobs.c.state == "queued", jobs.c.queue.in_(left), old)
        found = connection.execute(select(jobs.c.id, jobs.c.queue, jobs.c.parent_id).where(stuck)).all() if left else []
    sent = []
    for row in found:
        with database.writing() as connection:
            data = {"from": row.queue, "to": "default", "why": f"no worker served the queue '{row.queue}'"}
            if step(connection, "reroute", row.id, stuck, data=data, queue="default", published_at=None):
                connection.execute(jobs.update().where(jobs.c.id == row.parent_id).values(queue="default"))
                sent.append(row.id)
    return sent


def unclaimed(
    database: Database,
    *,
    published_before: timedelta | None,
    queue: Queue = "default",
    shares: Shares = fair_queue.EQUAL,
) -> Iterator[str]:
    """Yields jobs of a queue that have to be published, each recorded as published before it is yielded.

    These are jobs that returned to the queue and, with `published_before`, jobs whose last publication is older than
    that. Every tenant has an equal part of the `MOST_PUBLISHED`, and no more than it may start.
    """
    quiet: ColumnElement[bool] = jobs.c.published_at.is_(None)
    with database.reading() as connection:
        moment = clock(connection)
        if published_before is not None:
            quiet = or_(quiet, jobs.c.published_at < moment - published_before)
        tenants, at_work = fair_queue.waiting(connection), fair_queue.running(connection)
        found: list[str] = []
        for tenant in tenants:
            room = shares.room(sum(at_work[tenant].values()))
            most = -(-MOST_PUBLISHED // len(tenants))
            limit = most if room is None else min(room, most)
            found += fair_queue.heads(connection, tenant, [queue], moment, limit=limit, which=quiet)
    for job_id in found:
        with database.writing() as connection:
            due = and_(jobs.c.id == job_id, jobs.c.state == "queued", jobs.c.queue == queue, quiet)
            ours = connection.execute(jobs.update().where(due).values(published_at=moment)).rowcount == 1
        if ours:
            yield job_id


def _count(connection: Connection, tenant: str, which: ColumnElement[bool]) -> int:
    counted = select(func.count()).where(jobs.c.tenant == tenant, which)
    return connection.execute(counted).scalar_one()


def _pause(backoff: timedelta, attempt: int) -> timedelta:
    """The pause after an attempt; it doubles each time, up to `LONGEST_PAUSE`."""
    return min(backoff * (1 << min(attempt - 1, 30)), LONGEST_PAUSE)


def _given_up(attempts: int) -> ProblemDetails:
    return ProblemDetails.of(
        "worker-lost",
        500,
        f"The worker of this job vanished {attempts} times before the job was done: it was killed or stopped, or it no "
        "longer reached the database.",
        "Look for restarts of workers (most often for memory: CAVEAT_MEMORY_BYTES or the container's limit) and for "
        "their connection to the database in their logs, then submit the job again.",
    )


def held_step(connection: Connection, which: Step, lease: Lease, **values: Any) -> bool:
    """Takes a step of a leased job; returns False and does nothing if the lease was lost."""
    return step(connection, which, lease.job_id, show(connection, lease), by=lease.worker, **values)


def seal(token: str) -> str:
    """What the database keeps of a lease's token, so that whoever reads it cannot act as the lease's holder."""
    return sha256(token.encode()).hexdigest()[:26]


def show(connection: Connection, lease: Lease) -> ColumnElement[bool]:
    """Shows a lease to PostgreSQL for this transaction (migration 0010); returns the condition that it is held."""
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.set_config("caveat.lease", lease.token, True)))
    return jobs.c.lease_token == seal(lease.token)


def step(
    connection: Connection,
    which: Step,
    job_id: str,
    condition: Any,
    *,
    by: str = REAPER,
    data: dict[str, Any] | None = None,
    said: dict[str, Any] | None = None,
    uses: Collection[str] = (),
    **values: Any,
) -> bool:
    """Takes a step of a job and records its event; returns False and does nothing if the job's state does not fit.

    `data` is stored with the event and in the audit log, `by` and `said` in the audit log only. The job then keeps the
    bytes that it `uses`.
    """
    before, after = STEPS[which]
    ready = and_(jobs.c.id == job_id, jobs.c.state == before, condition)
    moved = connection.execute(jobs.update().where(ready).values(state=after, updated_at=clock(connection), **values))
    if moved.rowcount == 0:
        return False
    if which != "advance" or data is not None:
        tenant, kind = connection.execute(select(jobs.c.tenant, jobs.c.kind).where(jobs.c.id == job_id)).one()
        _hold(connection, job_id, uses)
        if after in ENDED:
            _tell(connection, _read(connection, job_id))
        note(connection, tenant, job_id, kind, which, data or {}, by, said or {})
    return True


def _tell(connection: Connection, ended: Record) -> None:
    """Counts an audit that ended and writes its messages to webhooks."""
    if ended.kind == "audit":
        webhooks.announce(connection, ended)
        metrics.count(connection, "audits", ended.state)
        metrics.observe(connection, metrics.stages(happened(connection, ended.tenant, ended.id), ended.updated_at))


def _hold(connection: Connection, job_id: str, digests: Collection[str]) -> None:
    """Records the bytes that a job uses, which are kept as long as the job."""
    if digests:
        connection.execute(held.insert(), [{"job_id": job_id, "digest": digest} for digest in sorted(set(digests))])


def note(
    connection: Connection,
    tenant: str,
    job_id: str,
    kind: JobKind,
    which: Step,
    data: dict[str, Any],
    by: str,
    said: dict[str, Any],
) -> None:
    """Records a step as the last write of its transaction, since appending to the audit log locks its head."""
    connection.execute(events.insert(), {"tenant": tenant, "job_id": job_id, "at": clock(connection),
                                        "what": which, "data": data})  # fmt: skip
    if which in LOGGED and kind != "shard":
        audit_log.append(connection, tenant, which, {**data, **said, "by": by}, job_id)


def _as_kept(values: Mapping[str, Any]) -> Record:
    """The record of a job that was just inserted; columns without a value are None."""
    fields: dict[str, Any] = {field: values.get(field) for field in Record.__dataclass_fields__}
    return Record(**fields)


def _read(connection: Connection, job_id: str) -> Record:
    row = connection.execute(select(*RECORD).where(jobs.c.id == job_id)).one()
    return Record(**row._mapping)


def erase(connection: Connection, job_ids: Sequence[str]) -> None:
    """Deletes jobs and everything that belongs to them; the counts of their steps stay."""
    counted = select(events.c.what, func.count()).where(events.c.job_id.in_(job_ids)).group_by(events.c.what)
    for what, count in connection.execute(counted.order_by(events.c.what)).all():
        before = connection.execute(select(tallies.c.count).where(tallies.c.what == what)).scalar_one_or_none()
        upsert(connection, tallies, {"what": what, "count": count + (before or 0)})
    connection.execute(events.delete().where(events.c.job_id.in_(job_ids)))
    connection.execute(deliveries.delete().where(deliveries.c.job_id.in_(job_ids)))
    connection.execute(jobs.delete().where(jobs.c.id.in_(job_ids)))
