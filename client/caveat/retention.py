"""Commands of an operator for stored data: erase a tenant's, delete blobs that nothing references, verify the rest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from caveat.keys import opened, operator
from caveat.problems import ProblemError, problem
from caveat_spec.disk_faults import DiskError

if TYPE_CHECKING:
    from caveat_storage.blob_registry import Collected
    from caveat_storage.retention import Forgotten
    from caveat_storage.scrub import Scrubbed


def erase_tenant(database_url: str, tenant: str, older_than: timedelta) -> Forgotten:
    """Erases a tenant's jobs and uploads that have ended and are older than `older_than`; all of them if that is 0."""
    with opened(database_url) as database:
        from caveat_storage import job_records, retention

        if not older_than:
            return retention.forget_tenant(database, tenant, by=operator())
        return retention.forget(database, before=job_records.now() - older_than, by=operator(), tenant=tenant)


def collect_garbage(database_url: str, blobs_url: str, unused_for: timedelta) -> Collected:
    """Deletes blobs that nothing has referenced for `unused_for`."""
    with opened(database_url) as database, _reached():
        from caveat_storage import blob_registry

        return blob_registry.collect(database, blob_registry.opened(blobs_url, database), unused_for=unused_for)


def verify_blobs(database_url: str, blobs_url: str) -> Scrubbed:
    """Reads all stored blobs and compares each with its digest."""
    with opened(database_url) as database, _reached():
        from caveat_storage import blob_registry, scrub

        return scrub.scrub(database, blob_registry.opened(blobs_url, database))


@contextmanager
def _reached() -> Iterator[None]:
    """Raises errors of the blob storage as a `ProblemError`."""
    try:
        yield
    except DiskError as fault:
        raise ProblemError(fault.problem) from None
    except OSError as fault:
        raise problem(
            "blobs-away", 503, f"The blob storage cannot be reached: {fault}.", "Check --blobs-url."
        ) from None
