"""Connections to addresses that are allowed, for names that somebody else chose.

The name is resolved once, all its addresses are checked, and the connection goes to a checked address, so no second
lookup can return another one. Proxies of the environment are not used, and all operations share a deadline. Who chose
the name learns neither its non-public addresses nor whether it exists, since it could probe internal names otherwise;
the log has these details.
"""

from __future__ import annotations

import logging
import socket
import ssl
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import httpcore2
import httpx2

from caveat_storage.ssrf import Network, may_reach

log = logging.getLogger(__name__)

FAULTS = (httpcore2.NetworkError, httpcore2.ProtocolError, OSError, UnicodeError)
"""What an exchange may end in, beside `httpcore2.TimeoutException` and `NotAllowedError`."""


class NotAllowedError(Exception):
    """A name has no address, or one that is not allowed; the message says so in a few words."""


def why(fault: BaseException) -> str:
    """One of `FAULTS` in a few words, without an address."""
    cause = fault.__cause__ or fault
    return f"no connection: {getattr(cause, 'strerror', None) or type(cause).__name__}"


@cache
def trust() -> ssl.SSLContext:
    """The certificates that are trusted."""
    return httpx2.create_ssl_context()


def _looked_up(host: str, port: int) -> list[str]:
    """All current addresses of a host."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


@dataclass(frozen=True)
class PinnedBackend(httpcore2.NetworkBackend):
    """A network backend that connects only to allowed addresses: public ones with TLS, others if they are listed."""

    allowed: list[Network]
    setting: str
    """The setting that lists them."""
    encrypted: bool
    deadline: float
    """When every operation has to have ended, in seconds of `time.monotonic()`."""

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        """Connects to the first address of a host that answers; raises `NotAllowedError` if one is not allowed."""
        addresses = _looked_up(host, port)
        inside = [one for one in addresses if not may_reach(one, self.allowed, encrypted=self.encrypted)]
        if inside or not addresses:
            log.info("no connection to %s: addresses that are not allowed: %s", host, inside)
            raise NotAllowedError(f"{host} has no address, or one that is not allowed ({self.setting})")
        for address in addresses[:-1]:
            try:
                return self._connect(address, port, timeout)
            except (httpcore2.NetworkError, httpcore2.TimeoutException):
                continue
        return self._connect(addresses[-1], port, timeout)

    def _connect(self, address: str, port: int, timeout: float | None) -> httpcore2.NetworkStream:
        left = _left(self.deadline, timeout)
        return _InTime(httpcore2.SyncBackend().connect_tcp(address, port, timeout=left), self.deadline)


@dataclass(frozen=True)
class _InTime(httpcore2.NetworkStream):
    """A connection with a deadline for all its operations together, beside the timeout of each."""

    stream: httpcore2.NetworkStream
    deadline: float

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self.stream.read(max_bytes, _left(self.deadline, timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self.stream.write(buffer, _left(self.deadline, timeout))

    def close(self) -> None:
        self.stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        left = _left(self.deadline, timeout)
        return _InTime(self.stream.start_tls(ssl_context, server_hostname, left), self.deadline)

    def get_extra_info(self, info: str) -> Any:
        return self.stream.get_extra_info(info)


def _left(deadline: float, timeout: float | None) -> float:
    """Seconds for one operation: its own timeout, or what is left until the deadline if that is less."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise httpcore2.ReadTimeout
    return left if timeout is None else min(left, timeout)
