"""Limits of tenants: stored bytes, queued jobs, and request rates. By default tenants have no limits.

Requests are counted at the broker, for all processes of the API; while it is unavailable, each counts for itself.
"""

from __future__ import annotations

import time

from flask import Flask, Response, g, request
from flask_limiter import Limiter
from flask_limiter.errors import RateLimitExceeded

from caveat_service.errors import HTTPProblem, refuse
from caveat_service.settings import Settings
from caveat_service.state import app_context, tenant
from caveat_spec.openapi import BY_NAME, RATERS
from caveat_storage import job_records
from caveat_storage.job_records import NoRoomError
from caveat_storage.uploads import Uploads

PREFIX = "caveat"
SECONDS = 1
"""Timeout for counting a request."""


def register(app: Flask, settings: Settings) -> None:
    """Counts the requests of admitted clients; probes and the documentation are free."""
    if not settings.rate_limit:
        return
    limiter = Limiter(
        _counted,
        app=app,
        application_limits=[settings.rate_limit],
        strategy="sliding-window-counter",
        storage_uri=settings.counted_at,
        storage_options={"socket_timeout": SECONDS, "socket_connect_timeout": SECONDS},
        key_prefix=PREFIX,
        in_memory_fallback_enabled=True,
        swallow_errors=True,
        headers_enabled=False,  # they would overwrite every other `Retry-After`
    )

    @limiter.request_filter
    def is_free() -> bool:
        operation = BY_NAME.get((request.endpoint or "").rpartition(".")[2])
        if operation is None:
            return request.path.startswith(("/docs", "/problems/"))
        return operation.scope is None and operation.tag != RATERS

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


def _counted() -> str:
    """Whose limit a request counts against: a rater's own, so that no link uses up its tenant's, or the tenant's."""
    if "rater" in g:
        return f"rater {g.rater.study.id} {g.rater.rater}"
    return str(g.get("tenant", request.remote_addr))


def require_room(size: int, digest: str) -> None:
    """Rejects an upload early if it exceeds the tenant's quota; bytes that the tenant owns already are free."""
    most = app_context().settings.tenant_bytes
    if not most or job_records.owned(app_context().database, tenant(), [digest]):
        return
    used = job_records.kept(app_context().database, tenant()) + Uploads(app_context().blobs).held(tenant(), but=digest)
    if used + size > most:
        raise NoRoomError(used, most)
    request.max_content_length = min(request.max_content_length or most, most - used)


def require_parts_fit(digest: str) -> None:
    """Deletes the parts of an upload and rejects it, if parts that arrived at the same time exceed the quota."""
    most = app_context().settings.tenant_bytes
    if not most:
        return
    parts = Uploads(app_context().blobs)
    used = job_records.kept(app_context().database, tenant()) + parts.held(tenant())
    if used > most:
        parts.drop(tenant(), digest)
        raise NoRoomError(used, most)


def too_many_wait() -> HTTPProblem:
    """The problem for a job that exceeds the limit of queued jobs."""
    refused = refuse(
        "quota-waiting",
        429,
        f"{app_context().settings.tenant_waiting} of your jobs wait for a worker, which is your limit.",
        "Try again once one of them has started.",
    )
    refused.headers["Retry-After"] = "5"
    return refused


def _too_fast(fault: RateLimitExceeded) -> Response:
    return refuse(
        "too-many-requests",
        429,
        f"You sent more requests than your limit of {fault.limit.limit}.",
        "Wait as long as Retry-After says; Prefer: wait and If-None-Match reduce the number of requests.",
    ).response()
