"""Whose turn it is: the queued job that a free slot runs next, shared fairly among tenants.

A free slot goes to the tenant that uses the smallest share of the slots for its weight. Tenants that use equal shares
take turns, in proportion to their weights: start-time fair queueing (Goyal, Vin and Cheng, 1997), whose virtual time is
kept in `turns` for each pool of workers. A tenant that asked for nothing saves up no turns. Within a tenant, the most
urgent job runs first, then the oldest.

No query looks at a window of the queue, so no backlog hides a tenant. The tenants that wait are found by jumping from
one to the next in an index, so a turn costs as much with ten thousand queued jobs as with ten.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, Select, and_, func, select, true

from caveat_spec.artifacts import Queue
from caveat_storage.job_records import upsert
from caveat_storage.tables import QUEUED, RUNNING, jobs, turns

AT_WORK = and_(RUNNING, jobs.c.lease_token.is_not(None))
"""Jobs that a worker runs; an audit that waits for its shards is not one of them."""

ANY = true()


@dataclass(frozen=True)
class Shares:
    """How the slots are shared."""

    weights: Mapping[str, float]
    """Tenant → weight; 1 for the others."""
    most_running: int = 0
    """Most running jobs of a tenant; 0 means no limit."""

    def of(self, tenant: str) -> float:
        """The weight of a tenant."""
        return self.weights.get(tenant, 1.0)

    def room(self, running: int) -> int | None:
        """How many more jobs of a tenant may run; None means any number."""
        return max(self.most_running - running, 0) if self.most_running else None


EQUAL = Shares({})


def next_job(connection: Connection, queues: Collection[Queue], shares: Shares, moment: datetime) -> str | None:
    """The job to run next in one of `queues`, whose turn is then taken; None if no job may start.

    The caller prevents that two turns are decided at the same time.
    """
    at_work, pool = running(connection), ",".join(sorted(queues))
    free = [one for one in waiting(connection) if shares.room(sum(at_work[one].values())) != 0]
    known = _turns(connection, pool)
    time = max((start for start, _ in known.values()), default=0.0)

    def order(tenant: str) -> tuple[float, float, float, str]:
        used = sum(at_work[tenant][queue] for queue in queues) / shares.of(tenant)
        finish = known[tenant][1] if tenant in known else 0.0
        return used, max(finish, time), finish, tenant

    for tenant in sorted(free, key=order):
        first = next(heads(connection, tenant, sorted(queues), moment), None)
        if first is not None:
            start = order(tenant)[1]
            upsert(connection, turns, {"pool": pool, "tenant": tenant, "start": start,
                                       "finish": start + 1 / shares.of(tenant)})  # fmt: skip
            return first
    return None


def waiting(connection: Connection) -> list[str]:
    """The tenants that have queued jobs: a loose index scan, whose cost grows with them and not with their jobs."""
    first = select(func.min(jobs.c.tenant).label("tenant")).where(QUEUED).cte("waiting", recursive=True)
    after = select(func.min(jobs.c.tenant)).where(QUEUED, jobs.c.tenant > first.c.tenant).scalar_subquery()
    every = first.union_all(select(after).where(first.c.tenant.is_not(None)))
    return list(connection.scalars(select(every.c.tenant).where(every.c.tenant.is_not(None))))


def heads(
    connection: Connection, tenant: str, queues: Sequence[Queue], moment: datetime, *, limit: int = 1,
    which: ColumnElement[bool] = ANY,
) -> Iterator[str]:  # fmt: skip
    """Yields up to `limit` jobs of a tenant that may start, those first that run first; `which` is a further condition.

    Each queue is asked on its own, because only then the order is that of the index.
    """

    def head(queue: Queue) -> Select[tuple[int, str]]:
        mine = and_(QUEUED, jobs.c.tenant == tenant, jobs.c.queue == queue, jobs.c.available_at <= moment, which)
        return select(jobs.c.urgency, jobs.c.id).where(mine).order_by(jobs.c.urgency, jobs.c.id).limit(limit)

    found = sorted((row.urgency, row.id) for queue in queues for row in connection.execute(head(queue)))
    yield from (job_id for _, job_id in found[:limit])


def running(connection: Connection) -> defaultdict[str, Counter[str]]:
    """Tenant → queue → number of its jobs that workers run."""
    counted = select(jobs.c.tenant, jobs.c.queue, func.count().label("many")).where(AT_WORK)
    found: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in connection.execute(counted.group_by(jobs.c.tenant, jobs.c.queue)):
        found[row.tenant][row.queue] = row.many
    return found


def _turns(connection: Connection, pool: str) -> dict[str, tuple[float, float]]:
    """Tenant → virtual times at which its last turn started and finishes."""
    taken = select(turns.c.tenant, turns.c.start, turns.c.finish).where(turns.c.pool == pool)
    return {row.tenant: (row.start, row.finish) for row in connection.execute(taken)}
