"""Retention: deletes old jobs and studies, uploads that none of their tenant's reads any more, and a tenant's webhooks.

The audit log keeps its entries without their payloads. `caveat_storage.blob_registry.collect` deletes the bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import and_, exists, func, select

from caveat_storage import audit_log, job_state, studies, webhooks
from caveat_storage.job_records import Database, now, take_turn
from caveat_storage.job_state import ENDED
from caveat_storage.tables import blobs, heads, jobs, log, turns, uses

BATCH = 200  # jobs deleted in one transaction


@dataclass(frozen=True)
class Forgotten:
    """Numbers of what was deleted."""

    jobs: int
    blobs: int
    """Digests that the tenants no longer own."""
    left: int
    """Jobs of that age that have not ended and therefore stay."""
    webhooks: int = 0
    studies: int = 0


def forget(database: Database, *, before: datetime, by: str, tenant: str | None = None) -> Forgotten:
    """Deletes jobs that ended before a time and uploads from before it that no other job reads, of one tenant or all.

    `by` is the principal in the audit log.
    """
    found = [tenant] if tenant is not None else _tenants(database)
    each = [_forget(database, one, before, by) for one in found]
    return Forgotten(**{name: sum(getattr(one, name) for one in each) for name in ("jobs", "blobs", "left", "studies")})


def forget_tenant(database: Database, tenant: str, *, by: str) -> Forgotten:
    """Deletes all of a tenant's data that can be deleted now; its keys stay, and its audit log without payloads."""
    with database.writing() as connection:
        gone = webhooks.erase(connection, tenant, by=by)
        connection.execute(turns.delete().where(turns.c.tenant == tenant))
    return replace(forget(database, before=now(), by=by, tenant=tenant), webhooks=gone)


def _forget(database: Database, tenant: str, before: datetime, by: str) -> Forgotten:
    old = and_(jobs.c.tenant == tenant, jobs.c.updated_at < before)
    gone = 0
    with database.writing() as connection:
        take_turn(connection, "forget", "")
        asked = studies.forget(connection, tenant, before=before, by=by)
    while True:
        with database.writing() as connection:
            take_turn(connection, "forget", "")  # the tallies belong to all tenants
            wanted = select(jobs.c.id).where(old, jobs.c.state.in_(ENDED)).order_by(jobs.c.id).limit(BATCH)
            batch = list(connection.scalars(wanted.with_for_update()))
            if not batch:
                break
            job_state.erase(connection, batch)
            audit_log.erase(connection, tenant, log.c.job_id.in_(batch), {"by": by, "jobs": len(batch)})
            gone += len(batch)
    with database.writing() as connection:
        read = exists().where(uses.c.digest == blobs.c.digest, uses.c.job_id == jobs.c.id, jobs.c.tenant == tenant)
        mine = and_(blobs.c.tenant == tenant, blobs.c.created_at < before, ~read, ~studies.in_use(tenant))
        dropped = connection.execute(blobs.delete().where(mine)).rowcount
        left = connection.execute(select(func.count()).where(old)).scalar_one()
        if dropped:
            audit_log.append(connection, tenant, "drop_blobs", {"by": by, "blobs": dropped})
    return Forgotten(gone, dropped, left, studies=asked)


def _tenants(database: Database) -> list[str]:
    """All tenants with an audit log, a job or an upload."""
    with database.reading() as connection:
        found = set(connection.scalars(select(heads.c.tenant)))
        found |= set(connection.scalars(select(jobs.c.tenant).distinct()))
        return sorted(found | set(connection.scalars(select(blobs.c.tenant).distinct())))
