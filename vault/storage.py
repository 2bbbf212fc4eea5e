"""Bytes and the rows that hold them, together: what comes is noted, and goes only when no row holds it.

A row of `stored` stands for the bytes of its digest, and rows that name a digest refer to it. Bytes come to their place
and go from it inside the transaction that writes or deletes that row, so whoever sees the row has the bytes. It is
touched whenever they come, so that a collection, which takes only what was not touched for a while, leaves bytes alone
that somebody is about to name. Should that somebody be slower still, the database refuses the name.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta

from sqlalchemy import exists, select
from sqlalchemy.exc import IntegrityError

from vault.blobs import Blobs
from vault.records import Database, now, upsert
from vault.tables import blobs as owned
from vault.tables import stored, uses
from vault.uploads import Uploads

STALLED = timedelta(hours=1)
"""No upload that goes on is silent for so long."""


@dataclass(frozen=True)
class Collected:
    """What a collection found."""

    removed: int
    """Bytes that nothing named any more."""
    broken: int
    """What came of uploads that nobody went on with."""
    adopted: int
    """Bytes that the database did not know: they go next time, if nothing names them until then."""


def opened(url: str, database: Database) -> Blobs:
    """The place that a URL names; what arrives there is noted in `database`."""
    return replace(Blobs.at(url), arriving=lambda digest: arrival(database, digest))


@contextmanager
def arrival(database: Database, digest: str) -> Iterator[None]:
    """Notes that bytes are here, in a transaction inside which they come; a collection of them waits until it ends."""
    with database.writing() as connection:
        upsert(connection, stored, {"digest": digest, "touched_at": now()})
        yield


def touch(database: Database, digest: str) -> None:
    """Notes that bytes are here."""
    with arrival(database, digest):
        pass


def collect(database: Database, blobs: Blobs, *, unused_for: timedelta) -> Collected:
    """Deletes bytes that no row has named for so long; any number of these may run, beside everything else."""
    adopted = [digest for digest in blobs.digests() if _adopt(database, blobs, digest)]
    unused = stored.c.touched_at < now() - unused_for
    unnamed = ~exists().where(owned.c.digest == stored.c.digest), ~exists().where(uses.c.digest == stored.c.digest)
    with database.reading() as connection:
        candidates = connection.scalars(select(stored.c.digest).where(unused, *unnamed)).all()
    removed = 0
    for digest in candidates:
        try:
            with database.writing() as connection:  # until it ends, whoever brings these bytes anew waits in `arrival`
                if connection.execute(stored.delete().where(stored.c.digest == digest, unused, *unnamed)).rowcount:
                    blobs.remove(digest)
                    removed += 1
        except IntegrityError:
            continue  # somebody named them meanwhile
    stalled = max(unused_for, STALLED)
    broken = blobs.forget_incoming(stalled)
    Uploads(blobs).expire(stalled)
    return Collected(removed, broken, len(adopted))


def _adopt(database: Database, blobs: Blobs, digest: str) -> bool:
    """Notes bytes that the database does not know, as after it was restored from a backup; False if it does."""
    with database.reading() as connection:
        if connection.execute(select(stored.c.digest).where(stored.c.digest == digest)).one_or_none():
            return False
    with database.writing() as connection:  # whoever holds the row is alone with the bytes
        upsert(connection, stored, {"digest": digest, "touched_at": now()})
        if blobs.exists(digest):
            return True
        connection.execute(stored.delete().where(stored.c.digest == digest))  # they went since they were listed
        return False
