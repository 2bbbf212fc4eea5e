"""Sends one message to an address that somebody else chose, and to no other.

The name is looked up once, all that it stands for is checked, and the connection goes to an address that was checked:
there is no second look-up that could answer something else. Redirects are answers, not orders; proxies of the
environment are not used; what comes back is not read beyond its status, and all of it has to be over in time. Whoever
chose the name is not told what it stands for, nor whether it exists, where that is not public: names of a network's own
could be asked for otherwise. The log says it.
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

import httpcore
import httpx

from vault.addresses import Network, may_reach

log = logging.getLogger(__name__)

SECONDS = 15.0
"""How long a receiver may take to answer, from the look-up of its name on."""


class UnsentError(Exception):
    """No answer came, and why not, in a few words."""


def post(url: str, body: bytes, headers: dict[str, str], allowed: list[Network]) -> int:
    """Posts `body` and returns the status of the answer.

    Raises:
        UnsentError: there is none, or the address may not be reached.
    """
    checked = _Checked(allowed, encrypted=url.startswith("https:"), deadline=time.monotonic() + SECONDS)
    timeout = {"connect": SECONDS, "read": SECONDS, "write": SECONDS, "pool": SECONDS}
    try:
        with (
            httpcore.ConnectionPool(ssl_context=_trust(), network_backend=checked) as pool,
            pool.stream(
                "POST", url, headers=list(headers.items()), content=body, extensions={"timeout": timeout}
            ) as answer,
        ):
            return answer.status
    except httpcore.TimeoutException as fault:
        raise UnsentError(f"no answer within {SECONDS:.0f} seconds") from fault
    except (httpcore.NetworkError, httpcore.ProtocolError, OSError, UnicodeError) as fault:
        cause = fault.__cause__ or fault
        raise UnsentError(f"no connection: {getattr(cause, 'strerror', None) or type(cause).__name__}") from fault


def _looked_up(host: str, port: int) -> list[str]:
    """All addresses of a host, as a name server knows them now."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


@cache
def _trust() -> ssl.SSLContext:
    return httpx.create_ssl_context()


@dataclass(frozen=True)
class _Checked(httpcore.NetworkBackend):
    """Connects to addresses that may be reached."""

    allowed: list[Network]
    encrypted: bool
    deadline: float

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        addresses = _looked_up(host, port)
        inside = [one for one in addresses if not may_reach(one, self.allowed, encrypted=self.encrypted)]
        if inside or not addresses:
            log.info("nothing is sent to %s: its addresses that may not be reached are %s", host, inside)
            raise UnsentError(f"{host} has no address, or one that may not be reached (CAVEAT_WEBHOOK_NETWORKS)")
        for address in addresses[:-1]:
            try:
                return self._connect(address, port)
            except (httpcore.NetworkError, httpcore.TimeoutException):
                continue
        return self._connect(addresses[-1], port)

    def _connect(self, address: str, port: int) -> httpcore.NetworkStream:
        left = max(self.deadline - time.monotonic(), 0.001)
        return _InTime(httpcore.SyncBackend().connect_tcp(address, port, timeout=left), self.deadline)


@dataclass(frozen=True)
class _InTime(httpcore.NetworkStream):
    """A connection that is over at a deadline, however often a little of something comes."""

    stream: httpcore.NetworkStream
    deadline: float

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self.stream.read(max_bytes, self._left())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self.stream.write(buffer, self._left())

    def close(self) -> None:
        self.stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _InTime(self.stream.start_tls(ssl_context, server_hostname, self._left()), self.deadline)

    def get_extra_info(self, info: str) -> Any:
        return self.stream.get_extra_info(info)

    def _left(self) -> float:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout
        return left
