"""Keeps the stored bytes and the rows that refer to them consistent; garbage collection removes unreferenced bytes.

A row of `stored` stands for the bytes of its digest, and rows that use a digest refer to it. Bytes are moved into place
and deleted inside the transaction that writes or deletes that row, so a visible row always has its bytes. The row's
time is updated whenever the bytes arrive again, and collection takes only rows that are older than a grace period, so
bytes that a client is about to use stay. If the client is slower than that, the foreign key rejects its use.

The row also says whether its bytes were found to be damaged: whoever reads them marks it, and their next arrival, or a
verification that succeeds, removes the mark.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta

from sqlalchemy import Connection, func, select
from sqlalchemy.exc import DBAPIError, IntegrityError

from caveat_storage import job_records
from caveat_storage.blobs import Blobs
from caveat_storage.job_records import Database, now, upsert
from caveat_storage.tables import blobs as owned
from caveat_storage.tables import stored, studies, uses
from caveat_storage.uploads import Uploads

log = logging.getLogger(__name__)

STALLED = timedelta(hours=1)
"""An upload without activity for this long is abandoned."""


@dataclass(frozen=True)
class Collected:
    """The result of a garbage collection."""

    removed: int
    """Blobs deleted because nothing referred to them."""
    broken: int
    """Remains of abandoned uploads that were deleted."""
    adopted: int
    """Blobs unknown to the database, which are registered now and collected next time if nothing uses them."""


def opened(url: str, database: Database) -> Blobs:
    """Opens the blob store at a URL; bytes that arrive there, or are damaged, are registered in `database`."""
    return replace(
        Blobs.at(url),
        arriving=lambda digest, size: arrival(database, digest),
        damaged=lambda digest: _report_damage(database, digest),
    )


@contextmanager
def arrival(database: Database, digest: str) -> Iterator[None]:
    """Registers a digest in a transaction during which its bytes move into place; a collection of them waits for it."""
    with database.writing() as connection:
        job_records.allow_pause(connection)
        _register(connection, digest)
        yield


def for_tenant(
    blobs: Blobs, database: Database, tenant: str, most: int, show: Callable[[Connection], object] = lambda _: None
) -> Blobs:
    """The store as a tenant uploads to it: bytes arrive and become the tenant's in one transaction, or not at all.

    `show` shows what permits that to the database, such as a lease. Raises `NoRoomError` when bytes arrive with which
    the tenant would store more than `most`, if that is not 0.
    """
    return replace(blobs, arriving=lambda digest, size: _upload(database, tenant, digest, size, most, show))


@contextmanager
def _upload(
    database: Database, tenant: str, digest: str, size: int, most: int, show: Callable[[Connection], object]
) -> Iterator[None]:
    with database.writing() as connection:
        job_records.allow_pause(connection)
        show(connection)
        _register(connection, digest)
        job_records.own_within(connection, tenant, digest, size, most=most)
        yield


def _register(connection: Connection, digest: str) -> None:
    moment = now()
    upsert(connection, stored, {"digest": digest, "touched_at": moment, "verified_at": moment, "damaged_at": None})


def mark(database: Database, digest: str, *, damaged: bool) -> bool:
    """Records whether stored bytes, which were just verified, are damaged; returns False if they are gone."""
    found = {"damaged_at": func.coalesce(stored.c.damaged_at, now()) if damaged else None, "verified_at": now()}
    with database.writing() as connection:
        return connection.execute(stored.update().where(stored.c.digest == digest).values(**found)).rowcount == 1


def is_damaged(database: Database, digest: str) -> bool:
    """Whether stored bytes are known to be damaged, so that they have to be uploaded again."""
    wanted = select(stored.c.digest).where(stored.c.digest == digest, stored.c.damaged_at.is_not(None))
    with database.reading() as connection:
        return connection.execute(wanted).one_or_none() is not None


def count_damaged(database: Database) -> int:
    """Number of blobs that are known to be damaged."""
    counted = select(func.count()).where(stored.c.damaged_at.is_not(None))
    with database.reading() as connection:
        return connection.execute(counted).scalar_one()


def _report_damage(database: Database, digest: str) -> None:
    """Logs and records damage; a database that is away does not hide it from the reader of the bytes."""
    log.error("the stored bytes of %s are damaged", digest)
    try:
        mark(database, digest, damaged=True)
    except DBAPIError as fault:
        log.warning("the damage of %s could not be recorded: %s", digest, type(fault).__name__)


def touch(database: Database, digest: str) -> None:
    """Registers bytes that are in place."""
    with arrival(database, digest):
        pass


def collect(database: Database, blobs: Blobs, *, unused_for: timedelta) -> Collected:
    """Deletes bytes that no row has used for `unused_for`; safe to run concurrently with itself and everything else."""
    adopted = [digest for digest in blobs.digests() if _adopt(database, blobs, digest)]
    unused = stored.c.touched_at < now() - unused_for
    naming = (owned.c.digest, uses.c.digest, studies.c.protocol, studies.c.material)
    unnamed = [~select(named).where(named == stored.c.digest).exists() for named in naming]
    with database.reading() as connection:
        candidates = connection.scalars(select(stored.c.digest).where(unused, *unnamed)).all()
    removed = 0
    for digest in candidates:
        try:
            with database.writing() as connection:  # new arrivals of these bytes wait in `arrival` until it ends
                if connection.execute(stored.delete().where(stored.c.digest == digest, unused, *unnamed)).rowcount:
                    blobs.remove(digest)
                    removed += 1
        except IntegrityError:
            continue  # used again meanwhile
    stalled = max(unused_for, STALLED)
    broken = blobs.forget_incoming(stalled)
    Uploads(blobs).expire(stalled)
    return Collected(removed, broken, len(adopted))


def _adopt(database: Database, blobs: Blobs, digest: str) -> bool:
    """Registers bytes unknown to the database, as after restoring a backup; returns False if it knows them."""
    with database.reading() as connection:
        if connection.execute(select(stored.c.digest).where(stored.c.digest == digest)).one_or_none():
            return False
    with database.writing() as connection:  # the row's lock excludes all others from these bytes
        upsert(connection, stored, {"digest": digest, "touched_at": now()})
        if blobs.exists(digest):
            return True
        connection.execute(stored.delete().where(stored.c.digest == digest))  # deleted since they were listed
        return False
