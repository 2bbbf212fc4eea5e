"""How much a tenant may: bytes that are kept, jobs that wait, requests in a while. As they are set, there is no limit.

Requests are counted at the broker, which all processes of the API share; while it is away, each counts by itself.
"""

from __future__ import annotations

import time

from flask import Flask, Response, g, request
from flask_limiter import Limiter
from flask_limiter.errors import RateLimitExceeded

from api_spec.openapi import BY_NAME
from service.errors import RefusedError, refuse
from service.settings import Settings
from service.state import behind, tenant
from vault import records
from vault.uploads import Uploads

PREFIX = "caveat"
SECONDS = 1
"""How long counting a request may take."""


def register(app: Flask, settings: Settings) -> None:
    """Counts requests of whoever was admitted; probes and the description are free."""
    if not settings.rate_limit:
        return
    limiter = Limiter(
        lambda: str(g.get("tenant", request.remote_addr)),
        app=app,
        application_limits=[settings.rate_limit],
        strategy="sliding-window-counter",
        storage_uri=settings.counted_at,
        storage_options={"socket_timeout": SECONDS, "socket_connect_timeout": SECONDS},
        key_prefix=PREFIX,
        in_memory_fallback_enabled=True,
        swallow_errors=True,
        headers_enabled=False,  # they would overwrite every `Retry-After` that means something else
    )

    @limiter.request_filter
    def is_free() -> bool:
        operation = BY_NAME.get((request.endpoint or "").rpartition(".")[2])
        return request.path.startswith("/docs") if operation is None else operation.scope is None

    @app.after_request
    def tell(response: Response) -> Response:
        if (limit := limiter.current_limit) is not None:
            wait = str(max(1, limit.reset_at - int(time.time())))
            response.headers["RateLimit-Limit"] = str(limit.limit.amount)
            response.headers["RateLimit-Remaining"] = str(0 if limit.breached else limit.remaining)
            response.headers["RateLimit-Reset"] = wait
            if limit.breached:
                response.headers["Retry-After"] = wait
        return response

    app.register_error_handler(RateLimitExceeded, _too_fast)


def require_room(size: int, digest: str) -> None:
    """Refuses bytes for which the tenant has no room, before they come; those that it has already need none."""
    most = behind().settings.tenant_bytes
    if not most or records.owned(behind().database, tenant(), [digest]):
        return
    used = records.kept(behind().database, tenant()) + Uploads(behind().blobs).held(tenant(), but=digest)
    if used + size > most:
        raise no_room(used)
    request.max_content_length = min(request.max_content_length or most, most - used)


def no_room(used: int) -> RefusedError:
    """There is no room for these bytes."""
    return refuse(
        "quota-bytes",
        413,
        f"You keep {used:,} bytes, and {behind().settings.tenant_bytes:,} are the most that you may (`tenant_bytes`).",
        "Ask an operator for more room, or to erase what is old (`caveat erase`).",
    )


def too_many_wait() -> RefusedError:
    """As many jobs wait as may."""
    refused = refuse(
        "quota-waiting",
        429,
        f"{behind().settings.tenant_waiting} of your jobs wait for a worker, which is the most that may.",
        "Try again when one of them has begun.",
    )
    refused.headers["Retry-After"] = "5"
    return refused


def _too_fast(fault: RateLimitExceeded) -> Response:
    return refuse(
        "too-many-requests",
        429,
        f"More requests came than the {fault.limit.limit} that you may send.",
        "Wait for as long as Retry-After says; Prefer: wait and If-None-Match make fewer requests do.",
    ).response()
