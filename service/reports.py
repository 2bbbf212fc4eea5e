"""A report in the form that a client accepts."""

from __future__ import annotations

from collections.abc import Callable

from flask import Response, request

from api_spec.openapi import REPORT_TYPES
from api_spec.report import Report
from reports import html, junit, markdown, sarif
from service.errors import refuse

RENDER: dict[str, Callable[[Report], str]] = {
    "text/html": html.render,
    "text/markdown": markdown.render,
    "application/xml": junit.render,
    "application/sarif+json": sarif.render,
}
PAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'"
"""What a report's page may load: nothing that is not in it."""


def shown(stored: bytes, digest: str) -> Response:
    """The stored bytes themselves as JSON, or rendered as `Accept` asks."""
    media_type = request.accept_mimetypes.best_match(REPORT_TYPES) if "Accept" in request.headers else REPORT_TYPES[0]
    if media_type is None:
        raise refuse(
            "not-acceptable", 406, f"A report has no form that is '{request.headers['Accept'][:80]}'.",
            f"Accept one of {', '.join(REPORT_TYPES)}.",
        )  # fmt: skip
    body = stored if media_type not in RENDER else RENDER[media_type](Report.model_validate_json(stored)).encode()
    response = Response(
        body, content_type=media_type if media_type.endswith("json") else f"{media_type}; charset=utf-8"
    )
    response.set_etag(f"{digest.partition(':')[2]}-{media_type.replace('/', '-')}")
    response.headers["Cache-Control"] = "private, max-age=31536000, immutable"
    response.headers["Content-Security-Policy"] = PAGE_POLICY
    response.headers["Vary"] = "Accept"
    return response
