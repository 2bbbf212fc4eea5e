"""Traces and logs each request: its operation, status, duration and job, but none of its contents."""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack
from typing import Any

from flask import Flask, Response, g, request
from gunicorn.config import Config
from gunicorn.glogging import Logger
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode

from caveat_service.settings import Settings
from caveat_spec.jobs import JobKind
from caveat_spec.openapi import BY_NAME
from caveat_telemetry import logs, traces

log = logging.getLogger(__name__)


class GunicornLogger(Logger):
    """Routes gunicorn's messages to the structured log; the application logs the requests."""

    def setup(self, cfg: Config) -> None:
        """Passes gunicorn's messages to the root logger."""
        logs.begin("api", Settings().log_level)
        self.error_log.propagate = True
        self.error_log.setLevel(logging.INFO)


def register(app: Flask) -> None:
    """Instruments every request except probes and the documentation."""
    app.before_request(_begin)
    app.after_request(_answered)
    app.teardown_request(_end)


def concerns(kind: JobKind, job_id: str) -> None:
    """Adds the job that this request is about to its log lines and its span."""
    logs.note(**{kind: job_id})
    trace.get_current_span().set_attribute(f"caveat.{kind}.id", job_id)


def _begin() -> None:
    logs.forget()
    g.began, g.watched = time.monotonic(), ExitStack()
    operation = BY_NAME.get((request.endpoint or "").rpartition(".")[2])
    if operation is None or operation.scope is None:
        return
    attributes = {"http.request.method": operation.method, "http.route": operation.path}
    name = f"{operation.method} {operation.path}"
    after = request.headers.get("traceparent")
    g.span = g.watched.enter_context(traces.span(name, attributes, after=after, kind=SpanKind.SERVER))


def _answered(response: Response) -> Response:
    span = g.get("span")
    if span is not None:
        span.set_attribute("http.response.status_code", response.status_code)
        if response.status_code >= 500:
            span.set_status(StatusCode.ERROR)
        fields: dict[str, Any] = {"status": response.status_code, "seconds": round(time.monotonic() - g.began, 3)}
        operation = (request.endpoint or "").rpartition(".")[2]
        log.info("%s %s", request.method, operation, extra=fields | {"tenant": g.get("tenant", "default")})
    return response


def _end(_: BaseException | None) -> None:
    if "watched" in g:
        g.watched.close()
