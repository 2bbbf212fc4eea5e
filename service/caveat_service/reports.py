"""Renders a report in the format that a client accepts."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from flask import Response

from caveat_service.contract import accepted, unchanging
from caveat_spec.formats import FORMATS
from caveat_spec.openapi import REPORT_TYPES
from caveat_spec.report import Report

RENDER: dict[str, Callable[[Report], str]] = {
    form.media_type: import_module(f"caveat_reports.{form.name}").render
    for form in FORMATS
    if form.media_type is not None and form.name != "json"
}
PAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'"
"""Content security policy of a report's page, which loads nothing."""


def as_page(stored: bytes) -> Response:
    """The report as a page, for the console."""
    page = RENDER["text/html"](Report.model_validate_json(stored))
    return Response(page, headers={"Content-Security-Policy": PAGE_POLICY})


def shown(stored: bytes, digest: str) -> Response:
    """The stored bytes as JSON, or the report rendered as `Accept` requests."""
    media_type = accepted("A report", REPORT_TYPES)
    body = stored if media_type not in RENDER else RENDER[media_type](Report.model_validate_json(stored)).encode()
    response = Response(
        body, content_type=media_type if media_type.endswith("json") else f"{media_type}; charset=utf-8"
    )
    response.headers["Content-Security-Policy"] = PAGE_POLICY
    response.headers["Vary"] = "Accept"
    return unchanging(response, f"{digest.partition(':')[2]}-{media_type.replace('/', '-')}")
