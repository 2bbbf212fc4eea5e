"""What an operator does with what a service keeps: erase a tenant's, and delete bytes that nothing names."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from caveat.keys import opened, operator
from caveat.problems import problem

if TYPE_CHECKING:
    from vault.retention import Forgotten
    from vault.storage import Collected


def erase_tenant(database_url: str, tenant: str, older_than: timedelta) -> Forgotten:
    """Erases what a tenant asked and put in, as far as it is that old and has ended; if no age is asked for, all."""
    with opened(database_url) as database:
        from vault import records, retention

        if not older_than:
            return retention.forget_tenant(database, tenant, by=operator())
        return retention.forget(database, before=records.now() - older_than, by=operator(), tenant=tenant)


def collect_unnamed(database_url: str, blobs_url: str, unused_for: timedelta) -> Collected:
    """Deletes bytes that nothing has named for so long."""
    with opened(database_url) as database:
        from vault import storage

        try:
            return storage.collect(database, storage.opened(blobs_url, database), unused_for=unused_for)
        except OSError as fault:
            raise problem(
                "blobs-away", 503, f"Where the bytes are cannot be reached: {fault}.", "Check --blobs-url."
            ) from None
