"""A gunicorn worker whose threads serve only requests with a complete head, so idle connections block none of them.

gunicorn gives a connection a thread on its first byte, drains unread bodies in that thread, and blocks until the peer
closes; so a few dozen unauthenticated connections would make it unresponsive, even to probes. In this worker the main
loop waits for all of these connections at once.
"""

from __future__ import annotations

import socket
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from selectors import EVENT_READ
from typing import Any

from gunicorn.http.errors import LimitRequestHeaders, ParseException
from gunicorn.workers.gthread import TConn, ThreadWorker

from caveat_spec.problem import ProblemDetails

HEAD_SECONDS = 10.0
"""Time limit for the head of a request to arrive."""
LONGEST_HEAD = 1 << 16  # bytes
DRAIN_SECONDS = 0.05
"""How long a thread drains a body that no view has read."""
LEAVE_SECONDS = 5.0
"""How long a peer may take to close; closing at once could discard the answer while the peer still sends."""
PROBES = (b"GET /healthz ", b"GET /readyz ")
NOT_WATCHED = -1
END = b"\r\n\r\n"
TOO_LONG = ProblemDetails.of(
    "request-header-fields-too-large",
    431,
    f"The head of the request is longer than {LONGEST_HEAD:,} bytes.",
    "Send a shorter URL, or fewer or shorter headers.",
)


class Turns:
    """Connections that wait for a thread; addresses take turns, so a crowd from one delays no other for long."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[TConn]] = {}

    def add(self, conn: TConn) -> None:
        """Lets a connection wait."""
        self._waiting.setdefault(_address(conn), deque()).append(conn)

    def next(self) -> TConn | None:
        """The connection whose turn it is; None if none waits."""
        if not self._waiting:
            return None
        address = next(iter(self._waiting))
        mine = self._waiting.pop(address)
        conn = mine.popleft()
        if mine:
            self._waiting[address] = mine  # behind the others
        return conn


class GunicornWorker(ThreadWorker):
    """A threaded gunicorn worker that waits for clients only in its main loop."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Starts without connections."""
        super().__init__(*args, **kwargs)
        self._coming: dict[TConn, int] = {}
        """Connections with an incomplete head, and its length so far; `NOT_WATCHED` until the first look."""
        self._leaving: set[TConn] = set()
        self._turns, self._busy = Turns(), 0
        """Connections with a complete head that wait for a thread, and how many have one."""
        self._probes = ThreadPoolExecutor(2, "probes")
        """Answers probes, so no other request can hold its threads."""

    def enqueue_req(self, conn: TConn) -> None:
        """Gives a connection to a thread once a complete head has arrived."""
        conn.sock.setblocking(False)
        conn.timeout = time.monotonic() + HEAD_SECONDS
        self._coming[conn] = NOT_WATCHED
        self._look(conn)

    def finish_request(self, conn: TConn, fs: Future[Any]) -> None:
        """Keeps the connection alive, or waits for its peer to close."""
        if fs.cancelled() or fs.exception() is not None or fs.result():
            super().finish_request(conn, fs)
        else:
            self._leave(conn)

    def handle_error(self, req: Any, client: socket.socket, addr: Any, exc: BaseException) -> None:
        """Answers a request that is not valid HTTP with a problem document in place of gunicorn's page."""
        if isinstance(exc, ParseException):
            self.log.warning("a request cannot be read: %s", type(exc).__name__)
            with suppress(OSError):
                client.send(_answer(TOO_LONG if isinstance(exc, LimitRequestHeaders) else _unreadable(exc)))
        else:
            super().handle_error(req, client, addr, exc)

    def _leave(self, conn: TConn) -> None:
        """Shuts down sending, and waits for the peer to close."""
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
        """Closes connections that took too long and, if there are too many, those that have waited longest."""
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
        """Peeks at the received bytes without consuming them."""
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
            if _is_probe(head):
                done = self._probes.submit(self.handle, conn)
                done.add_done_callback(lambda future: self.method_queue.defer(self.finish_request, conn, future))
            else:
                self._turns.add(conn)
                self._serve()
        elif len(head) == self._coming[conn]:  # the peer has stopped sending
            self._hang_up(conn)
        elif len(head) >= LONGEST_HEAD:
            if self._coming.pop(conn) != NOT_WATCHED:
                self.poller.unregister(conn.sock)
            with suppress(OSError):
                conn.sock.send(_answer(TOO_LONG))
            self._leave(conn)
        else:
            if self._coming[conn] == NOT_WATCHED:
                self.poller.register(conn.sock, EVENT_READ, partial(self._look, conn))
            self._coming[conn] = len(head)
            _wake_at(conn, len(head) - len(ahead) + 1)

    def _serve(self) -> None:
        """Gives free threads to the connections whose turn it is."""
        while self._busy < self.cfg.threads and (conn := self._turns.next()) is not None:
            self._busy += 1
            done = self.tpool.submit(self.handle, conn)
            done.add_done_callback(partial(self.method_queue.defer, self._served, conn))

    def _served(self, conn: TConn, done: Future[Any]) -> None:
        self._busy -= 1
        self._serve()
        self.finish_request(conn, done)

    def _drain(self, conn: TConn, _: Any) -> None:
        """Discards what a closing peer still sends."""
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


def _unreadable(fault: ParseException) -> ProblemDetails:
    """What is wrong with a head that gunicorn cannot parse."""
    detail = f"The head of the request cannot be read: {type(fault).__name__}."
    return ProblemDetails.of("bad-request", 400, detail, "Send a well-formed HTTP request.")


def _answer(problem: ProblemDetails) -> bytes:
    """A whole answer that says the problem and closes the connection."""
    body = problem.model_dump_json().encode()
    return (
        f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}\r\nConnection: close\r\n"
        f"Content-Type: application/problem+json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body


def _address(conn: TConn) -> str:
    """The address of a client; clients on a Unix socket have none."""
    return str(conn.client[0]) if isinstance(conn.client, tuple) else ""


def _is_probe(head: bytes) -> bool:
    """Whether a request is a probe; one with a key, which has to be looked up, is served like any other request."""
    return head.lstrip(b"\r\n").startswith(PROBES) and b"\r\nauthorization:" not in head.partition(END)[0].lower()


def _wake_at(conn: TConn, size: int) -> None:
    """Makes the connection readable only once `size` bytes have arrived, or it has ended."""
    conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)
