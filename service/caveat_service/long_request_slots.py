"""Slots for long requests, which leave a quarter of the threads free so that probes are always answered."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from caveat_service.errors import refuse
from caveat_service.state import app_context

RETRY_SECONDS = 2


def acquire() -> bool:
    """Takes a slot if one is free; the caller has to release it."""
    return app_context().long_requests.acquire(blocking=False)


def release() -> None:
    """Releases a slot."""
    app_context().long_requests.release()


@contextmanager
def slot() -> Iterator[None]:
    """Holds a slot for the duration of the block; rejects the request if none is free."""
    require()
    try:
        yield
    finally:
        release()


def require() -> None:
    """Takes a slot, or rejects the request."""
    if not acquire():
        refused = refuse(
            "busy",
            429,
            "The service handles as many uploads and streams as it can at the moment.",
            "Try again in a moment; an audit can also be polled, with If-None-Match.",
        )
        refused.headers["Retry-After"] = str(RETRY_SECONDS)
        raise refused
