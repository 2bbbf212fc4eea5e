"""A network that can be cut: a proxy that passes bytes on, swallows them, or refuses connections."""

from __future__ import annotations

import selectors
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from tests.worker.live import unused_port

State = Literal["open", "silent", "refusing"]


class Partition:
    """A proxy on `port` to another port of this machine, or to a Unix socket."""

    def __init__(self, to: int | Path) -> None:
        self.port = unused_port()
        self.state: State = "open"
        self._to, self._over = to, threading.Event()
        self._listening: socket.socket | None = None
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._selector = selectors.DefaultSelector()

    def become(self, state: State) -> None:
        """Cuts or mends the network; one that was cut has lost its connections once it is mended."""
        self.state = state

    def run(self) -> None:
        """Passes bytes on until it is over."""
        was: State = "open"
        while not self._over.is_set():
            if self.state == "refusing" or was != self.state == "open":
                self._hang_up()
            was = self.state
            self._listen(self.state != "refusing")
            for key, _ in self._selector.select(0.05) if self._selector.get_map() else []:
                self._ready(key.fileobj)  # type: ignore[arg-type]
            if self.state == "silent":
                self._over.wait(0.05)
        self._hang_up()
        self._listen(False)

    def end(self) -> None:
        """Ends `run`."""
        self._over.set()

    def _listen(self, wanted: bool) -> None:
        if wanted and self._listening is None:
            self._listening = socket.create_server(("127.0.0.1", self.port))
            self._selector.register(self._listening, selectors.EVENT_READ)
        elif not wanted and self._listening is not None:
            self._selector.unregister(self._listening)
            self._listening.close()
            self._listening = None

    def _ready(self, one: socket.socket) -> None:
        if self.state == "silent":  # connections are accepted by the kernel, and nobody reads what they say
            return
        if one is self._listening:
            theirs = one.accept()[0]
            try:
                ours = self._connected()
            except OSError:
                theirs.close()
                return
            self._pairs |= {theirs: ours, ours: theirs}
            for end in (theirs, ours):
                self._selector.register(end, selectors.EVENT_READ)
        elif one in self._pairs:
            self._pass_on(one)

    def _connected(self) -> socket.socket:
        if isinstance(self._to, int):
            return socket.create_connection(("127.0.0.1", self._to))
        ours = socket.socket(socket.AF_UNIX)
        ours.connect(str(self._to))
        return ours

    def _pass_on(self, one: socket.socket) -> None:
        try:
            data = one.recv(1 << 16)
            self._pairs[one].sendall(data)
        except OSError:
            data = b""
        if not data:
            self._close(one)

    def _close(self, one: socket.socket) -> None:
        for end in (one, self._pairs.pop(one)):
            self._pairs.pop(end, None)
            with suppress(KeyError, ValueError):
                self._selector.unregister(end)
            end.close()

    def _hang_up(self) -> None:
        while self._pairs:
            self._close(next(iter(self._pairs)))


@contextmanager
def partition(to: int | Path) -> Iterator[Partition]:
    """Runs a proxy to a port of this machine, or to a Unix socket."""
    there = Partition(to)
    thread = threading.Thread(target=there.run)
    thread.start()
    try:
        yield there
    finally:
        there.end()
        thread.join()
