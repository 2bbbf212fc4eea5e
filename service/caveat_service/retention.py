"""Deletes expired data now and then: done by the API, since no worker may erase anything of an audit log."""

from __future__ import annotations

import logging
import threading
from datetime import timedelta

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoConnectionError

from caveat_service.settings import Settings
from caveat_storage import job_records, retention
from caveat_storage.job_records import Database

log = logging.getLogger(__name__)

LOOK_SECONDS = 60.0
"""Seconds between checks whether it is due."""


def begin(database: Database, settings: Settings) -> None:
    """Starts the thread, if anything expires."""
    if settings.retention_days and settings.gc_interval_hours:
        threading.Thread(target=_delete_forever, args=(database, settings), daemon=True, name="retention").start()


def delete_expired(database: Database, settings: Settings) -> None:
    """Deletes expired jobs and uploads, unless a process did so recently."""
    with job_records.due(database, "delete_expired", timedelta(hours=settings.gc_interval_hours)) as begins:
        if begins:
            before = job_records.now() - timedelta(days=settings.retention_days)
            forgotten = retention.forget(database, before=before, by="retention")
            log.info("deleted %d expired jobs and %d uploads", forgotten.jobs, forgotten.blobs)


def _delete_forever(database: Database, settings: Settings) -> None:
    while True:
        try:
            delete_expired(database, settings)
        except (DBAPIError, NoConnectionError) as fault:
            log.warning("the deletion of expired data will be retried: %s", type(fault).__name__)
        threading.Event().wait(LOOK_SECONDS)
