"""Retention: deletes old jobs, uploads that no job of their tenant reads any more, and a tenant's webhooks.

The audit log keeps its entries without their payloads. `caveat_storage.blob_registry.collect` deletes the bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import Connection, and_, exists, func, select

from caveat_storage import audit_log, webhooks
from caveat_storage.job_records import Database, now, take_turn, upsert
from caveat_storage.job_state import ENDED
from caveat_storage.tables import blobs, deliveries, events, heads, jobs, log, tallies, turns, uses

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


def forget(database: Database, *, before: datetime, by: str, tenant: str | None = None) -> Forgotten:
    """Deletes jobs that ended before a time and uploads from before it that no other job reads, of one tenant or all.

    `by` is the principal in the audit log.
    """
    found = [tenant] if tenant is not None else _tenants(database)
    each = [_forget(database, one, before, by) for one in found]
    return Forgotten(sum(one.jobs for one in each), sum(one.blobs for one in each), sum(one.left for one in each))


def forget_tenant(database: Database, tenant: str, *, by: str) -> Forgotten:
    """Deletes all of a tenant's data that can be deleted now; its keys stay, and its audit log without payloads."""
    with database.writing() as connection:
        gone = webhooks.erase(connection, tenant, by=by)
        connection.execute(turns.delete().where(turns.c.tenant == tenant))
    return replace(forget(database, before=now(), by=by, tenant=tenant), webhooks=gone)


def _forget(database: Database, tenant: str, before: datetime, by: str) -> Forgotten:
    old = and_(jobs.c.tenant == tenant, jobs.c.updated_at < before)
    gone = 0
    while True:
        with database.writing() as connection:
            take_turn(connection, "forget", "")  # the tallies belong to all tenants
            wanted = select(jobs.c.id).where(old, jobs.c.state.in_(ENDED)).order_by(jobs.c.id).limit(BATCH)
            batch = list(connection.scalars(wanted.with_for_update()))
            if not batch:
                break
            _delete(connection, batch)
            audit_log.erase(connection, tenant, log.c.job_id.in_(batch), {"by": by, "jobs": len(batch)})
            gone += len(batch)
    with database.writing() as connection:
        read = exists().where(uses.c.digest == blobs.c.digest, uses.c.job_id == jobs.c.id, jobs.c.tenant == tenant)
        mine = and_(blobs.c.tenant == tenant, blobs.c.created_at < before, ~read)
        dropped = connection.execute(blobs.delete().where(mine)).rowcount
        left = connection.execute(select(func.count()).where(old)).scalar_one()
        if dropped:
            audit_log.append(connection, tenant, "drop_blobs", {"by": by, "blobs": dropped})
    return Forgotten(gone, dropped, left)


def _delete(connection: Connection, job_ids: list[str]) -> None:
    """Deletes jobs and everything that belongs to them; the counts of their steps stay."""
    counted = select(events.c.what, func.count()).where(events.c.job_id.in_(job_ids)).group_by(events.c.what)
    for what, count in connection.execute(counted.order_by(events.c.what)).all():
        before = connection.execute(select(tallies.c.count).where(tallies.c.what == what)).scalar_one_or_none()
        upsert(connection, tallies, {"what": what, "count": count + (before or 0)})
    connection.execute(events.delete().where(events.c.job_id.in_(job_ids)))
    connection.execute(deliveries.delete().where(deliveries.c.job_id.in_(job_ids)))
    connection.execute(jobs.delete().where(jobs.c.id.in_(job_ids)))


def _tenants(database: Database) -> list[str]:
    """All tenants with an audit log, a job or an upload."""
    with database.reading() as connection:
        found = set(connection.scalars(select(heads.c.tenant)))
        found |= set(connection.scalars(select(jobs.c.tenant).distinct()))
        return sorted(found | set(connection.scalars(select(blobs.c.tenant).distinct())))
