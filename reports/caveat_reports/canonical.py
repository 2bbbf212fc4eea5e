"""Canonical bytes (RFC 8785) of a report and other documents: what is signed, and what the page offers for download."""

from __future__ import annotations

import rfc8785

from caveat_spec.base import Document, digest_of_bytes
from caveat_spec.report import Report


def canonical(document: Document) -> bytes:
    """A document as canonical JSON."""
    return rfc8785.dumps(document.model_dump(mode="json"))


def digest(report: Report) -> str:
    """`sha256:` and the digest of the canonical bytes."""
    return digest_of_bytes(canonical(report))
