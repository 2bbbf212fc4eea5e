"""Bearer keys, in the database of a service: whoever can write there is its operator, and needs no key to make one."""

from __future__ import annotations

import getpass
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import timedelta
from importlib.util import find_spec
from typing import TYPE_CHECKING

from caveat.problems import ProblemError, problem

if TYPE_CHECKING:
    from vault.keys import KeyRecord, Scope
    from vault.records import Database


def create(url: str, tenant: str, name: str, scopes: Collection[Scope], lasts: timedelta | None) -> str:
    """A new key."""
    with opened(url) as database:
        from vault import keys

        return keys.issue(database, tenant, name, scopes, lasts=lasts, by=operator())


def issued(url: str, tenant: str | None) -> list[KeyRecord]:
    """All keys, or a tenant's."""
    with opened(url) as database:
        from vault import keys

        return keys.issued(database, tenant)


def revoke(url: str, key: str) -> None:
    """Ends a key."""
    with opened(url) as database:
        from vault import keys

        if not keys.revoke(database, _id(key), by=operator()):
            raise _no_such_key(key)


def rotate(url: str, key: str, overlap: timedelta, lasts: timedelta | None) -> str:
    """A new key, while the old one lasts for `overlap` more."""
    with opened(url) as database:
        from vault import keys

        new = keys.rotate(database, _id(key), overlap=overlap, lasts=lasts, by=operator())
    if new is None:
        raise _no_such_key(key)
    return new


def operator() -> str:
    """Who runs the command, as the log says it."""
    try:
        return f"operator:{getpass.getuser()}"
    except (KeyError, OSError):  # a user without a name, as in a container
        return "operator"


@contextmanager
def opened(url: str) -> Iterator[Database]:
    """The database of a service; what goes wrong with it is a problem."""
    if find_spec("sqlalchemy") is None:
        raise problem("not-installed", 503, "This needs SQLAlchemy.", "Install it with `pip install 'caveat[vault]'`.")
    from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

    from vault.records import Database

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
            "database-away", 503, f"The database does not do that: {str(fault.orig).splitlines()[0]}.",
            "Check --database-url; the service makes the tables when it starts.",
        ) from None  # fmt: skip


def _id(key: str) -> str:
    """The id in a key, or what is one already."""
    return key.split("_")[1] if key.startswith("caveat_") else key


def _no_such_key(key: str) -> ProblemError:
    return problem(
        "no-such-key",
        404,
        f"There is no key {_id(key)} that has not ended.",
        "`caveat keys list` shows those there are.",
    )
