"""Verifies stored bytes again from time to time, so that damage is found before an audit needs them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import or_, select

from caveat_storage import blob_registry
from caveat_storage.blobs import Blobs, CorruptBytesError
from caveat_storage.job_records import Database, now
from caveat_storage.tables import stored

PAGE = 100  # digests listed at a time


@dataclass
class Scrubbed:
    """What a pass over the store found."""

    verified: int = 0
    """Blobs that are what their digest says."""
    bytes: int = 0
    """Their size in bytes."""
    damaged: list[str] = field(default_factory=list)
    """Digests of blobs whose bytes have changed."""
    missing: list[str] = field(default_factory=list)
    """Digests of blobs whose bytes are gone."""


def scrub(
    database: Database, blobs: Blobs, *, not_since: timedelta = timedelta(0), most_bytes: int | None = None
) -> Scrubbed:
    """Verifies the blobs that nobody verified within `not_since`, oldest first, until `most_bytes` are read.

    Several processes may do so at the same time; each blob is verified by one of them. Damaged and missing bytes are
    recorded, and asked for again at their next upload.
    """
    found, before = Scrubbed(), now() - not_since
    for digest in _stale(database, before):
        if _claim(database, digest, before):
            _verify(database, blobs, digest, found)
        if most_bytes is not None and found.bytes >= most_bytes:
            break
    return found


def _stale(database: Database, before: datetime) -> Iterator[str]:
    """Yields digests that were not verified since `before`, oldest first; every one of them has to be claimed."""
    stale = or_(stored.c.verified_at.is_(None), stored.c.verified_at < before)
    oldest = stored.c.verified_at.nulls_first(), stored.c.digest
    while True:
        with database.reading() as connection:
            page = connection.scalars(select(stored.c.digest).where(stale).order_by(*oldest).limit(PAGE)).all()
        if not page:
            return
        yield from page


def _claim(database: Database, digest: str, before: datetime) -> bool:
    """Whether this process verifies the blob; others then leave it."""
    stale = or_(stored.c.verified_at.is_(None), stored.c.verified_at < before)
    with database.writing() as connection:
        claimed = stored.update().where(stored.c.digest == digest, stale).values(verified_at=now())
        return connection.execute(claimed).rowcount == 1


def _verify(database: Database, blobs: Blobs, digest: str, found: Scrubbed) -> None:
    try:
        found.bytes += blobs.verify(digest)
    except CorruptBytesError:
        found.damaged.append(digest)
    except FileNotFoundError:
        if blob_registry.mark(database, digest, damaged=True):  # else it was deleted meanwhile
            found.missing.append(digest)
    else:
        blob_registry.mark(database, digest, damaged=False)
        found.verified += 1
