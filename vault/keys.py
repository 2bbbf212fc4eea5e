"""Bearer keys: who may ask for what, until when.

A key is `caveat_ID_SECRET`. The secret has 256 random bits, so that its plain SHA-256 is all that is kept of it: there
is nothing to guess that a slow hash would protect.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from sqlalchemy import select

from vault.records import Database, new_id, now
from vault.tables import keys

Scope = Literal["submit", "read", "admin"]
PREFIX = "caveat"


@dataclass(frozen=True)
class Holder:
    """Who holds a key."""

    tenant: str
    name: str
    """As the log says it: `key:` and the key's id."""
    scopes: frozenset[str]


@dataclass(frozen=True)
class KeyRecord:
    """A key as it is kept: everything but its secret."""

    id: str
    tenant: str
    name: str
    scopes: list[Scope]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


def issue(
    database: Database, tenant: str, name: str, scopes: Collection[Scope], *, lasts: timedelta | None = None
) -> str:
    """A new key, in the only moment in which its secret is known."""
    key_id, secret, moment = new_id(), secrets.token_hex(32), now()
    with database.writing() as connection:
        connection.execute(
            keys.insert().values(
                id=key_id,
                tenant=tenant,
                name=name,
                secret_hash=_hash(secret),
                scopes=sorted(scopes),
                created_at=moment,
                expires_at=None if lasts is None else moment + lasts,
            )
        )
    return f"{PREFIX}_{key_id}_{secret}"


def holder(database: Database, key: str) -> Holder | None:
    """Who holds a key; None if it was never issued, has expired, or was revoked."""
    prefix, _, rest = key.partition("_")
    key_id, _, secret = rest.partition("_")
    with database.reading() as connection:
        row = connection.execute(select(keys).where(keys.c.id == key_id)).one_or_none()
    expected = row.secret_hash if row is not None else "0" * 64
    matches = hmac.compare_digest(_hash(secret), expected)
    if row is None or not matches or prefix != PREFIX or row.revoked_at is not None:
        return None
    if row.expires_at is not None and row.expires_at <= now():
        return None
    return Holder(row.tenant, f"key:{row.id}", frozenset(row.scopes))


def revoke(database: Database, key_id: str) -> bool:
    """Ends a key at once; False if there is none that could be ended."""
    valid = (keys.c.id == key_id) & keys.c.revoked_at.is_(None)
    with database.writing() as connection:
        return connection.execute(keys.update().where(valid).values(revoked_at=now())).rowcount == 1


def issued(database: Database, tenant: str | None = None) -> list[KeyRecord]:
    """All keys, or those of one tenant, the oldest first."""
    wanted = select(*(keys.c[field] for field in KeyRecord.__dataclass_fields__)).order_by(keys.c.id)
    if tenant is not None:
        wanted = wanted.where(keys.c.tenant == tenant)
    with database.reading() as connection:
        return [KeyRecord(**row._mapping) for row in connection.execute(wanted)]


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
