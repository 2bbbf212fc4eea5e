"""The Celery task: claims the job whose turn it is, runs it, and stores its outcome."""

from __future__ import annotations

import io
import json
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache, partial
from typing import Any

from celery import Task
from kombu.exceptions import OperationalError
from opentelemetry.trace import SpanKind
from sqlalchemy.exc import DBAPIError

from caveat_spec.artifacts import Queue, Stage
from caveat_spec.disk_faults import DiskError
from caveat_spec.jobs import LISTS, RUN_JOB
from caveat_spec.problem import ProblemDetails
from caveat_storage import blob_registry, database_faults, job_records, job_state, shards
from caveat_storage.blobs import Blobs, MissingBytesError, digest_of
from caveat_storage.job_records import Database
from caveat_storage.job_state import Lease, Order
from caveat_storage.temporary_folders import delete_orphaned
from caveat_telemetry import logs, traces
from caveat_worker.jobs.app import app
from caveat_worker.jobs.pieces import Pieces, lay_out
from caveat_worker.jobs.settings import settings
from caveat_worker.jobs.shared_models import SharedModels, opened
from caveat_worker.jobs.source_fetching import FailedError, StoppedError, with_fetched_sources
from caveat_worker.jobs.supervisor import (
    ArtifactSink,
    Divided,
    End,
    Failed,
    Finished,
    Stopped,
    scratch_folder,
    supervise,
)

log = logging.getLogger(__name__)

SHARD_WORKERS_SEEN = timedelta(minutes=1)
"""Workers seen within this time count when deciding whether to divide an audit."""
LOOK_SECONDS = 0.5
"""Seconds between heartbeats and progress reports of a running job."""
STORE_SECONDS = 10.0
"""Seconds for which a blob store that is full or fails is asked again to take a report."""
DATABASE_AWAY_SECONDS = 600.0
"""Seconds for which an outcome waits for the database."""


@app.task(name=RUN_JOB, bind=True)
def run_job(self: Task[[str], None], job_id: str) -> None:
    """Runs jobs in turn until none may start, or for as long as one job may take.

    The message says only that something waits. The database knows whose turn it is, so the order of messages does not
    matter, and a broker that falls silent leaves no slot idle while jobs wait.
    """
    ends = time.monotonic() + settings().wall_seconds
    while time.monotonic() < ends:
        lease = job_state.claim_next(
            database(),
            worker=str(self.request.hostname),
            lasts=timedelta(seconds=settings().lease_seconds),
            queues=settings().serves,
            shares=settings().shares,
        )
        if lease is None:
            return
        traced_run(lease)


def traced_run(lease: Lease) -> None:
    """Runs a job, with its logs and its trace."""
    about: dict[str, str | int] = {f"caveat.{lease.kind}.id": lease.job_id, "caveat.attempt": lease.attempt}
    with (
        logs.about(**{lease.kind: lease.job_id, "attempt": lease.attempt}),
        traces.span("run_job", about, after=lease.traceparent, kind=SpanKind.CONSUMER) as span,
    ):
        log.info("started")
        began, how = time.monotonic(), run(lease)
        span.set_attribute("caveat.end", how)
        log.info(how, extra={"seconds": round(time.monotonic() - began, 3)})


def run(lease: Lease) -> str:
    """Runs a job and stores its outcome; returns the kind of outcome."""
    holder, pieces = LeaseHolder(database(), lease), dict[str, str]()
    try:
        end = compute(lease, holder, pieces)
    except Exception as fault:  # whatever failed on this machine, the job says what it was
        end = Failed(_problem(fault), killed=True)
    if isinstance(end, Failed) and end.problem.code == "scratch-full":
        make_room(lease.tenant)
    with traces.span("store", {}):
        end = store_until(end, holder, pieces)
    return type(end).__name__.lower()


def compute(lease: Lease, holder: LeaseHolder, pieces: dict[str, str]) -> End:
    """Fetches a job's sources that are URLs and runs its child process; a shard adds what it stored to `pieces`.

    The holder's lease keeps the URLs: shards have the request of their audit, word for word (migration 0010).
    """
    try:
        lease = with_fetched_sources(lease, database(), blobs(), settings(), holder.is_over)
    except StoppedError:
        return Stopped()
    except FailedError as fault:
        return Failed(fault.problem, killed=fault.again)
    sink = sink_of(lease)
    end = supervise(
        lease.kind,
        lease.payload,
        blobs().copy,
        limits=settings().limits,
        on_progress=holder.advance,
        should_stop=holder.is_over,
        sink=sink,
        models=shared_models(lease.tenant),
        **parts(lease),
        attributes={f"caveat.{lease.kind}.id": lease.job_id},
        show_output=settings().child_output,
    )
    pieces.update(sink.kept if isinstance(sink, Pieces) else {})
    return end


def _problem(fault: Exception) -> ProblemDetails:
    """Why a worker could not run a job."""
    if isinstance(fault, DiskError | MissingBytesError):
        log.error("%s", fault.problem.detail)
        return fault.problem
    if isinstance(fault, DBAPIError):
        return database_faults.problem_of(fault)
    log.exception("the worker failed")
    return ProblemDetails.of(
        "worker-failed",
        500,
        f"The worker failed on this job with an internal error ({type(fault).__name__}).",
        "Report the job's id to the operator: the worker's log has the details.",
    )


def sink_of(lease: Lease) -> ArtifactSink | None:
    """The cache for an audit of its tenant and model, or the store for the pieces of a shard."""
    if lease.kind == "shard":
        return Pieces(place_of_pieces(shards.parent_of(database(), lease.job_id)))
    cache = settings().cache
    if cache is None or lease.kind != "audit":
        return None
    try:
        return cache.namespace(lease.tenant, lease.payload["model"])
    except OSError as fault:
        log.warning("the results of job %s are not cached: %s", lease.job_id, fault)
        return None


def shared_models(tenant: str) -> SharedModels | None:
    """The large models that a tenant's jobs share on this worker's scratch disk."""
    most = settings().shared_models_bytes
    return opened(scratch_folder(), tenant, most) if most else None


def make_room(tenant: str) -> None:
    """Deletes what no running job needs from the scratch disk, for the next attempt."""
    delete_orphaned(scratch_folder())
    if models := shared_models(tenant):
        models.evict(0)


def parts(lease: Lease) -> dict[str, Any]:
    """Options of `supervise` for the pieces of this audit's shards, or for dividing it if other workers could help."""
    if lease.kind != "audit":
        return {}
    if pieces := shards.pieces_of(database(), lease.job_id):
        return {"pieces": partial(lay_out, place_of_pieces(lease.job_id), pieces)}
    workers = job_records.serving(database(), within=SHARD_WORKERS_SEEN)[lease.queue] * settings().concurrency
    return {"shard_batches": settings().shard_batches} if workers > 1 else {}


def place_of_pieces(audit_id: str) -> Blobs:
    """The store for the pieces of an audit's shards."""
    return Blobs.at(f"{settings().pieces_url}/{audit_id}")


def store_until(end: End, holder: LeaseHolder, pieces: dict[str, str]) -> End:
    """Stores the outcome of a job and returns it, again and again while the database or the blob store is unavailable.

    Why a blob store does not take a report becomes the outcome of the job. While the database is away nobody else can
    take the job, so its outcome waits for it.
    """
    began = time.monotonic()
    while True:
        try:
            store(end, holder, pieces)
            return end
        except Exception as fault:  # buckets have errors of their own
            log.warning("the outcome of job %s could not be stored yet: %s", holder.lease.job_id, type(fault).__name__)
            waited = time.monotonic() - began
            if waited > STORE_SECONDS and not isinstance(fault, DBAPIError):
                end, pieces = Failed(_unstored(fault), killed=True), {}
            if waited > DATABASE_AWAY_SECONDS:
                raise
            time.sleep(LOOK_SECONDS)
            holder.is_over()  # renews the lease


def _unstored(fault: Exception) -> ProblemDetails:
    """Why a blob store does not take a report."""
    if isinstance(fault, DiskError):
        return fault.problem
    return ProblemDetails.of(
        "blobs-away",
        503,
        f"The blob store did not take the report of this job ({type(fault).__name__}).",
        "An operator looks whether the worker reaches the store of CAVEAT_BLOBS_URL; then submit the job again.",
    )


def store(end: End, holder: LeaseHolder, pieces: dict[str, str]) -> None:
    """Stores the outcome of a job; only its report, or the pieces of a shard, leave the worker."""
    match end, holder.order:
        case Finished(_), _ if holder.lease.kind == "shard":
            publish(filter(None, [shards.succeed(database(), holder.lease, pieces)]), holder.lease.queue)
        case Divided(division), _:
            publish(shards.divide(database(), holder.lease, division), holder.lease.queue)
        case Finished(result, maps), _:
            succeed(result, maps, holder.lease)
        case Failed(problem, killed=True), _:
            backoff = timedelta(seconds=settings().backoff_seconds)
            job_state.retry(database(), holder.lease, problem, attempts=settings().attempts, backoff=backoff)
        case Failed(problem), _:
            job_state.fail(database(), holder.lease, problem)
        case _, "cancel":
            job_state.stop(database(), holder.lease)
        case _, "release":
            job_state.release(database(), holder.lease)
        case _:
            log.warning("the lease of job %s was lost while it ran; its result is discarded", holder.lease.job_id)


def publish(job_ids: Iterable[str], queue: Queue) -> None:
    """Publishes jobs; if the broker is unavailable, the reaper does so later."""
    for job_id in job_ids:
        try:
            app.send_task(RUN_JOB, args=[job_id], queue=LISTS[queue], retry=False)
        except (OperationalError, OSError) as fault:
            log.warning("the broker is unavailable (%s); job %s waits in the database", type(fault).__name__, job_id)


def succeed(result: bytes, maps: bytes | None, lease: Lease) -> None:
    """Stores a report and its maps as blobs and its outcome in the record; other results are small and stored there."""
    document = json.loads(result)
    if lease.kind != "audit":
        job_state.succeed(database(), lease, document)
        return
    digest, maps_digest = _put(result), None if maps is None else _put(maps)
    job_state.succeed(database(), lease, {"outcome": document["verdict"]["outcome"]}, digest, maps_digest)


def _put(content: bytes) -> str:
    """Stores bytes and returns their digest."""
    digest = digest_of(io.BytesIO(content))
    blobs().put(io.BytesIO(content), digest)
    return digest


@dataclass
class LeaseHolder:
    """Holds the lease of a running job: renews it, records progress, and remembers the last order."""

    database: Database
    lease: Lease
    order: Order = "go_on"
    looked: float = 0.0
    noted: tuple[Stage, float] = ("queued", 0.0)
    renewed: float = field(default_factory=time.monotonic)

    def advance(self, stage: Stage, progress: float) -> None:
        """Records a new stage at once and progress now and then; both are lost if the database is unavailable."""
        if stage == self.noted[0] and time.monotonic() - self.noted[1] < LOOK_SECONDS:
            return
        self.noted = (stage, time.monotonic())
        try:
            job_state.advance(self.database, self.lease, stage, progress)
        except DBAPIError:
            log.warning("the progress of job %s could not be recorded", self.lease.job_id)

    def is_over(self) -> bool:
        """Whether the job has to stop: cancelled, requested back, or lost to another worker."""
        if time.monotonic() - self.looked >= LOOK_SECONDS:
            self.looked = time.monotonic()
            try:
                self.order = job_state.heartbeat(self.database, self.lease)
                self.renewed = self.looked  # not later than the database, however long its answer took
            except DBAPIError:
                log.warning("the lease of job %s could not be renewed", self.lease.job_id)
        if time.monotonic() - self.renewed > self.lease.lasts.total_seconds():
            self.order = "lost"
        return self.order != "go_on"


@cache
def database() -> Database:
    """The database of this process."""
    return Database(settings().database_url)


@cache
def blobs() -> Blobs:
    """The blob store of this process."""
    return blob_registry.opened(settings().blobs_url, database())
