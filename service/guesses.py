"""How often a wrong key is answered with 401: after so many from one address, more of them are answered with 429.

Only failures count, and a key is looked at before they are: whoever has a valid one is served, whatever others send
from the same address, which may be a NAT or a proxy. Nobody guesses 256 bits; what this ends is the noise and its cost.
They are counted at the broker, for all processes; while it is away, each counts by itself.
"""

from __future__ import annotations

import math
import time
from ipaddress import IPv6Address, ip_address, ip_network

from limits import RateLimitItem, parse_many
from limits.errors import StorageError
from limits.storage import MemoryStorage, storage_from_string
from limits.strategies import MovingWindowRateLimiter

from service.settings import Settings

SECONDS = 1
"""How long counting may take."""
AWAY_SECONDS = 5.0
"""How long a broker that did not answer is not asked again."""
NETWORK = 64
"""Bits of an IPv6 address that one client has at least one of; whoever has one has all addresses in it."""


class Guesses:
    """Wrong keys of the last while, by address."""

    def __init__(self, settings: Settings) -> None:
        """Connects on first use."""
        self._limits = parse_many(settings.wrong_keys_limit) if settings.wrong_keys_limit else []
        options = {"socket_timeout": SECONDS, "socket_connect_timeout": SECONDS}
        shared = storage_from_string(settings.counted_at, wrap_exceptions=True, key_prefix="caveat-guesses", **options)
        self._shared, self._own = MovingWindowRateLimiter(shared), MovingWindowRateLimiter(MemoryStorage())
        self._away_until = 0.0

    def count(self, address: str) -> dict[str, str] | None:
        """Counts a wrong key; None if there may be more, else the headers that say when."""
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
    """Whose address it is: of IPv6, the whole network that one client has."""
    try:
        found = ip_address(address)
    except ValueError:
        return "nowhere"  # a Unix socket
    if not isinstance(found, IPv6Address):
        return str(found)
    return str(found.ipv4_mapped or ip_network((found, NETWORK), strict=False))
