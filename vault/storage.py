"""Bytes and the rows that hold them, together: what is kept is noted first, and goes only when no row holds it.

A row of `stored` stands for the bytes of its digest, and rows that name a digest refer to it. It is touched right
before the bytes come to their place, so that a collection (`collect`), which takes only what was not touched for a
while, leaves bytes alone that somebody is about to name.
"""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy.dialects import postgresql, sqlite

from vault.blobs import Blobs
from vault.records import Database, now
from vault.tables import stored


def opened(url: str, database: Database) -> Blobs:
    """The place that a URL names; what arrives there is noted in `database`."""
    return replace(Blobs.at(url), arriving=lambda digest: touch(database, digest))


def touch(database: Database, digest: str) -> None:
    """Notes that bytes are here, or about to be."""
    with database.writing() as connection:
        insert = (postgresql if connection.dialect.name == "postgresql" else sqlite).insert
        noted = insert(stored).values(digest=digest, touched_at=now())
        again = noted.on_conflict_do_update(index_elements=["digest"], set_={"touched_at": noted.excluded.touched_at})
        connection.execute(again)
