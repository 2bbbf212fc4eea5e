"""What a worker does when the bell rings: claim, run, store."""

from __future__ import annotations

import io
import json
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache, partial
from typing import Any

from celery import Task
from kombu.exceptions import OperationalError
from opentelemetry.trace import SpanKind
from sqlalchemy.exc import DBAPIError

from api_spec.artifacts import Queue, Stage
from api_spec.jobs import LISTS, RUN_JOB
from telemetry import logs, traces
from vault import lifecycle, records, shards, storage
from vault.blobs import Blobs, digest_of
from vault.lifecycle import Lease, Order
from vault.records import Database
from worker.app import app
from worker.pieces import Pieces, lay_out
from worker.settings import settings
from worker.supervisor import Divided, End, Failed, Finished, Keeper, supervise

log = logging.getLogger(__name__)

CROWD_SEEN = timedelta(minutes=1)
"""How lately a worker was seen that an audit is divided for."""
LOOK_SECONDS = 0.5
"""How often a running job asks the database whether to go on, and tells it how far it is."""


@app.task(name=RUN_JOB, bind=True)
def run_job(self: Task[[str], None], job_id: str) -> None:
    """Runs one queued job, if it is still there to be run."""
    lease = lifecycle.claim(
        database(),
        job_id,
        worker=str(self.request.hostname),
        lasts=timedelta(seconds=settings().lease_seconds),
        queues=settings().serves,
        most_running=settings().tenant_running,
    )
    if lease is None:
        return
    about: dict[str, str | int] = {f"caveat.{lease.kind}.id": job_id, "caveat.attempt": lease.attempt}
    with (
        logs.about(**{lease.kind: job_id, "attempt": lease.attempt}),
        traces.span("run_job", about, after=lease.traceparent, kind=SpanKind.CONSUMER) as span,
    ):
        log.info("begun")
        began, how = time.monotonic(), run(lease)
        span.set_attribute("caveat.end", how)
        log.info(how, extra={"seconds": round(time.monotonic() - began, 3)})


def run(lease: Lease) -> str:
    """Runs a job and stores how it ended; says which end that was."""
    tenure = Tenure(database(), lease)
    keeper = keeper_of(lease)
    end = supervise(
        lease.kind,
        lease.payload,
        blobs().copy,
        limits=settings().limits,
        on_progress=tenure.advance,
        should_stop=tenure.is_over,
        keeper=keeper,
        **parts(lease),
        attributes={f"caveat.{lease.kind}.id": lease.job_id},
        show_output=settings().child_output,
    )
    pieces = keeper.kept if isinstance(keeper, Pieces) else {}
    with traces.span("store", {}):
        insist(lambda: store(end, tenure, pieces), lease)
    return type(end).__name__.lower()


def keeper_of(lease: Lease) -> Keeper | None:
    """What this audit may find of earlier ones of its tenant and model; what becomes of a shard's arrays."""
    if lease.kind == "shard":
        return Pieces(place_of_pieces(shards.parent_of(database(), lease.job_id)))
    cache = settings().cache
    if cache is None or lease.kind != "audit":
        return None
    try:
        return cache.corner(lease.tenant, lease.payload["model"])
    except OSError as fault:
        log.warning("nothing is kept of job %s: %s", lease.job_id, fault)
        return None


def parts(lease: Lease) -> dict[str, Any]:
    """What the shards of this audit left; or how large it may be, where others could take shards of it."""
    if lease.kind != "audit":
        return {}
    if pieces := shards.pieces_of(database(), lease.job_id):
        return {"pieces": partial(lay_out, place_of_pieces(lease.job_id), pieces)}
    crowd = records.serving(database(), within=CROWD_SEEN)[lease.queue] * settings().concurrency
    return {"shard_batches": settings().shard_batches} if crowd > 1 else {}


def place_of_pieces(audit_id: str) -> Blobs:
    """Where the shards of an audit leave what they computed."""
    return Blobs.at(f"{settings().pieces_url}/{audit_id}")


def insist(action: Callable[[], None], lease: Lease) -> None:
    """Tries again for as long as the lease lasts, should the database or the bytes' place be away for a moment."""
    deadline = time.monotonic() + lease.lasts.total_seconds()
    while True:
        try:
            return action()
        except (DBAPIError, OSError) as fault:
            if time.monotonic() > deadline:
                raise
            log.warning("the end of job %s could not be stored yet: %s", lease.job_id, type(fault).__name__)
            time.sleep(LOOK_SECONDS)


def store(end: End, tenure: Tenure, pieces: dict[str, str]) -> None:
    """Puts on record how a job ended: nothing but its report leaves the worker, or the pieces of a shard."""
    match end, tenure.order:
        case Finished(_), _ if tenure.lease.kind == "shard":
            ring(filter(None, [shards.succeed(database(), tenure.lease, pieces)]), tenure.lease.queue)
        case Divided(division), _:
            ring(shards.divide(database(), tenure.lease, division), tenure.lease.queue)
        case Finished(result), _:
            succeed(result, tenure.lease)
        case Failed(problem, killed=True), _:
            backoff = timedelta(seconds=settings().backoff_seconds)
            lifecycle.retry(database(), tenure.lease, problem, attempts=settings().attempts, backoff=backoff)
        case Failed(problem), _:
            lifecycle.fail(database(), tenure.lease, problem)
        case _, "cancel":
            lifecycle.stop(database(), tenure.lease)
        case _, "release":
            lifecycle.release(database(), tenure.lease)
        case _:
            log.warning("the lease of job %s was lost while it ran; its result is dropped", tenure.lease.job_id)


def ring(job_ids: Iterable[str], queue: Queue) -> None:
    """Says that jobs wait; where the broker is away, the reaper says so again."""
    for job_id in job_ids:
        try:
            app.send_task(RUN_JOB, args=[job_id], queue=LISTS[queue], retry=False)
        except (OperationalError, OSError) as fault:
            log.warning("the broker is away (%s); job %s waits in the database", type(fault).__name__, job_id)


def succeed(result: bytes, lease: Lease) -> None:
    """Keeps a report as bytes and its outcome in the record; other results are small and go in the record."""
    document = json.loads(result)
    if lease.kind != "audit":
        lifecycle.succeed(database(), lease, document)
        return
    digest = digest_of(io.BytesIO(result))
    blobs().put(io.BytesIO(result), digest)
    lifecycle.succeed(database(), lease, {"outcome": document["verdict"]["outcome"]}, digest)


@dataclass
class Tenure:
    """Holds a lease while its job runs: renews it, passes progress on, and remembers what was ordered."""

    database: Database
    lease: Lease
    order: Order = "go_on"
    looked: float = 0.0
    told: tuple[Stage, float] = ("queued", 0.0)
    renewed: float = field(default_factory=time.monotonic)

    def advance(self, stage: Stage, progress: float) -> None:
        """Notes a new stage at once and progress now and then; a database that is away for a moment may miss it."""
        if stage == self.told[0] and time.monotonic() - self.told[1] < LOOK_SECONDS:
            return
        self.told = (stage, time.monotonic())
        try:
            lifecycle.advance(self.database, self.lease, stage, progress)
        except DBAPIError:
            log.warning("progress of job %s could not be noted", self.lease.job_id)

    def is_over(self) -> bool:
        """Whether the job has to stop: cancelled, to be given back, or lost to another worker."""
        if time.monotonic() - self.looked >= LOOK_SECONDS:
            self.looked = time.monotonic()
            try:
                self.order = lifecycle.heartbeat(self.database, self.lease)
                self.renewed = time.monotonic()
            except DBAPIError:
                log.warning("the lease of job %s could not be renewed", self.lease.job_id)
        if time.monotonic() - self.renewed > self.lease.lasts.total_seconds():
            self.order = "lost"
        return self.order != "go_on"


@cache
def database() -> Database:
    """The records, as this process sees them."""
    return Database(settings().database_url)


@cache
def blobs() -> Blobs:
    """The bytes, as this process sees them."""
    return storage.opened(settings().blobs_url, database())
