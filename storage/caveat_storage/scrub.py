"""Verifies stored bytes again from time to time, so that damage is found before an audit needs them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, and_, or_, select

from caveat_spec.disk_faults import DiskError
from caveat_storage import blob_registry
from caveat_storage.blobs import Blobs, CorruptBytesError
from caveat_storage.job_records import Database, now
from caveat_storage.tables import stored

PAGE = 100  # digests listed at a time
DOUBT = timedelta(hours=1)
"""Time after which bytes that were damaged, unreadable or missing are read again: a disk may have been mended."""


@dataclass
class Scrubbed:
    """What a pass over the store found."""

    verified: int = 0
    """Blobs that are what their digest says."""
    bytes: int = 0
    """Their size in bytes."""
    damaged: list[str] = field(default_factory=list)
    """Digests of blobs whose bytes have changed."""
    unreadable: list[str] = field(default_factory=list)
    """Digests of blobs that the disk cannot read."""
    missing: list[str] = field(default_factory=list)
    """Digests of blobs whose bytes are gone."""


def scrub(
    database: Database, blobs: Blobs, *, not_since: timedelta = timedelta(0), most_bytes: int | None = None
) -> Scrubbed:
    """Verifies the blobs that nobody verified within `not_since`, oldest first, until `most_bytes` are read.

    Several processes may do so at the same time; each blob is verified by one of them. Damaged, unreadable and missing
    bytes are recorded, and asked for again at their next upload. Those that are recorded are read again after `DOUBT`.

    Raises:
        DiskError: the store's disk fails as a whole, which says nothing about single blobs; none of them is recorded.
    """
    found = Scrubbed()
    which = _stale(now() - not_since)
    for digest, verified_at in _listed(database, which):
        if _claim(database, digest, which):
            try:
                _verify(database, blobs, digest, found)
            except BaseException:  # the store is away: nobody has verified these bytes
                _give_back(database, digest, verified_at)
                raise
        if most_bytes is not None and found.bytes >= most_bytes:
            break
    return found


def _stale(before: datetime) -> ColumnElement[bool]:
    """Blobs that were not verified since `before`, or are recorded as damaged and were not read since a while."""
    doubted = and_(stored.c.damaged_at.is_not(None), stored.c.verified_at < now() - DOUBT)
    return or_(stored.c.verified_at.is_(None), stored.c.verified_at < before, doubted)


def _listed(database: Database, which: ColumnElement[bool]) -> Iterator[tuple[str, datetime | None]]:
    """Yields digests and when they were verified, oldest first; every one of them has to be claimed."""
    oldest = stored.c.verified_at.nulls_first(), stored.c.digest
    wanted = select(stored.c.digest, stored.c.verified_at).where(which).order_by(*oldest).limit(PAGE)
    while True:
        with database.reading() as connection:
            page = connection.execute(wanted).all()
        if not page:
            return
        yield from ((row.digest, row.verified_at) for row in page)


def _claim(database: Database, digest: str, which: ColumnElement[bool]) -> bool:
    """Whether this process verifies the blob; others then leave it."""
    with database.writing() as connection:
        claimed = stored.update().where(stored.c.digest == digest, which).values(verified_at=now())
        return connection.execute(claimed).rowcount == 1


def _give_back(database: Database, digest: str, verified_at: datetime | None) -> None:
    with database.writing() as connection:
        connection.execute(stored.update().where(stored.c.digest == digest).values(verified_at=verified_at))


def _verify(database: Database, blobs: Blobs, digest: str, found: Scrubbed) -> None:
    try:
        found.bytes += blobs.verify(digest)
    except CorruptBytesError:
        found.damaged.append(digest)
    except FileNotFoundError:
        if blob_registry.mark(database, digest, damaged=True):  # else it was deleted meanwhile
            found.missing.append(digest)
    except DiskError:
        if blobs.fault() not in (None, "blobs-full"):
            raise
        blob_registry.mark(database, digest, damaged=True)
        found.unreadable.append(digest)
    else:
        blob_registry.mark(database, digest, damaged=False)
        found.verified += 1
