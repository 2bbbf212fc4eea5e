"""Idempotency keys: requests that may be sent again, and have their effect once (IETF draft)."""

from __future__ import annotations

import hashlib

from flask import request

from caveat_service.errors import HTTPProblem, refuse
from caveat_spec.base import Document
from caveat_spec.openapi import KeyHeaders
from caveat_storage.job_records import Key


def key_of(headers: KeyHeaders, body: Document) -> Key | None:
    """The key of a request with a fingerprint of what it asks; None if it has none."""
    if headers.idempotency_key is None:
        return None
    asked = f"{request.path}\n{body.model_dump_json()}"
    return Key(headers.idempotency_key, hashlib.sha256(asked.encode()).hexdigest())


def reused() -> HTTPProblem:
    """A key came with another request than before."""
    return refuse(
        "idempotency-key-reused", 422, "This Idempotency-Key was used before with another request.",
        "Use a new key for a new request, and repeat a request with the same key.",
    )  # fmt: skip
