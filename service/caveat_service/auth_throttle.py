"""Limits failed authentications: after too many from one address, the answer is 429 instead of 401.

Only failures count, and the key is checked first, so a client with a valid key is served whatever others send from the
same address, which may be a NAT or a proxy. Guessing 256 bits is hopeless anyway; the limit reduces noise and load.
Failures are counted at the broker, for all processes; while it is unavailable, each process counts for itself.
"""

from __future__ import annotations

import math
import time
from ipaddress import IPv6Address, ip_address, ip_network

from limits import RateLimitItem, parse_many
from limits.errors import StorageError
from limits.storage import MemoryStorage, storage_from_string
from limits.strategies import MovingWindowRateLimiter

from caveat_service.settings import Settings

SECONDS = 1
"""Timeout for counting."""
AWAY_SECONDS = 5.0
"""How long the broker is skipped after it did not answer."""
NETWORK = 64
"""Prefix length of IPv6 networks that are counted as one client, since a client controls a whole network."""


class AuthThrottle:
    """Counts recent failures by address."""

    def __init__(self, settings: Settings) -> None:
        """Connects on first use."""
        self._limits = parse_many(settings.auth_failure_limit) if settings.auth_failure_limit else []
        options = {"socket_timeout": SECONDS, "socket_connect_timeout": SECONDS}
        shared = storage_from_string(
            settings.counted_at, wrap_exceptions=True, key_prefix="caveat-auth-failures", **options
        )
        self._shared, self._own = MovingWindowRateLimiter(shared), MovingWindowRateLimiter(MemoryStorage())
        self._away_until = 0.0

    def count(self, address: str) -> dict[str, str] | None:
        """Counts a failure; returns None below the limit, otherwise the headers that say when to retry."""
        if time.monotonic() >= self._away_until:
            try:
                return self._count(self._shared, _client(address))
            except StorageError:
                self._away_until = time.monotonic() + AWAY_SECONDS
        return self._count(self._own, _client(address))

    def _count(self, counter: MovingWindowRateLimiter, client: str) -> dict[str, str] | None:
        over = [limit for limit in self._limits if not counter.hit(limit, client)]
        return max((_headers(counter, limit, client) for limit in over), key=_wait, default=None)


def _headers(counter: MovingWindowRateLimiter, limit: RateLimitItem, client: str) -> dict[str, str]:
    wait = max(1, math.ceil(counter.get_window_stats(limit, client).reset_time - time.time()))
    return {
        "Retry-After": str(wait),
        "RateLimit-Limit": str(limit.amount),
        "RateLimit-Remaining": "0",
        "RateLimit-Reset": str(wait),
    }


def _wait(headers: dict[str, str]) -> int:
    return int(headers["Retry-After"])


def _client(address: str) -> str:
    """The client of an address; for IPv6 its network."""
    try:
        found = ip_address(address)
    except ValueError:
        return "nowhere"  # a Unix socket
    if not isinstance(found, IPv6Address):
        return str(found)
    return str(found.ipv4_mapped or ip_network((found, NETWORK), strict=False))
