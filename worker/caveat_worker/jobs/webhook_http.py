"""Sends a message to an address chosen by a client, without reaching addresses that are not allowed.

The name is resolved once, all its addresses are checked, and the connection goes to a checked address, so no second
lookup can return another one. Redirects are not followed, proxies of the environment are not used, only the status of
the answer is read, and the whole exchange has a deadline. The client that chose the name learns neither its non-public
addresses nor whether it exists, since it could probe internal names otherwise; the log has these details.
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

from caveat_storage.ssrf import Network, may_reach

log = logging.getLogger(__name__)

SECONDS = 15.0
"""Seconds for the whole exchange, including name resolution."""


class UnsentError(Exception):
    """There was no answer; the message says why in a few words."""


def post(url: str, body: bytes, headers: dict[str, str], allowed: list[Network]) -> int:
    """Posts `body` and returns the status of the answer.

    Raises:
        UnsentError: there was no answer, or the address is not allowed.
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
    """All current addresses of a host."""
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
    """A network backend that connects only to allowed addresses."""

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
            log.info("no message is sent to %s: addresses that are not allowed: %s", host, inside)
            raise UnsentError(f"{host} has no address, or one that is not allowed (CAVEAT_WEBHOOK_NETWORKS)")
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
    """A connection with a deadline for all its operations together."""

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
