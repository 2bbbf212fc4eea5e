"""The database: connections, migrations and queries. `caveat_storage.job_state` changes the state of jobs."""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from pathlib import Path
from threading import Lock
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Select,
    Table,
    Text,
    bindparam,
    cast,
    create_engine,
    event,
    func,
    select,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.pool import ConnectionPoolEntry

from caveat_spec.artifacts import Queue, Stage, State
from caveat_spec.jobs import QUEUES, JobKind
from caveat_spec.problem import ProblemDetails
from caveat_storage.tables import blobs, chores, events, idempotency, jobs, tallies, workers

MIGRATIONS = Path(__file__).parent / "migrations"
MIGRATION_LOCK = 0xCA7EA7  # any number that no other user of the PostgreSQL server locks
SEEN_WITHIN = timedelta(minutes=1)
"""A worker counts as alive if it reported within this time."""
FORGOTTEN_AFTER = timedelta(hours=1)
"""A worker that has not reported for so long is dead, and the others remove its row."""
LARGEST_PAGE = 4 << 20
"""Most characters of the requests and results on a page: as many as one request may have."""
ANONYMOUS = "anonymous"
"""Principal in the audit log where no keys are required."""
NOTED_EVERY = timedelta(seconds=10)
"""How often the database records that a queue is served, no matter how many workers serve it."""
CHORE_AGAIN_AFTER = timedelta(minutes=10)
"""How soon a periodic chore that did not come to its end is due again."""
ANSWERS_WITHIN = 20.0
"""Seconds within which PostgreSQL has to answer a statement; a connection that stays silent is broken off."""
CONNECTS_WITHIN = 5  # seconds
PAUSES_WITHIN = 600.0
"""Seconds for which a transaction may pause while a bucket copies bytes to their place."""
ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


@dataclass(frozen=True)
class Record:
    """A job in the database."""

    id: str
    tenant: str
    kind: JobKind
    queue: Queue
    name: str | None
    payload: dict[str, Any]
    state: State
    stage: Stage
    progress: float
    attempts: int
    result: dict[str, Any] | None
    report_digest: str | None
    maps_digest: str | None
    problem: dict[str, Any] | None
    cancel_requested: bool
    created_at: datetime
    updated_at: datetime
    shards: int | None
    """Number of shards if the job was divided; `shards_left` of them have not finished."""
    shards_left: int | None


@dataclass(frozen=True)
class Event:
    """An event in the life of a job."""

    seq: int
    what: str
    at: datetime
    data: dict[str, Any]


@dataclass(frozen=True)
class Key:
    """An `Idempotency-Key` and a fingerprint of the request it came with."""

    key: str
    fingerprint: str


class NoRoomError(Exception):
    """Storing more bytes would exceed the tenant's quota."""

    def __init__(self, used: int, most: int) -> None:
        """Takes the number of bytes that the tenant stores, and its quota."""
        super().__init__(f"{used} bytes are stored")
        self.used, self.most = used, most

    @property
    def problem(self) -> ProblemDetails:
        """What the tenant is told."""
        return ProblemDetails.of(
            "quota-bytes",
            413,
            f"You store {self.used:,} bytes, and your limit is {self.most:,} (`tenant_bytes`).",
            "Ask an operator to raise the limit, or to erase old data (`caveat erase`).",
        )


RECORD = [jobs.c[field] for field in Record.__dataclass_fields__]
_OWNED = select(blobs.c.digest, blobs.c.size).where(
    blobs.c.tenant == bindparam("tenant"), blobs.c.digest.in_(bindparam("digests", expanding=True))
)


class Database:
    """A pool of connections to SQLite or PostgreSQL."""

    def __init__(self, url: str, *, seconds: float | None = ANSWERS_WITHIN) -> None:
        """Connects on first use; PostgreSQL has to answer every statement within `seconds`, if given."""
        self.url = url
        self.engine = _engine(url, seconds)
        self._writing = self.engine.execution_options(writing=True)
        self._turn = Lock() if url.startswith("sqlite") else nullcontext()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction for reading."""
        with self.engine.begin() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction for writing.

        SQLite takes its write lock at the start, so a transaction never fails half-way. Threads take turns for it here,
        because SQLite's own waiting can starve a thread.
        """
        with self._turn, self._writing.begin() as connection:
            yield connection

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """A transaction that reads a consistent snapshot."""
        level = {} if self.engine.dialect.name == "sqlite" else {"isolation_level": "REPEATABLE READ"}
        with self.engine.execution_options(**level).begin() as connection:
            yield connection

    def close(self) -> None:
        """Closes the connections."""
        self.engine.dispose()


def _engine(url: str, seconds: float | None) -> Engine:
    if not url.startswith("sqlite"):
        return _postgresql_engine(url, seconds)
    engine = create_engine(url, hide_parameters=True, pool_size=20)
    if engine.url.database:
        Path(engine.url.database).parent.mkdir(parents=True, exist_ok=True)

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _: ConnectionPoolEntry) -> None:
        connection.isolation_level = None  # `_begin` begins the transactions
        for pragma in ("busy_timeout=20000", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        writing = connection.get_execution_options().get("writing", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")

    return engine


def _postgresql_engine(url: str, seconds: float | None) -> Engine:
    """An engine whose connections wait for no server that has stopped, or that the network no longer reaches."""
    engine = create_engine(
        url, hide_parameters=True, pool_pre_ping=True, pool_size=10, max_overflow=20, pool_timeout=seconds or 30,
        connect_args={"connect_timeout": CONNECTS_WITHIN},
    )  # fmt: skip
    if seconds is None:
        return engine
    from psycopg import Connection as Unbounded
    from psycopg import OperationalError

    class Bounded(Unbounded[Any]):
        """A connection that breaks if its server does not answer in time."""

        def wait(self, gen: Any, *args: Any, **settings: Any) -> Any:
            """Waits for the server, for `seconds` at most; whoever waited in vain can do nothing more with it."""
            try:
                return super().wait(gen, *args, **settings | {"timeout": settings.get("timeout") or seconds})
            except OperationalError as fault:
                if fault.sqlstate is None:
                    self.close()
                raise

    @event.listens_for(engine, "do_connect")
    def _connect(_: Any, __: Any, arguments: list[Any], settings: dict[str, Any]) -> Any:
        return Bounded.connect(*arguments, **settings)

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _: ConnectionPoolEntry) -> None:
        """Makes the server end a transaction whose client it no longer hears, so that its locks hold nobody up."""
        connection.execute(f"SET idle_in_transaction_session_timeout = '{seconds:g}s'")
        connection.commit()

    return engine


def migrate(url: str, revision: str = "head") -> None:
    """Migrates the database to a revision, by default the newest; processes that do so at the same time take turns."""
    database = Database(url, seconds=None)
    try:
        with database.writing() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": MIGRATION_LOCK})
            config = Config()
            config.set_main_option("script_location", str(MIGRATIONS))
            config.attributes["connection"] = connection
            newer = revision == "head" or revision >= (_revision(connection) or "")
            (command.upgrade if newer else command.downgrade)(config, revision)
    finally:
        database.close()


def _revision(connection: Connection) -> str | None:
    """The schema's revision; None before the first migration."""
    return MigrationContext.configure(connection).get_current_revision()


def now() -> datetime:
    """The current time in UTC."""
    return datetime.now(UTC)


def clock(connection: Connection) -> datetime:
    """The current time by the clock of the database, which all leases and pauses go by.

    The clocks of machines disagree, so what one wrote must not be compared with the time of another. SQLite is used on
    a single machine, whose clock is the database's.
    """
    if connection.dialect.name == "sqlite":
        return now()
    moment: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
    return moment


def allow_pause(connection: Connection) -> None:
    """Lets this transaction pause for `PAUSES_WITHIN`, after which PostgreSQL ends it (see `_postgresql_engine`)."""
    if connection.dialect.name == "postgresql":
        limit = "idle_in_transaction_session_timeout", f"{PAUSES_WITHIN:g}s"
        connection.execute(select(func.set_config(*limit, True)))


def new_id() -> str:
    """A ULID: 26 letters and digits that sort by the millisecond of their creation."""
    number = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    return "".join(ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))


def get(database: Database, tenant: str, kind: JobKind, job_id: str) -> Record | None:
    """A job of a tenant; None if there is none or it belongs to another tenant."""
    wanted = select(*RECORD).where(jobs.c.tenant == tenant, jobs.c.kind == kind, jobs.c.id == job_id)
    with database.reading() as connection:
        row = connection.execute(wanted).one_or_none()
    return None if row is None else Record(**row._mapping)


def page(
    database: Database,
    tenant: str,
    kind: JobKind,
    *,
    limit: int,
    before: str | None = None,
    state: State | None = None,
) -> list[Record]:
    """Up to `limit` jobs, newest first, after the job `before`."""
    wanted = _on_page(select(*RECORD), tenant, kind, limit, before, state)
    with database.reading() as connection:
        return [Record(*row) for row in connection.execute(wanted)]


def page_size(
    database: Database,
    tenant: str,
    kind: JobKind,
    *,
    limit: int,
    before: str | None = None,
    state: State | None = None,
) -> int:
    """Number of jobs whose requests and results fit on a page of `LARGEST_PAGE` characters; at least 1."""
    lengths = [func.coalesce(func.length(cast(column, Text)), 0) for column in (jobs.c.payload, jobs.c.result)]
    wanted = _on_page(select(lengths[0] + lengths[1]), tenant, kind, limit, before, state)
    with database.reading() as connection:
        reached = accumulate(int(characters) for characters in connection.scalars(wanted))
        return max(1, sum(characters <= LARGEST_PAGE for characters in reached))


def _on_page(
    wanted: Select[Any], tenant: str, kind: JobKind, limit: int, before: str | None, state: State | None
) -> Select[Any]:
    """Restricts and orders a query like a page of jobs."""
    wanted = wanted.where(jobs.c.tenant == tenant, jobs.c.kind == kind)
    if before is not None:
        wanted = wanted.where(jobs.c.id < before)
    if state is not None:
        wanted = wanted.where(jobs.c.state == state)
    return wanted.order_by(jobs.c.id.desc()).limit(limit)


def idempotent_job(database: Database, tenant: str, key: str) -> tuple[str, str] | None:
    """The fingerprint and the job id of an `Idempotency-Key`; None if it is new."""
    wanted = select(idempotency.c.fingerprint, idempotency.c.job_id).where(
        idempotency.c.tenant == tenant, idempotency.c.key == key
    )
    with database.reading() as connection:
        row = connection.execute(wanted).one_or_none()
    return None if row is None else (row.fingerprint, row.job_id)


def history(database: Database, tenant: str, job_id: str, *, after: int = 0) -> list[Event]:
    """The events of a job after the event numbered `after`."""
    with database.reading() as connection:
        return happened(connection, tenant, job_id, after=after)


def happened(connection: Connection, tenant: str, job_id: str, *, after: int = 0) -> list[Event]:
    """The same within a transaction."""
    wanted = (
        select(events.c.seq, events.c.what, events.c.at, events.c.data)
        .where(events.c.tenant == tenant, events.c.job_id == job_id, events.c.seq > after)
        .order_by(events.c.seq)
    )
    return [Event(**row._mapping) for row in connection.execute(wanted)]


def own(database: Database, tenant: str, digest: str, size: int, *, most: int = 0) -> bool:
    """Records that a tenant uploaded these stored bytes; returns False if it had done so before.

    Raises:
        NoRoomError: the tenant would then store more than `most` bytes.
    """
    with database.writing() as connection:
        return own_within(connection, tenant, digest, size, most=most)


def own_within(connection: Connection, tenant: str, digest: str, size: int, *, most: int = 0) -> bool:
    """The same within a transaction."""
    if most:
        take_turn(connection, "bytes", tenant)
        if not _owned(connection, tenant, [digest]) and (used := _kept(connection, tenant)) + size > most:
            raise NoRoomError(used, most)
    row = {"tenant": tenant, "digest": digest, "size": size, "created_at": now()}
    return upsert(connection, blobs, row, blobs.c.size < 0) == 1  # changes nothing if the tenant has it


def owned(database: Database, tenant: str, digests: Sequence[str]) -> dict[str, int]:
    """The digests among `digests` that a tenant uploaded, with their sizes in bytes."""
    with database.reading() as connection:
        return _owned(connection, tenant, digests)


def kept(database: Database, tenant: str) -> int:
    """Number of bytes that a tenant uploaded."""
    with database.reading() as connection:
        return _kept(connection, tenant)


def take_turn(connection: Connection, what: str, tenant: str) -> None:
    """Serialises transactions that count something of a tenant, so that a count stays valid until the commit.

    SQLite needs no lock here, since only one transaction writes at a time.
    """
    if connection.dialect.name == "postgresql":
        turn = text("SELECT pg_advisory_xact_lock(hashtext(:what), hashtext(:tenant))")
        connection.execute(turn, {"what": f"caveat {what}", "tenant": tenant})


def _owned(connection: Connection, tenant: str, digests: Sequence[str]) -> dict[str, int]:
    found = connection.execute(_OWNED, {"tenant": tenant, "digests": [*set(digests)]})
    return {row.digest: row.size for row in found}


def _kept(connection: Connection, tenant: str) -> int:
    counted = select(func.coalesce(func.sum(blobs.c.size), 0)).where(blobs.c.tenant == tenant)
    return int(connection.execute(counted).scalar_one())


def record_worker(
    database: Database,
    worker: str,
    missing_protections: list[str],
    queues: Collection[Queue] = QUEUES,
    *,
    leaving: bool = False,
) -> None:
    """Records that a worker is alive, the protections that its kernel lacks, and the queues that it serves.

    A worker that is `leaving` claims no more jobs.
    """
    with database.writing() as connection:
        moment = clock(connection)
        values = {
            "seen_at": moment,
            "missing_protections": missing_protections,
            "queues": list(queues),
            "leaving": leaving,
        }
        connection.execute(workers.delete().where(workers.c.seen_at < moment - FORGOTTEN_AFTER))
        updated = connection.execute(workers.update().where(workers.c.name == worker).values(**values))
        if updated.rowcount == 0:
            connection.execute(workers.insert().values(name=worker, **values))
        for queue in sorted(queues):
            served = {"name": f"serve {queue}", "begun_at": moment}
            upsert(connection, chores, served, chores.c.begun_at <= moment - NOTED_EVERY)


def leave(database: Database, worker: str) -> None:
    """Records that a worker is leaving, so that it claims no more jobs."""
    with database.writing() as connection:
        connection.execute(workers.update().where(workers.c.name == worker).values(leaving=True))


def remove_worker(database: Database, worker: str) -> None:
    """Removes a worker that has left."""
    with database.writing() as connection:
        connection.execute(workers.delete().where(workers.c.name == worker))


def alive(database: Database, *, within: timedelta) -> dict[str, list[str]]:
    """Workers seen within `within`, and the protections that each lacks."""
    with database.reading() as connection:
        seen = workers.c.seen_at > clock(connection) - within
        wanted = select(workers.c.name, workers.c.missing_protections).where(seen)
        return {row.name: row.missing_protections for row in connection.execute(wanted)}


def serving(database: Database, *, within: timedelta) -> dict[Queue, int]:
    """Number of workers seen within `within` that serve each queue."""
    with database.reading() as connection:
        wanted = select(workers.c.queues).where(workers.c.seen_at > clock(connection) - within)
        served = Counter(queue for queues in connection.scalars(wanted) for queue in queues)
    return {queue: served[queue] for queue in QUEUES}


def unserved(database: Database, *, for_: timedelta) -> set[Queue]:
    """The queues that no worker has served for `for_`, or ever."""
    with database.reading() as connection:
        noted = select(chores.c.name).where(chores.c.begun_at > clock(connection) - for_ - NOTED_EVERY)
        served = set(connection.scalars(noted))
    return {queue for queue in QUEUES if f"serve {queue}" not in served}


def count_jobs(database: Database) -> dict[tuple[str, str], int]:
    """Number of jobs by kind and state."""
    counted = select(jobs.c.kind, jobs.c.state, func.count()).group_by(jobs.c.kind, jobs.c.state)
    with database.reading() as connection:
        return {(kind, state): count for kind, state, count in connection.execute(counted)}


def count_waiting(database: Database) -> dict[Queue, int]:
    """Number of queued jobs by queue."""
    counted = select(jobs.c.queue, func.count().label("many")).where(jobs.c.state == "queued").group_by(jobs.c.queue)
    with database.reading() as connection:
        return dict.fromkeys(QUEUES, 0) | {row.queue: row.many for row in connection.execute(counted)}


def count_events(database: Database) -> dict[str, int]:
    """Number of times that each step was taken, including those of erased jobs."""
    counted = select(events.c.what, func.count()).group_by(events.c.what)
    with database.snapshot() as connection:
        found = Counter[str]()
        for what, count in [*connection.execute(select(tallies.c.what, tallies.c.count)), *connection.execute(counted)]:
            found[what] += count
    return dict(found)


@contextmanager
def due(database: Database, chore: str, every: timedelta) -> Iterator[bool]:
    """Yields whether no process did this chore within `every`; if so it begins now.

    One that fails, or whose process is killed, is due again after `CHORE_AGAIN_AFTER`.
    """
    with database.writing() as connection:
        moment = clock(connection)
        until_done = moment - max(every - CHORE_AGAIN_AFTER, timedelta(0))
        last = chores.c.begun_at <= moment - every
        begins = upsert(connection, chores, {"name": chore, "begun_at": until_done}, last) == 1
    yield begins
    if begins:
        with database.writing() as connection:
            upsert(connection, chores, {"name": chore, "begun_at": moment})


def upsert(
    connection: Connection, table: Table, values: dict[str, Any], when: ColumnElement[bool] | None = None
) -> int:
    """Inserts a row, or updates the row with its key (if `when` holds); returns the number of rows written."""
    insert = (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(table).values(**values)
    keys = [column.name for column in table.primary_key]
    changed = {name: insert.excluded[name] for name in values if name not in keys}
    written = insert.on_conflict_do_update(index_elements=keys, set_=changed, where=when)
    return connection.execute(written, execution_options={"preserve_rowcount": True}).rowcount
