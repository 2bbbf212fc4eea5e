"""The life of a job: the one place where a state changes.

```
  submit ──► queued ──claim──► running ──succeed──► succeeded
               ▲ │                │ │ │
               │ └─cancel─┐       │ │ └──fail, give_up──► failed
               │          ▼       │ │
               │      cancelled ◄─┘ └──release, retry──┐
               └───────────────────stop────────────────┘
```

Every step is one conditional UPDATE with its event in the same transaction, so a step either happened and is on record,
or did not. What was asked and how it ended goes into the tenant's log (`vault.chain`) too, in that same transaction.
Whoever runs a job holds a lease: a token that nobody else has, and a time until which it must be heard from again. A
step that needs the lease does nothing once the lease was lost, whatever the one that lost it believes. How a large
audit runs as several jobs while nobody holds its lease (divide; shard, shard, …; join) is in `vault.shards`. A job that
waits for workers who are not there waits in another queue from then on (reroute).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, and_, func, or_, select
from sqlalchemy.exc import IntegrityError

from api_spec.artifacts import Queue, Stage, State
from api_spec.jobs import QUEUES, JobKind
from api_spec.problem import Problem
from vault import chain, ledger, measures, webhooks
from vault.records import (
    NOBODY,
    RECORD,
    Database,
    Key,
    Record,
    happened,
    keyed,
    new_id,
    now,
    take_turn,
    unserved,
)
from vault.tables import events, idempotency, jobs
from vault.tables import uses as held

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
"""Each step: the state that it needs, and the one that it leads to."""

LOGGED: frozenset[Step] = frozenset({"submit", "cancel", "ask_to_cancel", "succeed", "fail", "stop", "give_up"})
"""The steps that are evidence: what was asked, by whom, and what came of it. Those of shards are nobody's request."""
ENDED: frozenset[State] = frozenset({"succeeded", "failed", "cancelled"})
NO_LEASE: dict[str, Any] = {"lease_owner": None, "lease_token": None, "lease_until": None, "release_requested": False}
BACK_IN_QUEUE: dict[str, Any] = {**NO_LEASE, "stage": "queued", "progress": 0.0, "rung_at": None}

REAPER = "reaper"

LONGEST_PAUSE = timedelta(minutes=5)

AT_WORK = and_(jobs.c.state == "running", jobs.c.lease_token.is_not(None))
"""Jobs that a worker has; an audit that waits for its shards is not among them."""
AWAITED = and_(jobs.c.state == "queued", jobs.c.kind != "shard")
"""Jobs that somebody asked for and that no worker has yet."""

Order = Literal["go_on", "cancel", "release", "lost"]
"""What a heartbeat is answered with."""


@dataclass(frozen=True)
class Lease:
    """The right to run one job, until it is not renewed in time."""

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
    """Where the trace of the request goes on (W3C Trace Context)."""


@dataclass(frozen=True)
class Submission:
    """A job that was asked for; `replayed` if its `Idempotency-Key` had asked for it before."""

    record: Record
    replayed: bool


class KeyReusedError(Exception):
    """An `Idempotency-Key` came again with another request."""


class GoneError(Exception):
    """Bytes that a job names are not kept any more."""


class FullError(Exception):
    """As many jobs of a tenant wait as may."""


class EndedError(Exception):
    """The job has ended, so it cannot be cancelled."""


def submit(
    database: Database,
    tenant: str,
    kind: JobKind,
    payload: dict[str, Any],
    *,
    queue: Queue = "default",
    name: str | None = None,
    key: Key | None = None,
    by: str = NOBODY,
    sources: Collection[str] = (),
    traceparent: str | None = None,
    most_waiting: int = 0,
) -> Submission:
    """Keeps a job, once for each key: the job and its key are one transaction, so there is no time in between.

    `by` says who asks; `sources` are the digests that the job will read, which stay as long as it does.

    Raises:
        KeyReusedError: the key stands for another request.
        GoneError: some of `sources` are not kept.
        FullError: `most_waiting` jobs of the tenant wait already.
    """
    job_id, moment = new_id(), now()
    values: dict[str, Any] = {
        "id": job_id, "tenant": tenant, "kind": kind, "queue": queue, "name": name, "payload": payload,
        "state": STEPS["submit"][1], "stage": "queued", "progress": 0.0, "attempts": 0,
        "cancel_requested": False, "release_requested": False, "traceparent": traceparent,
        "available_at": moment, "rung_at": moment, "created_at": moment, "updated_at": moment,
    }  # fmt: skip
    try:
        with database.writing() as connection:
            if most_waiting:
                take_turn(connection, "submit", tenant)
                if _count(connection, tenant, AWAITED) >= most_waiting:
                    raise FullError(most_waiting)
            connection.execute(jobs.insert(), values)
            if key is not None:
                said = {"tenant": tenant, "key": key.key, "fingerprint": key.fingerprint, "job_id": job_id}
                connection.execute(idempotency.insert(), {**said, "created_at": moment})
            _hold(connection, job_id, sources)
            asked = {"request": ledger.digest(payload), "sources": sorted(set(sources)), "name": name}
            note(connection, tenant, job_id, kind, "submit", {"kind": kind}, by, asked)
        return Submission(_as_kept(values), replayed=False)
    except (IntegrityError, FullError) as fault:
        known = None if key is None else keyed(database, tenant, key.key)
        if known is None:
            if isinstance(fault, FullError):
                raise
            raise GoneError from fault
    fingerprint, first = known
    if key is not None and fingerprint != key.fingerprint:
        raise KeyReusedError(key.key)
    with database.reading() as connection:
        return Submission(_read(connection, first), replayed=True)


def claim(
    database: Database,
    job_id: str,
    *,
    worker: str,
    lasts: timedelta,
    queues: Collection[Queue] = QUEUES,
    most_running: int = 0,
) -> Lease | None:
    """Takes a queued job; None if it is not there to be taken, which is how a bell that rings twice does no harm.

    Nor is it if it waits in none of `queues`, or if `most_running` jobs of its tenant run; the bell is rung again, in
    the right queue, or once there are fewer.
    """
    moment, token = now(), new_id()
    with database.writing() as connection:
        if most_running and _is_full(connection, job_id, most_running):
            return None
        taken = step(
            connection, "claim", job_id, and_(jobs.c.available_at <= moment, jobs.c.queue.in_(queues)),
            data={"worker": worker},
            lease_owner=worker, lease_token=token, lease_until=moment + lasts,
            attempts=jobs.c.attempts + 1, stage="loading", progress=0.0,
        )  # fmt: skip
        if not taken:
            _hush(connection, job_id, jobs.c.queue.not_in(queues))
            return None
        record = _read(connection, job_id)
        traceparent = connection.execute(select(jobs.c.traceparent).where(jobs.c.id == job_id)).scalar_one()
        return Lease(
            job_id, record.tenant, record.kind, record.queue, record.payload, token, lasts, record.attempts, worker,
            traceparent,
        )  # fmt: skip


def heartbeat(database: Database, lease: Lease) -> Order:
    """Renews a lease, and says whether to go on."""
    held = and_(jobs.c.id == lease.job_id, jobs.c.lease_token == lease.token, jobs.c.state == "running")
    with database.writing() as connection:
        renewed = connection.execute(jobs.update().where(held).values(lease_until=now() + lease.lasts))
        if renewed.rowcount == 0:
            return "lost"
        asked = connection.execute(
            select(jobs.c.cancel_requested, jobs.c.release_requested).where(jobs.c.id == lease.job_id)
        ).one()
    if asked.cancel_requested:
        return "cancel"
    return "release" if asked.release_requested else "go_on"


def advance(database: Database, lease: Lease, stage: Stage, progress: float) -> bool:
    """Notes how far a running job has come; a new stage is an event."""
    with database.writing() as connection:
        before = connection.execute(select(jobs.c.stage).where(jobs.c.id == lease.job_id)).scalar_one()
        data = {"stage": stage} if stage != before else None
        return held_step(connection, "advance", lease, data=data, stage=stage, progress=progress)


def succeed(database: Database, lease: Lease, result: dict[str, Any], report_digest: str | None = None) -> bool:
    """Ends a job with what it gave; the bytes of its report are kept before."""
    said, reads = ({"outcome": result.get("outcome")}, [report_digest]) if report_digest else ({}, [])
    with database.writing() as connection:
        return held_step(
            connection, "succeed", lease, data={"report_digest": report_digest}, said=said, uses=reads,
            result=result, report_digest=report_digest, stage="done", progress=1.0, **NO_LEASE,
        )  # fmt: skip


def fail(database: Database, lease: Lease, problem: Problem) -> bool:
    """Ends a job with why it could not be done."""
    with database.writing() as connection:
        data = {"problem": problem.type}
        return held_step(connection, "fail", lease, data=data, problem=problem.model_dump(mode="json"), **NO_LEASE)


def retry(database: Database, lease: Lease, problem: Problem, *, attempts: int, backoff: timedelta) -> bool:
    """Puts a job back after a pause because something killed it; the last of its `attempts` ends with the problem."""
    if lease.attempt >= attempts:
        return fail(database, lease, problem)
    with database.writing() as connection:
        data = {"attempt": lease.attempt, "problem": problem.type}
        later = now() + _pause(backoff, lease.attempt)
        return held_step(connection, "retry", lease, data=data, available_at=later, **BACK_IN_QUEUE)


def stop(database: Database, lease: Lease) -> bool:
    """Ends a running job that somebody asked to cancel."""
    with database.writing() as connection:
        return held_step(connection, "stop", lease, **NO_LEASE)


def release(database: Database, lease: Lease) -> bool:
    """Puts a job back because its worker is leaving; the attempt does not count."""
    with database.writing() as connection:
        return held_step(connection, "release", lease, attempts=jobs.c.attempts - 1, **BACK_IN_QUEUE)


def cancel(database: Database, tenant: str, kind: JobKind, job_id: str, *, by: str = NOBODY) -> Record | None:
    """Cancels a queued job, or asks the worker of a running one to stop; None if the tenant has no such job.

    Raises:
        EndedError: the job succeeded or failed before.
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
    """Asks for every job of a worker that is leaving; returns how many there are."""
    held = and_(jobs.c.state == "running", jobs.c.lease_owner == worker)
    with database.writing() as connection:
        return connection.execute(jobs.update().where(held).values(release_requested=True)).rowcount


def expire(database: Database, *, attempts: int, backoff: timedelta) -> list[str]:
    """Takes jobs back whose lease ran out: into the queue after a pause that doubles; after `attempts`, for good."""
    ran_out = and_(jobs.c.state == "running", jobs.c.lease_until < now())
    with database.reading() as connection:
        lost = connection.execute(
            select(jobs.c.id, jobs.c.lease_token, jobs.c.attempts, jobs.c.cancel_requested).where(ran_out)
        ).all()
    taken = []
    for row in lost:
        still = and_(jobs.c.lease_token == row.lease_token, jobs.c.lease_until < now())
        with database.writing() as connection:
            if row.cancel_requested:
                done = step(connection, "stop", row.id, still, **NO_LEASE)
            elif row.attempts < attempts:
                later = now() + _pause(backoff, row.attempts)
                done = step(
                    connection, "retry", row.id, still, data={"attempt": row.attempts},
                    available_at=later, **BACK_IN_QUEUE,
                )  # fmt: skip
            else:
                problem = _given_up(row.attempts).model_dump(mode="json")
                done = step(connection, "give_up", row.id, still, problem=problem, **NO_LEASE)
            if done:
                measures.count(connection, "expired")
        taken += [row.id] * done
    return taken


def reroute(database: Database, *, after: timedelta) -> list[str]:
    """Sends jobs to the default queue that have waited for `after` in one that no worker has served for as long.

    The audit of a shard goes with it, so that the end of the shards is heard.
    """
    left = unserved(database, for_=after) - {"default"}
    stuck = and_(jobs.c.state == "queued", jobs.c.queue.in_(left), jobs.c.updated_at < now() - after)
    with database.reading() as connection:
        found = connection.execute(select(jobs.c.id, jobs.c.queue, jobs.c.parent_id).where(stuck)).all() if left else []
    sent = []
    for row in found:
        with database.writing() as connection:
            told = {"from": row.queue, "to": "default", "why": f"no worker served the queue '{row.queue}'"}
            if step(connection, "reroute", row.id, stuck, data=told, queue="default", rung_at=None):
                connection.execute(jobs.update().where(jobs.c.id == row.parent_id).values(queue="default"))
                sent.append(row.id)
    return sent


def unclaimed(
    database: Database, *, rung_before: timedelta | None, most_running: int = 0, queue: Queue = "default"
) -> Iterator[str]:
    """Jobs of a queue for which the bell has to ring, each noted as rung before it is given.

    These are the jobs that were put back, and, with `rung_before`, also those that were rung for longer ago than that.
    With `most_running`, no more of a tenant than may begin.
    """
    moment = now()
    due = and_(jobs.c.state == "queued", jobs.c.queue == queue, jobs.c.available_at <= moment)
    quiet: ColumnElement[bool] = jobs.c.rung_at.is_(None)
    if rung_before is not None:
        quiet = or_(quiet, jobs.c.rung_at < moment - rung_before)
    with database.reading() as connection:
        waiting = connection.execute(
            select(jobs.c.id, jobs.c.tenant).where(due, quiet).order_by(jobs.c.id).limit(1000)
        ).all()
        running = select(jobs.c.tenant, func.count().label("many")).where(AT_WORK).group_by(jobs.c.tenant)
        busy = Counter({row.tenant: row.many for row in connection.execute(running)} if most_running else {})
    for job_id, tenant in waiting:
        if most_running and busy[tenant] >= most_running:
            continue
        busy[tenant] += 1
        with database.writing() as connection:
            rung = jobs.update().where(jobs.c.id == job_id, due, quiet).values(rung_at=moment)
            ours = connection.execute(rung).rowcount == 1
        if ours:
            yield job_id


def _is_full(connection: Connection, job_id: str, most_running: int) -> bool:
    """Whether no more of this job's tenant may run now; then its bell counts as not rung."""
    tenant = connection.execute(select(jobs.c.tenant).where(jobs.c.id == job_id)).scalar_one_or_none()
    if tenant is None:
        return False
    take_turn(connection, "claim", tenant)
    if _count(connection, tenant, AT_WORK) < most_running:
        return False
    _hush(connection, job_id)
    return True


def _hush(connection: Connection, job_id: str, *conditions: ColumnElement[bool]) -> None:
    """Lets the bell of a job that waits count as not rung."""
    waits = and_(jobs.c.id == job_id, jobs.c.state == "queued", *conditions)
    connection.execute(jobs.update().where(waits).values(rung_at=None))


def _count(connection: Connection, tenant: str, which: ColumnElement[bool]) -> int:
    counted = select(func.count()).where(jobs.c.tenant == tenant, which)
    return connection.execute(counted).scalar_one()


def _pause(backoff: timedelta, attempt: int) -> timedelta:
    """Doubles with each attempt, up to `LONGEST_PAUSE`."""
    return min(backoff * (1 << min(attempt - 1, 30)), LONGEST_PAUSE)


def _given_up(attempts: int) -> Problem:
    return Problem.of(
        "worker-lost",
        500,
        f"The worker that ran this job vanished {attempts} times before it was done.",
        "Look for kills in the workers' logs (most often memory: CAVEAT_MEMORY_BYTES, or the container's limit), "
        "then submit it again.",
    )


def held_step(connection: Connection, which: Step, lease: Lease, **values: Any) -> bool:
    """One step of a job whose lease this is; False, and nothing done, if it was lost."""
    return step(connection, which, lease.job_id, jobs.c.lease_token == lease.token, by=lease.worker, **values)


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
    """One step of one job, with its event; False, and nothing done, if the job is not where the step begins.

    `data` goes with the event; the log says that too, and `by` whom, and what else is `said`. From then on the job
    holds the bytes that it `uses`.
    """
    before, after = STEPS[which]
    ready = and_(jobs.c.id == job_id, jobs.c.state == before, condition)
    moved = connection.execute(jobs.update().where(ready).values(state=after, updated_at=now(), **values))
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
    """Writes the end of an audit to whoever wants to know, and counts it."""
    if ended.kind == "audit":
        webhooks.announce(connection, ended)
        measures.count(connection, "audits", ended.state)
        measures.observe(connection, measures.stages(happened(connection, ended.tenant, ended.id), ended.updated_at))


def _hold(connection: Connection, job_id: str, digests: Collection[str]) -> None:
    """Lets a job hold bytes, so that they are kept for as long as it is."""
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
    """Notes a step: the last thing that its transaction does, since whoever writes into a log holds its end."""
    connection.execute(events.insert(), {"tenant": tenant, "job_id": job_id, "at": now(), "what": which, "data": data})
    if which in LOGGED and kind != "shard":
        chain.append(connection, tenant, which, {**data, **said, "by": by}, job_id)


def _as_kept(values: Mapping[str, Any]) -> Record:
    """The record of a job that was inserted: what it says nothing of is None there."""
    fields: dict[str, Any] = {field: values.get(field) for field in Record.__dataclass_fields__}
    return Record(**fields)


def _read(connection: Connection, job_id: str) -> Record:
    row = connection.execute(select(*RECORD).where(jobs.c.id == job_id)).one()
    return Record(**row._mapping)
