"""Sources that are URLs: `https://host/model.onnx#sha256=…`, where the end is the digest that the bytes must have."""

from __future__ import annotations

import re
from typing import NamedTuple

_URL = re.compile(r"(?P<url>(?P<scheme>[a-z][a-z0-9-]+):/[^#]+)(?:#sha256=(?P<digest>[0-9a-f]{64}))?")


class SourceURL(NamedTuple):
    """A source that is a URL, in its parts."""

    url: str
    """Without the digest."""
    scheme: str
    digest: str | None
    """`sha256:` and 64 digits; None where the URL names none."""


def is_url(source: str) -> bool:
    """Whether a source is a URL, and neither a path nor a digest."""
    return _URL.match(source) is not None


def parsed(source: str) -> SourceURL | None:
    """The parts of a source that is a URL; None where it is none, or where its end is no digest."""
    match = _URL.fullmatch(source)
    if match is None:
        return None
    digest = match["digest"]
    return SourceURL(match["url"], match["scheme"], None if digest is None else f"sha256:{digest}")


def addressed_digest(source: str) -> str:
    """The digest that a source names: the end of a URL, or the source itself."""
    found = parsed(source)
    return source if found is None or found.digest is None else found.digest
