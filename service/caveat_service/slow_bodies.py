"""Bodies of requests that arrive slowly: they cost only their sender, and never for long.

A thread that reads a body waits for its client. A body that does not arrive at once needs one of the places for long
requests, of which every client has a share; and a body has to arrive at a minimum rate, so each has a total deadline.
A read is ended by shutting down the receiving side of the connection.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from flask import has_request_context

from caveat_service import long_request_slots
from caveat_service.client_watch import GRACE, PIECE, RATE, ClientWatch, Waiting
from caveat_service.errors import HTTPProblem, refuse

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

SOON = 0.25
"""Seconds after which a body that is not complete needs a place for long requests."""


class SlowBodies:
    """WSGI middleware that watches the bodies of requests; it needs the connection that gunicorn passes on."""

    def __init__(self, app: WSGIApplication, watch: ClientWatch) -> None:
        """Takes the watch over all clients of this process."""
        self._app, self._watch = app, watch

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serves a request."""
        connection = environ.get("gunicorn.socket")
        if connection is None:
            return self._app(environ, start_response)
        size = int(environ["CONTENT_LENGTH"]) if environ.get("CONTENT_LENGTH") else None
        body = environ["wsgi.input"] = Body(environ["wsgi.input"], size, connection, self._watch)
        try:
            return self._app(environ, start_response)
        finally:
            self._watch.discard(body)
            body.end()


class Body:
    """The body of a request, as a file; raises the problem of its client if it is too slow."""

    def __init__(self, stream: Any, size: int | None, connection: socket.socket, watch: ClientWatch) -> None:
        self._stream, self._size, self._connection, self._watch = stream, size, connection, watch
        self._place: long_request_slots.Place | None = None
        self._turn = threading.Lock()
        self._arrived, self._complete = 0, False
        self._began = 0.0
        self._waiting = Waiting()
        self._fault: HTTPProblem | None = None

    def read(self, size: int | None = -1) -> bytes:
        """Returns the next bytes, all that are left by default."""
        if size is None or size < 0:
            return b"".join(iter(lambda: self._piece(PIECE), b""))
        return self._piece(min(size, PIECE)) if size <= PIECE else b"".join(self._pieces(size))

    def _pieces(self, size: int) -> Iterator[bytes]:
        while size > 0 and (piece := self._piece(min(size, PIECE))):
            size -= len(piece)
            yield piece

    def _piece(self, size: int) -> bytes:
        if self._place is None and has_request_context():
            self._place, self._began = long_request_slots.place(), time.monotonic()
            self._watch.add(self)
        self._waiting.begin()
        try:
            piece: bytes = self._stream.read(size)
        except Exception:
            self._raise_fault()
            raise
        finally:
            with self._turn:
                self._waiting.end()
        self._arrived += len(piece)
        self._complete = not piece or self._arrived == self._size
        self._raise_fault()
        return piece

    def _raise_fault(self) -> None:
        if self._fault is not None:
            raise self._fault

    def look(self) -> None:
        """Ends a read that takes too long, or for which there is no place."""
        with self._turn:
            if self._complete or self._fault is not None or self._place is None:
                return
            if time.monotonic() - self._began < SOON:
                return
            if not self._place.take():
                self._fault = long_request_slots.busy()
            elif self._arrived < (self._waiting.seconds - GRACE) * RATE:
                self._fault = _too_slow()
            else:
                return
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RD)

    def end(self) -> None:
        """Gives the place back."""
        with self._turn:
            if self._place is not None:
                self._place.give_back()
                self._place = None


def _too_slow() -> HTTPProblem:
    return refuse(
        "slow-body",
        408,
        f"The body of the request arrives at less than {RATE >> 10} KiB per second.",
        "Send it over a faster connection; PATCH /v1/uploads/sha256:... resumes an upload where it broke off.",
        Connection="close",
    )
