"""Threads are for requests whose head has come: whoever connects and says little, or does not hang up, holds none.

gunicorn gives a connection its thread when the first byte is there, reads a body that nobody wants in that thread, and
stands still until a peer hangs up; so a few dozen connections, without a key, make it deaf, probes included. Here the
main loop waits for all of them at once.
"""

from __future__ import annotations

import socket
import struct
import time
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from selectors import EVENT_READ
from typing import Any

from gunicorn.workers.gthread import TConn, ThreadWorker

from api_spec.problem import Problem

HEAD_SECONDS = 10.0
"""How long the head of a request may take to come."""
LONGEST_HEAD = 1 << 16  # bytes
SILENT_SECONDS = 30
"""How long the sender of a body may be silent."""
DRAIN_SECONDS = 0.05
"""How long a thread looks for the rest of a body that nobody read."""
LEAVE_SECONDS = 5.0
"""How long a peer may take to hang up; closing at once could take the answer from it while it still sends."""
NOT_WATCHED = -1
END = b"\r\n\r\n"
PROBLEM = Problem.of(
    "request-header-fields-too-large",
    431,
    f"The head of the request has more than {LONGEST_HEAD:,} bytes.",
    "Send fewer or shorter headers.",
).model_dump_json()
TOO_LONG = (
    "HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\n"
    f"Content-Type: application/problem+json\r\nContent-Length: {len(PROBLEM)}\r\n\r\n{PROBLEM}"
).encode()


class Listener(ThreadWorker):
    """A worker of gunicorn that threads do not wait in."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Waits for nobody yet."""
        super().__init__(*args, **kwargs)
        self._coming: dict[TConn, int] = {}
        """Whose head has not come whole, and how many bytes of it have; `NOT_WATCHED` before that is known."""
        self._leaving: set[TConn] = set()

    def enqueue_req(self, conn: TConn) -> None:
        """Gives a connection a thread, once a head has come on it."""
        conn.sock.setblocking(False)
        conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", SILENT_SECONDS, 0))
        conn.timeout = time.monotonic() + HEAD_SECONDS
        self._coming[conn] = NOT_WATCHED
        self._look(conn)

    def finish_request(self, conn: TConn, fs: Future[Any]) -> None:
        """Keeps the connection, or waits for its peer to hang up."""
        if fs.cancelled() or fs.exception() is not None or fs.result():
            super().finish_request(conn, fs)
        else:
            self._leave(conn)

    def _leave(self, conn: TConn) -> None:
        """Says that no more comes, and waits for the peer to say so too."""
        conn.timeout = time.monotonic() + LEAVE_SECONDS
        try:
            conn.sock.setblocking(False)
            conn.sock.shutdown(socket.SHUT_WR)
            self.poller.register(conn.sock, EVENT_READ, partial(self._drain, conn))
        except OSError:
            self._close(conn)
        else:
            self._leaving.add(conn)

    def murder_pending(self) -> None:
        """Hangs up on whoever took too long and, when there are too many, on whoever has waited longest."""
        super().murder_pending()
        moment = time.monotonic()
        for conn in (*self._coming, *self._leaving):
            idle = not self.alive and self._coming.get(conn, 1) <= 0
            if idle or (conn.timeout or 0) <= moment:
                self._hang_up(conn)
        while self.nr_conns >= self.worker_connections and (self.keepalived_conns or self._coming):
            if self.keepalived_conns:
                self._hang_up(self.keepalived_conns.popleft())
            else:
                self._hang_up(next(iter(self._coming)))

    def _keepalive_after(self, conn: TConn, keepalive: bool) -> bool:
        parser: Any = conn.parser
        return bool(keepalive and parser.finish_body(deadline=time.monotonic() + DRAIN_SECONDS))

    def _look(self, conn: TConn, _: Any = None) -> None:
        """Looks at what has come, and leaves it where it is."""
        parser: Any = conn.parser
        ahead: bytes = parser.unreader.buf.getvalue() if parser is not None else b""
        try:
            head = ahead + conn.sock.recv(LONGEST_HEAD, socket.MSG_PEEK)
        except BlockingIOError:
            head = ahead
            if self._coming[conn] != NOT_WATCHED:
                return
        except OSError:
            self._hang_up(conn)
            return
        if END in head.lstrip(b"\r\n"):
            if self._coming.pop(conn) != NOT_WATCHED:
                self.poller.unregister(conn.sock)
                _wake_at(conn, 1)
            conn.data_ready = True
            super().enqueue_req(conn)
        elif len(head) == self._coming[conn]:  # there will be no more of it
            self._hang_up(conn)
        elif len(head) >= LONGEST_HEAD:
            if self._coming.pop(conn) != NOT_WATCHED:
                self.poller.unregister(conn.sock)
            with suppress(OSError):
                conn.sock.send(TOO_LONG)
            self._leave(conn)
        else:
            if self._coming[conn] == NOT_WATCHED:
                self.poller.register(conn.sock, EVENT_READ, partial(self._look, conn))
            self._coming[conn] = len(head)
            _wake_at(conn, len(head) - len(ahead) + 1)

    def _drain(self, conn: TConn, _: Any) -> None:
        """Lets go of what a leaving peer still sends."""
        try:
            ended = not conn.sock.recv(LONGEST_HEAD)
        except BlockingIOError:
            return
        except OSError:
            ended = True
        if ended:
            self._hang_up(conn)

    def _hang_up(self, conn: TConn) -> None:
        if self._coming.pop(conn, 0) != NOT_WATCHED:
            self.poller.unregister(conn.sock)
        self._leaving.discard(conn)
        self._close(conn)

    def _close(self, conn: TConn) -> None:
        self.nr_conns -= 1
        conn.close()


def _wake_at(conn: TConn, size: int) -> None:
    """The connection counts as readable once so many bytes are there, or it has ended."""
    conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)
