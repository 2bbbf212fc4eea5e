"""Room for requests that take long: a quarter of the threads is left for others, so that a probe always finds one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from service.errors import refuse
from service.state import behind

RETRY_SECONDS = 2


def take() -> bool:
    """Takes a place, if there is one; whoever has it gives it back."""
    return behind().places.acquire(blocking=False)


def give_back() -> None:
    """Gives a place back."""
    behind().places.release()


@contextmanager
def place() -> Iterator[None]:
    """A place for as long as the block takes, or the request is refused."""
    insist()
    try:
        yield
    finally:
        give_back()


def insist() -> None:
    """Takes a place, or refuses the request."""
    if not take():
        refused = refuse(
            "busy",
            429,
            "As many uploads and streams go on here as there is room for.",
            "Come back in a moment; an audit can also be polled, with If-None-Match.",
        )
        refused.headers["Retry-After"] = str(RETRY_SECONDS)
        raise refused
