"""Places for long requests: streams, waits, large downloads, and bodies that do not arrive at once.

There are fewer than threads, so short requests always find one. A client may take half of the places that the others
leave: whatever one client holds, the next still finds some.
"""

from __future__ import annotations

from flask import g

from caveat_service.errors import HTTPProblem, refuse
from caveat_service.state import SharedPlaces, app_context, client

RETRY_SECONDS = 2


class Place:
    """A place that a request takes at most once, however many of its parts take long."""

    def __init__(self, places: SharedPlaces, who: str) -> None:
        self._places, self._who, self._taken = places, who, 0

    def take(self) -> bool:
        """Takes the place unless it is taken already; returns False if there is none."""
        if not self._taken and not self._places.acquire(self._who):
            return False
        self._taken = 1
        return True

    def give_back(self) -> None:
        """Gives the place back, if it was taken."""
        if self._taken:
            self._taken = 0
            self._places.release(self._who)


def place() -> Place:
    """The place of this request."""
    if "place" not in g:
        g.place = Place(app_context().long_requests, client())
    found: Place = g.place
    return found


def require() -> Place:
    """Takes the place of this request, or rejects the request; the caller has to give it back."""
    mine = place()
    if not mine.take():
        raise busy()
    return mine


def busy() -> HTTPProblem:
    """The problem of a client that has taken its share of the places."""
    refused = refuse(
        "busy",
        429,
        "The service handles as many uploads, streams and slow requests of yours as it can at the moment.",
        "Try again in a moment; an audit can also be polled, with If-None-Match.",
    )
    refused.headers["Retry-After"] = str(RETRY_SECONDS)
    return refused
