"""Whether the parts behind the API work, asked in threads of their own: a part that is silent holds no probe up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, TypeVar

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoConnectionError

from caveat_service.dispatch import JobPublisher
from caveat_spec.artifacts import Queue
from caveat_storage import database_faults, job_records
from caveat_storage.blobs import Blobs
from caveat_storage.job_records import SEEN_WITHIN, Database

WAIT_SECONDS = 2.0
"""Seconds after which a part that does not answer counts as down."""

Answer = TypeVar("Answer")


class Check(Generic[Answer]):
    """Asks a part; those who ask at the same time share the answer."""

    def __init__(self, ask: Callable[[], Answer], otherwise: Answer) -> None:
        """Takes what asks, and the answer of a part that is silent."""
        self._ask, self._otherwise = ask, otherwise
        self._turn = threading.Lock()
        self._asked: Future[Answer] | None = None
        self._since = 0.0

    def answer(self) -> Answer:
        """The answer, after `WAIT_SECONDS` at most."""
        with self._turn:
            if self._asked is None or self._asked.done():
                self._asked, self._since = Future(), time.monotonic()
                threading.Thread(target=self._run, args=(self._asked,), daemon=True, name="readiness").start()
            asked, left = self._asked, self._since + WAIT_SECONDS - time.monotonic()
        try:
            return asked.result(max(left, 0))
        except TimeoutError:
            return self._otherwise

    def _run(self, asked: Future[Answer]) -> None:
        try:
            asked.set_result(self._ask())
        except Exception:
            asked.set_result(self._otherwise)


@dataclass(frozen=True)
class DatabaseState:
    """What the database says of itself and of workers; `problem` is a code if it is down."""

    problem: str | None = None
    queues: dict[Queue, int] = field(default_factory=dict)
    workers: dict[str, list[str]] = field(default_factory=dict)


class Readiness:
    """The checks of one process."""

    def __init__(self, database: Database, blobs: Blobs, publisher: JobPublisher) -> None:
        """Asks nothing yet."""
        away = DatabaseState(database_faults.AWAY.code)
        self.database = Check(partial(_database, database), away)
        self.blobs: Check[str | None] = Check(blobs.fault, "blobs-away")
        self.broker = Check(publisher.is_reachable, False)


def _database(database: Database) -> DatabaseState:
    try:
        queues = job_records.serving(database, within=SEEN_WITHIN)
        return DatabaseState(None, queues, job_records.alive(database, within=SEEN_WITHIN))
    except (DBAPIError, NoConnectionError) as fault:
        return DatabaseState(database_faults.problem_of(fault).code)
