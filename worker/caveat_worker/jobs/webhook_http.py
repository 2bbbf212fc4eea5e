"""Sends a message to an address chosen by a client, without reaching addresses that are not allowed.

Redirects are not followed, only the status of the answer is read, and the whole exchange has a deadline.
"""

from __future__ import annotations

import time

import httpcore2

from caveat_storage.ssrf import Network
from caveat_worker.jobs.pinned_connections import FAULTS, NotAllowedError, PinnedBackend, trust, why

SECONDS = 15.0
"""Seconds for the whole exchange, including name resolution."""


class UnsentError(Exception):
    """There was no answer; the message says why in a few words."""


def post(url: str, body: bytes, headers: dict[str, str], allowed: list[Network]) -> int:
    """Posts `body` and returns the status of the answer.

    Raises:
        UnsentError: there was no answer, or the address is not allowed.
    """
    encrypted, deadline = url.startswith("https:"), time.monotonic() + SECONDS
    pinned = PinnedBackend(allowed, "CAVEAT_WEBHOOK_NETWORKS", encrypted=encrypted, deadline=deadline)
    timeout = {"connect": SECONDS, "read": SECONDS, "write": SECONDS, "pool": SECONDS}
    try:
        with (
            httpcore2.ConnectionPool(ssl_context=trust(), network_backend=pinned) as pool,
            pool.stream(
                "POST", url, headers=list(headers.items()), content=body, extensions={"timeout": timeout}
            ) as answer,
        ):
            return answer.status
    except NotAllowedError as fault:
        raise UnsentError(str(fault)) from fault
    except httpcore2.TimeoutException as fault:
        raise UnsentError(f"no answer within {SECONDS:.0f} seconds") from fault
    except FAULTS as fault:
        raise UnsentError(why(fault)) from fault
