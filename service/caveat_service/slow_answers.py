"""Answers that clients take slowly, or not at all: they cost only their client, and never for long.

A thread that sends an answer waits for its client once the kernel's buffers are full. An answer that is not taken soon
needs one of the places for long requests, of which every client has a share; and answers have to be taken at a minimum
rate, so each has a total deadline. An answer without a place, or too slow, is broken off: its head has been sent.
"""

from __future__ import annotations

import fcntl
import socket
import termios
import threading
from array import array
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from flask import Response, request

from caveat_service import long_request_slots
from caveat_service.client_watch import GRACE, PIECE, RATE, ClientWatch, Waiting
from caveat_service.long_request_slots import Place

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

SOON = 1.0
"""Seconds of waiting for its client after which an answer needs a place for long requests."""
PLACE = "caveat.place"


def remember_place(response: Response) -> Response:
    """Remembers whose share an answer uses, for the time after its request has been handled."""
    request.environ[PLACE] = long_request_slots.place()
    return response


class SlowAnswers:
    """WSGI middleware that watches answers; it needs the connection that gunicorn passes on."""

    def __init__(self, app: WSGIApplication, watch: ClientWatch) -> None:
        """Takes the watch over all clients of this process."""
        self._app, self._watch = app, watch

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serves a request."""
        answer = self._app(environ, start_response)
        connection, place = environ.get("gunicorn.socket"), environ.get(PLACE)
        if connection is None or place is None:
            return answer
        return Answer(answer, connection, place, self._watch)


def _untaken(connection: socket.socket) -> int:
    """Bytes that the kernel has not delivered; at 0 a busy server waits for itself, and not for its client."""
    left = array("i", [0])
    with suppress(OSError, ValueError):  # it may be closed by now
        fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, left)
    return left[0]


class Answer:
    """An answer in pieces, each of which has been sent when the next one is asked for."""

    def __init__(self, chunks: Iterable[bytes], connection: socket.socket, place: Place, watch: ClientWatch) -> None:
        self._chunks, self._connection, self._place, self._watch = chunks, connection, place, watch
        self._turn = threading.Lock()
        self._sent, self._over = 0, False
        self._waiting = Waiting()

    def __iter__(self) -> Iterator[bytes]:
        """Yields pieces, and counts how long each takes to be sent."""
        self._watch.add(self)
        for chunk in self._chunks:
            for start in range(0, len(chunk), PIECE):
                piece = chunk[start : start + PIECE]
                self._waiting.begin()
                yield piece
                with self._turn:
                    self._waiting.end()
                    self._sent += len(piece)

    def look(self) -> None:
        """Breaks off an answer that takes too long, or for which there is no place."""
        with self._turn:
            if self._over or not self._waiting.goes_on or self._waiting.seconds < SOON:
                return
            untaken = _untaken(self._connection)
            if not untaken:
                return
            taken = self._sent + PIECE - untaken  # some of the piece that is being sent may be on its way too
            if self._place.take() and taken >= (self._waiting.seconds - GRACE) * RATE:
                return
            self._over = True
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Gives the place back, and closes what was sent."""
        self._watch.discard(self)
        try:
            if hasattr(self._chunks, "close"):
                self._chunks.close()
        finally:
            with self._turn:
                self._over = True
                self._place.give_back()
