"""A report's canonical bytes (RFC 8785) and their digest: what is signed, and what the page offers for download."""

from __future__ import annotations

from hashlib import sha256

import rfc8785

from caveat_spec.report import Report


def canonical(report: Report) -> bytes:
    """The report as canonical JSON."""
    return rfc8785.dumps(report.model_dump(mode="json"))


def digest(report: Report) -> str:
    """`sha256:` and the digest of the canonical bytes."""
    return f"sha256:{sha256(canonical(report)).hexdigest()}"
