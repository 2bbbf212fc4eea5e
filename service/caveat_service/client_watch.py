"""One thread that looks at clients who are waited for, again and again, and ends what takes too long."""

from __future__ import annotations

import threading
import time
from typing import Protocol

GRACE = 10.0
"""Seconds of waiting for a client that are free."""
RATE = 16 << 10
"""Bytes per second that have to arrive, or be taken, after that."""
PIECE = 64 << 10
"""Bytes that are read or sent at once; what has moved of a piece does not count yet."""
TICK = 0.05


class Waiting:
    """How long a thread has waited for a client, piece by piece; it locks nothing."""

    def __init__(self) -> None:
        """Waits for nothing yet."""
        self._before = 0.0
        self._since: float | None = None

    def begin(self) -> None:
        """Waits from now on."""
        self._since = time.monotonic()

    def end(self) -> None:
        """Waits no longer."""
        self._before, self._since = self.seconds, None

    @property
    def goes_on(self) -> bool:
        """Whether the thread waits now."""
        return self._since is not None

    @property
    def seconds(self) -> float:
        """Seconds of waiting, together."""
        return self._before + (0.0 if self._since is None else time.monotonic() - self._since)


class Watched(Protocol):
    """A body that is read, or an answer that is sent."""

    def look(self) -> None:
        """Ends it if it takes too long, or if there is no place for it."""


class ClientWatch:
    """The thread starts with the first client, which is after gunicorn has forked."""

    def __init__(self) -> None:
        """Watches nobody yet."""
        self._watched: set[Watched] = set()
        self._some, self._turn = threading.Event(), threading.Lock()
        self._watching = False

    def add(self, one: Watched) -> None:
        """Watches from now on."""
        with self._turn:
            self._watched.add(one)
            if not self._watching:
                self._watching = True
                threading.Thread(target=self._look_on, daemon=True, name="slow-clients").start()
        self._some.set()

    def discard(self, one: Watched) -> None:
        """Watches no longer."""
        with self._turn:
            self._watched.discard(one)

    def _look_on(self) -> None:
        while self._some.wait():
            self._some.clear()
            while self._watched:
                time.sleep(TICK)
                with self._turn:
                    watched = [*self._watched]
                for one in watched:
                    one.look()
