"""The audit log in the database: appended to in the transaction of each action, exported, and erased by payload.

Appending locks the row of the log's head until the transaction ends. An entry is therefore the last write of its
transaction, which then waits for nothing while other transactions wait for it.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from securesystemslib.signer import Signer
from sqlalchemy import ColumnElement, Connection, bindparam, select

from caveat_spec.audit_log import NOTHING, Entry, Head, SignedHead
from caveat_storage import attestations, hash_chain
from caveat_storage.job_records import Database, now, upsert
from caveat_storage.tables import heads, log

PAGE = 1000  # entries read at a time
_HEAD = select(heads.c.length, heads.c.digest).where(heads.c.tenant == bindparam("of")).with_for_update()
_MOVE = heads.update().where(heads.c.tenant == bindparam("of"))
"""Statements are built once, since all submissions of a tenant wait for each other here."""


class NotLoggedError(Exception):
    """The log does not say how a job ended."""


def append(connection: Connection, tenant: str, what: str, said: dict[str, Any], job_id: str | None = None) -> Entry:
    """Appends an entry to a tenant's log."""
    length, previous = _hold(connection, tenant)
    payload = {**said, "salt": secrets.token_hex(16)}
    moment = now()
    entry = hash_chain.link(tenant, length + 1, moment, what, job_id, payload, previous)
    added = {"tenant": tenant, "seq": entry.seq, "at": moment, "what": what, "job_id": job_id, "payload": payload}
    digests = {"payload_digest": entry.payload_digest, "previous": previous, "digest": entry.digest}
    connection.execute(log.insert(), added | digests)
    connection.execute(_MOVE, {"of": tenant, "length": entry.seq, "digest": entry.digest})
    return entry


def export(database: Database, tenant: str, signers: Sequence[Signer] = ()) -> Iterator[bytes]:
    """Yields a snapshot of a tenant's log as lines; `signers` sign the head, which is the last line."""
    with database.snapshot() as connection:
        head = connection.execute(select(heads).where(heads.c.tenant == tenant)).one_or_none()
        length, digest = (0, NOTHING) if head is None else (head.length, head.digest)
        for after in range(0, length, PAGE):
            page = select(log).where(log.c.tenant == tenant, log.c.seq > after, log.c.seq <= after + PAGE)
            for row in connection.execute(page.order_by(log.c.seq)):
                yield hash_chain.line(_entry(row._mapping))
    if signers:
        end = Head(tenant=tenant, length=length, digest=digest, at=hash_chain.spelt(now()))
        yield attestations.seal(end, SignedHead, signers) + b"\n"


def reported(database: Database, tenant: str, job_id: str) -> str | None:
    """The digest of the report that a job's worker logged in the transaction that ended the job; None if none did.

    Raises:
        NotLoggedError: the log does not say how the job ended.
    """
    said = select(log.c.payload).where(log.c.tenant == tenant, log.c.job_id == job_id, log.c.what == "succeed")
    with database.reading() as connection:
        entry = connection.execute(said).one_or_none()
    if entry is None:
        raise NotLoggedError(job_id)
    digest: str | None = (entry.payload or {}).get("report_digest")
    return digest


def erase(connection: Connection, tenant: str, which: ColumnElement[bool], said: dict[str, Any]) -> int:
    """Erases the payloads of some entries and appends an entry that lists them; returns their number."""
    erased = log.c.tenant == tenant, which, log.c.payload.is_not(None)
    gone = connection.scalars(select(log.c.seq).where(*erased).order_by(log.c.seq)).all()
    connection.execute(log.update().where(*erased, log.c.seq.in_(gone)).values(payload=None))
    append(connection, tenant, hash_chain.ERASE, {**said, "entries": _runs(gone)})
    return len(gone)


def _hold(connection: Connection, tenant: str) -> tuple[int, str]:
    """Length and last digest of a tenant's log; locks its row until the transaction ends."""
    row = connection.execute(_HEAD, {"of": tenant}).one_or_none()
    if row is None:
        first = {"tenant": tenant, "length": 0, "digest": NOTHING}
        upsert(connection, heads, first, heads.c.length < 0)  # changes nothing if another transaction was first
        row = connection.execute(_HEAD, {"of": tenant}).one()
    return row.length, row.digest


def _entry(row: Any) -> Entry:
    fields = {name: row[name] for name in ("tenant", "seq", "what", "payload", "payload_digest", "previous", "digest")}
    return Entry.model_validate({**fields, "at": hash_chain.spelt(row["at"]), "job": row["job_id"]})


def _runs(numbers: Sequence[int]) -> list[list[int]]:
    """Ascending numbers as runs, each a pair of its first and last number."""
    if not numbers:
        return []
    breaks = [(before, after) for before, after in pairwise(numbers) if after != before + 1]
    firsts, lasts = [after for _, after in breaks], [before for before, _ in breaks]
    return [list(run) for run in zip([numbers[0], *firsts], [*lasts, numbers[-1]], strict=True)]
