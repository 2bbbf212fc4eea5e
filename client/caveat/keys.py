"""Bearer keys in the database of a service. Its operator has the database's URL, and needs no key to make keys."""

from __future__ import annotations

import getpass
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from caveat.installation import require
from caveat.problems import ProblemError, problem

if TYPE_CHECKING:
    from caveat_storage.job_records import Database
    from caveat_storage.keys import KeyRecord, Scope


def create(url: str, tenant: str, name: str, scopes: Collection[Scope], lasts: timedelta | None) -> str:
    """Makes a key."""
    with opened(url) as database:
        from caveat_storage import keys

        return keys.issue(database, tenant, name, scopes, lasts=lasts, by=operator())


def issued(url: str, tenant: str | None) -> list[KeyRecord]:
    """All keys, or a tenant's."""
    with opened(url) as database:
        from caveat_storage import keys

        return keys.issued(database, tenant)


def revoke(url: str, key: str) -> None:
    """Revokes a key at once."""
    with opened(url) as database:
        from caveat_storage import keys

        if not keys.revoke(database, _id(key), by=operator()):
            raise _no_such_key(key)


def rotate(url: str, key: str, overlap: timedelta, lasts: timedelta | None) -> str:
    """Makes a key in place of an old one, which remains valid for `overlap`."""
    with opened(url) as database:
        from caveat_storage import keys

        new = keys.rotate(database, _id(key), overlap=overlap, lasts=lasts, by=operator())
    if new is None:
        raise _no_such_key(key)
    return new


def operator() -> str:
    """The operating-system user who runs the command, as the audit log names it."""
    try:
        return f"operator:{getpass.getuser()}"
    except (KeyError, OSError):  # a user without a name, as in a container
        return "operator"


@contextmanager
def opened(url: str) -> Iterator[Database]:
    """Opens the database of a service; raises its errors as a `ProblemError`."""
    require("The database of a service", ("sqlalchemy", "alembic"), "storage")
    from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

    from caveat_storage.job_records import Database

    try:
        database = Database(url)
        yield database
        database.close()
    except (ArgumentError, NoSuchModuleError, ImportError) as fault:
        raise problem(
            "database-url", 422, f"The database cannot be opened: {str(fault).splitlines()[0]}.",
            "Give the URL that the service has, such as sqlite:///.caveat/caveat.db or postgresql+psycopg://...",
        ) from None  # fmt: skip
    except DBAPIError as fault:
        raise problem(
            "database-away", 503, f"The database reports an error: {str(fault.orig).splitlines()[0]}.",
            "Check --database-url; the service creates the tables when it starts.",
        ) from None  # fmt: skip


def _id(key: str) -> str:
    """The id of a key, given the key or its id."""
    return key.split("_")[1] if key.startswith("caveat_") else key


def _no_such_key(key: str) -> ProblemError:
    return problem(
        "no-such-key",
        404,
        f"There is no valid key {_id(key)}.",
        "`caveat keys list` shows all keys.",
    )
