"""Why the database failed: its disk is full or fails, or it does not answer."""

from __future__ import annotations

import errno
import sqlite3

from sqlalchemy.exc import DBAPIError

from caveat_spec.disk_faults import disk_problem
from caveat_spec.problem import ProblemDetails

SQLITE = {sqlite3.SQLITE_FULL: errno.ENOSPC, sqlite3.SQLITE_IOERR: errno.EIO, sqlite3.SQLITE_READONLY: errno.EROFS}
POSTGRESQL = {"53100": errno.ENOSPC, "58030": errno.EIO, "25006": errno.EROFS}
"""SQLSTATE → what the disk answered: disk_full, io_error, read_only_sql_transaction."""
AWAY = ProblemDetails.of(
    "database-away",
    503,
    "The database does not answer, so this cannot be processed.",
    "Try again in a moment; an operator looks whether the database runs and whether the network reaches it.",
)


def problem_of(fault: Exception) -> ProblemDetails:
    """The problem of an error that the database, or the pool of its connections, raised."""
    original = fault.orig if isinstance(fault, DBAPIError) else None
    number = POSTGRESQL.get(getattr(original, "sqlstate", None) or "")
    if isinstance(original, sqlite3.Error):
        number = SQLITE.get(getattr(original, "sqlite_errorcode", 0) & 0xFF)
    return AWAY if number is None else disk_problem("database", number)
