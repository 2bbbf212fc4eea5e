"""Migrates the database before it is used: `python -m caveat_storage.upgrade [REVISION]`.

The role that owns the tables migrates (`CAVEAT_DATABASE_URL`). The API and the workers have roles of their own, which
may not: `CAVEAT_API_DATABASE_URL` and `CAVEAT_WORKER_DATABASE_URL` name them; they are created if they are not there.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

from alembic.util import CommandError
from sqlalchemy import Connection, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from caveat_storage.job_records import Database, migrate
from caveat_storage.settings import SharedSettings

API, WORKER = "caveat_api", "caveat_worker"
"""What a role may do is granted to these two (migration 0010); roles that log in are members of one."""
WAIT_SECONDS = 20.0
"""How long a process waits for a role that may migrate; gunicorn allows 30 seconds for its start."""
PRIVILEGE = "42501"
"""SQLSTATE of a missing privilege."""


class NotMigratedError(Exception):
    """The database has an older schema, and this role may not migrate it."""


def prepare(url: str) -> None:
    """Migrates the database or, if this role may not, waits until another one has.

    Raises:
        NotMigratedError: nobody has within `WAIT_SECONDS`.
    """
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            return migrate(url)
        except DBAPIError as fault:
            if getattr(fault.orig, "sqlstate", None) != PRIVILEGE:
                raise
            if time.monotonic() > deadline:
                raise NotMigratedError(
                    "The database has another schema, and its role in CAVEAT_DATABASE_URL may not migrate it. Run "
                    "`python -m caveat_storage.upgrade` with the role that owns the tables."
                ) from fault
        time.sleep(1)


def admit(owner: str, logins: dict[str, str]) -> None:
    """Creates the roles that log in with the URLs in `logins` (group → URL), or gives them these passwords.

    A URL without a password leaves the password of its role alone.
    """
    database = Database(owner)
    try:
        with database.writing() as connection:
            for group, login in logins.items():
                _admit(connection, group, login)
    finally:
        database.close()


def _admit(connection: Connection, group: str, login: str) -> None:
    """One of them; the server gets the hash of the password, which its log may show."""
    from psycopg import sql

    name, password = make_url(login).username or "", make_url(login).password
    raw = connection.connection.driver_connection
    assert raw is not None
    there = raw.execute("SELECT FROM pg_roles WHERE rolname = %s", [name]).fetchone() is not None
    role = sql.Identifier(name)
    if not there:
        raw.execute(sql.SQL("CREATE ROLE {} LOGIN").format(role))
    if password is not None:
        said = raw.pgconn.encrypt_password(str(password).encode(), name.encode(), b"scram-sha-256").decode()
        raw.execute(sql.SQL("ALTER ROLE {} LOGIN PASSWORD {}").format(role, sql.Literal(said)))
    raw.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(group), role))


def main(arguments: list[str]) -> int:
    """Migrates to a revision, by default the newest, and admits the roles of the API and the workers."""
    parser = argparse.ArgumentParser(prog="python -m caveat_storage.upgrade", description="Migrates the database.")
    parser.add_argument("revision", nargs="?", default="head", help="by default the newest")
    asked = parser.parse_args(arguments)
    owner = SharedSettings().database_url
    said = {API: os.environ.get("CAVEAT_API_DATABASE_URL"), WORKER: os.environ.get("CAVEAT_WORKER_DATABASE_URL")}
    logins = {group: login for group, login in said.items() if login and login != owner}
    try:
        _require_roles(owner, logins)
        migrate(owner, asked.revision)
        admit(owner, logins)
    except (ArgumentError, CommandError, DBAPIError, ValueError) as fault:
        why = fault.orig if isinstance(fault, DBAPIError) else fault
        print(f"The database was not migrated: {str(why).strip()}", file=sys.stderr)
        return 1
    return 0


def _require_roles(owner: str, logins: dict[str, str]) -> None:
    """Raises `ValueError` where a login cannot be made: only PostgreSQL has roles, and each has a name."""
    if logins and make_url(owner).get_backend_name() != "postgresql":
        raise ValueError("only PostgreSQL has roles, so CAVEAT_DATABASE_URL has to be the URL of one.")
    if not all(make_url(login).username for login in logins.values()):
        raise ValueError("CAVEAT_API_DATABASE_URL and CAVEAT_WORKER_DATABASE_URL have to name a role each.")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
