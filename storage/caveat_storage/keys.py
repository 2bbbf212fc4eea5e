"""Bearer keys: a key belongs to a tenant, has scopes, and may expire.

A key is `caveat_ID_SECRET`. The secret has 256 random bits, so only its plain SHA-256 is stored; a slow hash would add
nothing, because nobody can guess the secret. Changes to keys are recorded in the audit log of their tenant.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, get_args

from sqlalchemy import ColumnElement, Connection, Row, and_, or_, select

from caveat_storage import audit_log
from caveat_storage.job_records import Database, new_id, now
from caveat_storage.tables import keys

Scope = Literal["submit", "read", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
PREFIX = "caveat"
OPERATOR = "operator"
"""Default principal of operators in the audit log."""
TENANT = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"
"""Pattern of tenant names."""


@dataclass(frozen=True)
class Holder:
    """The principal behind a key or token."""

    tenant: str
    name: str
    """Principal in the audit log: `key:` and the key's id, or `oidc:` and the subject."""
    scopes: frozenset[str]


@dataclass(frozen=True)
class KeyRecord:
    """A stored key, without its secret."""

    id: str
    tenant: str
    name: str
    scopes: list[Scope]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None

    @property
    def state(self) -> Literal["valid", "expired", "revoked"]:
        """Whether the key is accepted."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now() else "valid"


def issue(
    database: Database,
    tenant: str,
    name: str,
    scopes: Collection[Scope],
    *,
    lasts: timedelta | None = None,
    by: str = OPERATOR,
) -> str:
    """Creates a key and returns it; its secret cannot be read again."""
    with database.writing() as connection:
        key_id, key = _add(connection, tenant, name, sorted(scopes), lasts)
        _log(connection, tenant, "issue_key", by, key=key_id, name=name, scopes=sorted(scopes))
    return key


def rotate(
    database: Database, key_id: str, *, overlap: timedelta, lasts: timedelta | None = None, by: str = OPERATOR
) -> str | None:
    """Replaces a key, which stays valid for `overlap`; returns the new key, or None if the old one is invalid."""
    with database.writing() as connection:
        old = connection.execute(select(keys).where(_valid(key_id)).with_for_update()).one_or_none()
        if old is None:
            return None
        end = now() + overlap
        if old.expires_at is None or old.expires_at > end:
            connection.execute(keys.update().where(keys.c.id == key_id).values(expires_at=end))
        new_key, key = _add(connection, old.tenant, old.name, old.scopes, lasts)
        _log(connection, old.tenant, "rotate_key", by, key=new_key, replaces=key_id, scopes=old.scopes)
    return key


def holder(database: Database, key: str) -> Holder | None:
    """The principal behind a key; None if it was never issued, has expired or was revoked."""
    if not key.isprintable():  # PostgreSQL takes no zero bytes
        return None
    prefix, _, rest = key.partition("_")
    key_id, _, secret = rest.partition("_")
    row = _valid_row(database, key_id)
    expected = row.secret_hash if row is not None else "0" * 64
    matches = hmac.compare_digest(_hash(secret), expected)
    return _principal(row) if row is not None and matches and prefix == PREFIX else None


def holder_of(database: Database, key_id: str) -> Holder | None:
    """The principal of a key that was presented before; None if it has expired or was revoked since."""
    row = _valid_row(database, key_id)
    return None if row is None else _principal(row)


def revoke(database: Database, key_id: str, *, by: str = OPERATOR) -> bool:
    """Revokes a key immediately; returns False if there is no such key or it was revoked before."""
    with database.writing() as connection:
        ended = connection.execute(
            keys.update().where(keys.c.id == key_id, keys.c.revoked_at.is_(None)).values(revoked_at=now())
        )
        if ended.rowcount == 0:
            return False
        tenant = connection.execute(select(keys.c.tenant).where(keys.c.id == key_id)).scalar_one()
        _log(connection, tenant, "revoke_key", by, key=key_id)
    return True


def issued(database: Database, tenant: str | None = None) -> list[KeyRecord]:
    """All keys, or those of one tenant, oldest first."""
    wanted = select(*(keys.c[field] for field in KeyRecord.__dataclass_fields__)).order_by(keys.c.id)
    if tenant is not None:
        wanted = wanted.where(keys.c.tenant == tenant)
    with database.reading() as connection:
        return [KeyRecord(**row._mapping) for row in connection.execute(wanted)]


def _add(
    connection: Connection, tenant: str, name: str, scopes: list[Scope], lasts: timedelta | None
) -> tuple[str, str]:
    """Inserts a new key; returns its id and the key."""
    key_id, secret, moment = new_id(), secrets.token_hex(32), now()
    connection.execute(
        keys.insert().values(
            id=key_id, tenant=tenant, name=name, secret_hash=_hash(secret), scopes=scopes,
            created_at=moment, expires_at=None if lasts is None else moment + lasts,
        )
    )  # fmt: skip
    return key_id, f"{PREFIX}_{key_id}_{secret}"


def _valid(key_id: str) -> ColumnElement[bool]:
    unexpired = or_(keys.c.expires_at.is_(None), keys.c.expires_at > now())
    return and_(keys.c.id == key_id, keys.c.revoked_at.is_(None), unexpired)


def _valid_row(database: Database, key_id: str) -> Row[Any] | None:
    with database.reading() as connection:
        return connection.execute(select(keys).where(_valid(key_id))).one_or_none()


def _principal(row: Row[Any]) -> Holder:
    return Holder(row.tenant, f"key:{row.id}", frozenset(row.scopes))


def _log(connection: Connection, tenant: str, what: str, by: str, **said: Any) -> None:
    audit_log.append(connection, tenant, what, {**said, "by": by})


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
