"""What a worker's main process does beside its jobs: take back what was lost, ring again, and leave in good order."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError
from sqlalchemy.exc import DBAPIError

from api_spec.artifacts import Queue
from api_spec.jobs import LISTS, QUEUES, RUN_JOB
from vault import lifecycle, records, retention, shards, storage
from vault.blobs import Blobs
from vault.records import Database
from worker.sandbox import missing_protections
from worker.settings import Settings, settings

log = logging.getLogger(__name__)

LOOK_SECONDS = 60.0
"""How often it is looked whether tidying is due."""

_leaving, _gone = threading.Event(), threading.Event()


def begin(sender: Any, **_: Any) -> None:
    """Starts reaping in a thread when the worker is ready."""
    missing = missing_protections()
    if missing:
        log.warning("this machine cannot give the sandbox: %s", ", ".join(missing))
    database = Database(settings().database_url)
    threading.Thread(
        target=_reap_until_gone, args=(sender.app, database, sender.hostname, missing), daemon=True, name="reaper"
    ).start()
    threading.Thread(target=_tidy_until_gone, args=(database,), daemon=True, name="tidy").start()


def tidy(database: Database, blobs: Blobs, settings: Settings) -> None:
    """Forgets what is too old, and deletes bytes that nothing names, if no worker did so lately."""
    if not settings.tidy_hours or not records.is_due(database, "tidy", timedelta(hours=settings.tidy_hours)):
        return
    if settings.retention_days:
        before = records.now() - timedelta(days=settings.retention_days)
        forgotten = retention.forget(database, before=before, by="retention")
        log.info("forgot %d jobs and %d uploads", forgotten.jobs, forgotten.blobs)
    collected = storage.collect(database, blobs, unused_for=timedelta(hours=settings.unused_hours))
    log.info("deleted %d blobs and what came of %d uploads", collected.removed, collected.broken)


def drain(sender: str, **_: Any) -> None:
    """Gives the worker's jobs some time to end when it has to leave, then asks them back."""
    if not _leaving.is_set():
        _leaving.set()
        threading.Thread(target=_ask_back, args=(sender,), daemon=True, name="drain").start()


def end(**_: Any) -> None:
    """Stops reaping."""
    _gone.set()


def reap(
    database: Database, settings: Settings, ring: Callable[[str, Queue], None], waiting: Callable[[], set[Queue]]
) -> None:
    """Takes back jobs whose lease ran out, ends what divided audits left, and rings for jobs that nobody heard of.

    Every worker does so for every queue: one that no worker serves may have a pool that starts when something waits.
    """
    for job_id in lifecycle.expire(
        database, attempts=settings.attempts, backoff=timedelta(seconds=settings.backoff_seconds)
    ):
        log.warning("the lease of job %s ran out", job_id)
    shards.settle(database)
    for audit_id in shards.leftovers(database):
        Blobs.at(f"{settings.pieces_url}/{audit_id}").clear()
    for job_id in lifecycle.reroute(database, after=timedelta(seconds=settings.reroute_seconds)):
        log.warning("job %s goes to the default queue: no worker serves its own", job_id)
    unheard = timedelta(seconds=settings.unheard_seconds)
    busy = waiting()
    for queue in QUEUES:
        rung_before = None if queue in busy else unheard
        for job_id in lifecycle.unclaimed(
            database, rung_before=rung_before, most_running=settings.tenant_running, queue=queue
        ):
            ring(job_id, queue)


def _reap_until_gone(app: Celery, database: Database, worker: str, missing: list[str]) -> None:
    def ring(job_id: str, queue: Queue) -> None:
        with _connection(app) as connection:
            app.send_task(RUN_JOB, args=[job_id], queue=LISTS[queue], connection=connection, retry=False)

    def waiting() -> set[Queue]:
        with _connection(app) as connection:
            there: dict[Queue, Any] = {
                queue: app.amqp.queues[LISTS[queue]](connection.default_channel) for queue in QUEUES
            }
            return {queue for queue, listed in there.items() if listed.queue_declare().message_count}

    while True:
        if settings().heartbeat_file:  # this process lives, whatever the database and the broker do
            Path(str(settings().heartbeat_file)).touch()
        try:
            records.greet(database, worker, missing, settings().serves)
            reap(database, settings(), ring, waiting)
        except (DBAPIError, OperationalError, OSError) as fault:
            log.warning("the reaper will try again: %s", type(fault).__name__)
        if _gone.wait(settings().reap_seconds):
            break
    records.part(database, worker)


def _tidy_until_gone(database: Database) -> None:
    blobs = storage.opened(settings().blobs_url, database)
    while not _gone.wait(LOOK_SECONDS):
        try:
            tidy(database, blobs, settings())
        except Exception:  # a bucket has errors of its own, and the worker goes on without
            log.warning("the tidying will be tried again", exc_info=True)


def _connection(app: Celery) -> Any:
    """A connection that gives up at once where there is no broker."""
    return app.connection_for_write(
        connect_timeout=2, transport_options={"max_retries": 0, "socket_connect_timeout": 2, "socket_timeout": 5}
    )


def _ask_back(worker: str) -> None:
    """Asks again and again, since a job may be claimed while the worker leaves."""
    _gone.wait(settings().grace_seconds)
    database = Database(settings().database_url)
    while not _gone.wait(1):
        lifecycle.ask_to_release(database, worker)
