"""Background work of a worker: take back lost jobs, publish waiting ones, collect garbage, scrub, drain on shutdown."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError
from sqlalchemy.exc import DBAPIError

from caveat_spec.artifacts import Queue
from caveat_spec.jobs import LISTS, QUEUES, RUN_JOB
from caveat_storage import blob_registry, job_records, job_state, scrub, shards
from caveat_storage.blobs import Blobs
from caveat_storage.job_records import Database
from caveat_storage.temporary_folders import delete_orphaned
from caveat_worker.jobs.processes import stopped_servers
from caveat_worker.jobs.sandbox import missing_protections
from caveat_worker.jobs.settings import Settings, settings
from caveat_worker.jobs.shared_models import opened
from caveat_worker.jobs.supervisor import scratch_folder

log = logging.getLogger(__name__)

LOOK_SECONDS = 60.0
"""Seconds between checks whether garbage collection is due, and between passes that verify stored bytes."""
SCRUBBED_AT_ONCE = 1 << 30
"""Bytes after which such a pass ends."""

_leaving, _gone = threading.Event(), threading.Event()


def begin(sender: Any, **_: Any) -> None:
    """Starts the background threads when the worker is ready."""
    missing = list(missing_protections())
    if missing:
        log.warning("this machine lacks sandbox protections: %s", ", ".join(missing))
    database = Database(settings().database_url)
    threading.Thread(
        target=_reap_until_gone, args=(sender.app, database, sender.hostname, missing), daemon=True, name="reaper"
    ).start()
    threading.Thread(target=_collect_until_gone, args=(database,), daemon=True, name="garbage-collector").start()


def collect_garbage(database: Database, blobs: Blobs, settings: Settings) -> None:
    """Deletes unreferenced bytes, unless a worker did so recently."""
    if not settings.gc_interval_hours:
        return
    with job_records.due(database, "collect_garbage", timedelta(hours=settings.gc_interval_hours)) as begins:
        if begins:
            collected = blob_registry.collect(database, blobs, unused_for=timedelta(hours=settings.gc_grace_hours))
            log.info("deleted %d blobs and the remains of %d uploads", collected.removed, collected.broken)


def verify_stored_bytes(database: Database, blobs: Blobs, settings: Settings) -> None:
    """Verifies some of the stored bytes that nobody has verified for `scrub_days`; damage is logged and counted."""
    if not settings.scrub_days:
        return
    since = timedelta(days=settings.scrub_days)
    found = scrub.scrub(database, blobs, not_since=since, most_bytes=SCRUBBED_AT_ONCE)
    for digest in found.unreadable:
        log.error("the disk cannot read the stored bytes of %s", digest)
    for digest in found.missing:
        log.error("the stored bytes of %s are missing", digest)


def forget_models(settings: Settings) -> None:
    """Deletes large models on the scratch disk that no job has read for as long as unreferenced bytes are kept."""
    if settings.shared_models_bytes and (models := opened(scratch_folder(), "", settings.shared_models_bytes)):
        models.forget(timedelta(hours=settings.gc_grace_hours))


def drain(sender: str, **_: Any) -> None:
    """Lets the jobs of a leaving worker continue for a while, then asks for them back."""
    if not _leaving.is_set():
        _leaving.set()
        threading.Thread(target=_ask_back, args=(sender,), daemon=True, name="drain").start()


def end(**_: Any) -> None:
    """Stops the background threads."""
    _gone.set()


def reap(
    database: Database, settings: Settings, publish: Callable[[str, Queue], None], waiting: Callable[[], set[Queue]]
) -> None:
    """Takes back jobs with expired leases, finishes divided audits, and publishes jobs that no worker has claimed.

    Every worker does so for every queue, since a queue without workers may have a pool that starts once a job waits.
    """
    for job_id in job_state.expire(
        database, attempts=settings.attempts, backoff=timedelta(seconds=settings.backoff_seconds)
    ):
        log.warning("the lease of job %s expired", job_id)
    shards.settle(database)
    for audit_id in shards.leftovers(database):
        Blobs.at(f"{settings.pieces_url}/{audit_id}").clear()
    for job_id in job_state.reroute(database, after=timedelta(seconds=settings.reroute_seconds)):
        log.warning("job %s moves to the default queue: no worker serves its own", job_id)
    unheard = timedelta(seconds=settings.republish_after_seconds)
    busy = waiting()
    for queue in QUEUES:
        published_before = None if queue in busy else unheard
        for job_id in job_state.unclaimed(
            database, published_before=published_before, queue=queue, shares=settings.shares
        ):
            publish(job_id, queue)


def _reap_until_gone(app: Celery, database: Database, worker: str, missing: list[str]) -> None:
    def publish(job_id: str, queue: Queue) -> None:
        with _connection(app) as connection:
            app.send_task(RUN_JOB, args=[job_id], queue=LISTS[queue], connection=connection, retry=False)

    def waiting() -> set[Queue]:
        with _connection(app) as connection:
            there: dict[Queue, Any] = {
                queue: app.amqp.queues[LISTS[queue]](connection.default_channel) for queue in QUEUES
            }
            return {queue for queue, listed in there.items() if listed.queue_declare().message_count}

    while True:
        _beat(settings().heartbeat_file)
        try:
            job_records.record_worker(database, worker, missing, settings().serves, leaving=_leaving.is_set())
            reap(database, settings(), publish, waiting)
        except (DBAPIError, OperationalError, OSError) as fault:
            log.warning("the reaper will retry: %s", type(fault).__name__)
        if _gone.wait(settings().reap_seconds):
            break
    job_records.remove_worker(database, worker)


def _beat(file: str | None) -> None:
    """Touches the heartbeat file while the worker's processes run, whatever the state of the database and the broker.

    A stopped one takes no jobs, and only a restart of the worker is sure to bring its slot back.
    """
    if stopped := stopped_servers(os.getpid()):
        log.error("processes of this worker are stopped, so it has no heartbeat: %s", stopped)
    elif file:
        try:
            Path(file).write_bytes(b"1")  # unlike a touch, this needs a disk that still takes a byte
        except OSError as fault:
            log.error("the heartbeat could not be written: %s", fault)


def _collect_until_gone(database: Database) -> None:
    blobs = blob_registry.opened(settings().blobs_url, database)
    while not _gone.wait(LOOK_SECONDS):
        try:
            delete_orphaned(scratch_folder())
            collect_garbage(database, blobs, settings())
            verify_stored_bytes(database, blobs, settings())
            forget_models(settings())
        except Exception:  # buckets raise errors of their own, and the worker must continue
            log.warning("garbage collection and verification will be retried", exc_info=True)


def _connection(app: Celery) -> Any:
    """A connection that fails at once if there is no broker."""
    return app.connection_for_write(
        connect_timeout=2, transport_options={"max_retries": 0, "socket_connect_timeout": 2, "socket_timeout": 5}
    )


def _ask_back(worker: str) -> None:
    """Claims no more jobs, and after a while asks repeatedly for those that still run."""
    database = Database(settings().database_url)
    try:
        job_records.leave(database, worker)
    except DBAPIError:
        log.warning("the worker could not record that it is leaving")
    _gone.wait(settings().grace_seconds)
    while not _gone.wait(1):
        try:
            job_state.ask_to_release(database, worker)
        except DBAPIError as fault:
            log.warning("this worker's jobs will be asked back again: %s", type(fault).__name__)
