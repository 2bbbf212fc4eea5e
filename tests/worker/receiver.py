"""A real HTTP server that receives webhooks and answers as a test wants."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from standardwebhooks import Webhook

from tests.serving import Answer, Asked, serving


@dataclass(frozen=True)
class Letter:
    """A received request."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    def opened(self, secret: str) -> dict[str, Any]:
        """Its message, if this secret signed it."""
        found: dict[str, Any] = Webhook(secret).verify(self.body, self.headers)
        return found


@dataclass
class Receiver:
    """The received requests, and how each is answered: with a status, or by an action on the connection."""

    port: int = 0
    letters: list[Letter] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    """Statuses to answer with, in order; 200 after the last one."""
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    def wait(self, count: int = 1, seconds: float = 30) -> list[Letter]:
        """Waits for a number of letters and returns them."""
        until(lambda: len(self.letters) >= count, seconds)
        return list(self.letters)


@contextmanager
def receiver(port: int = 0) -> Iterator[Receiver]:
    """A receiver that listens on 127.0.0.1."""
    there = Receiver()

    def take(asked: Asked) -> Answer:
        there.letters.append(Letter(asked.path, asked.headers, asked.body))
        time.sleep(there.delay)
        return Answer(there.answers.pop(0) if there.answers else 200, there.headers)

    with serving(take, port) as there.port:
        yield there


def until(done: Callable[[], bool], seconds: float = 30) -> None:
    """Waits until a condition holds."""
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, f"not after {seconds} seconds"
        time.sleep(0.02)
