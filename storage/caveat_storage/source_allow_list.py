"""Which URLs the service may fetch sources from: those that begin with one of the prefixes that an operator chose.

A prefix ends where a part of the path ends: `https://host/models` allows `https://host/models/a.onnx`, and not
`https://host/models-of-others/a.onnx`. What could mean another path to the server than to this comparison is refused.
"""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator

SCHEMES = ("https", "http", "s3", "gs", "hf")
_PORTS = {"https": 443, "http": 80}
_UNPRINTABLE = re.compile(r"[^\x21-\x7e]|\\")
_AMBIGUOUS = re.compile(r"%(2e|2f|3b|5c|25)|::|/\.{1,2}(/|;|$)", re.IGNORECASE)
"""Some servers, Tomcat for one, drop what follows a semicolon in a part of a path, and take `..;` for `..`."""


def prefixes(text: str) -> list[str]:
    """Parses a list of prefixes such as `https://models.example/, s3://bucket/onnx/`.

    Raises:
        ValueError: an entry is no prefix of a URL.
    """
    entries = [part.strip() for part in text.split(",") if part.strip()]
    for entry in entries:
        if wrong := _unfit(entry):
            raise ValueError(f"'{entry}': {wrong}")
    return entries


def _checked(text: str) -> str:
    prefixes(text)
    return text


AllowList = Annotated[str, AfterValidator(_checked)]
"""A setting with a list of prefixes."""


def fault(url: str, allowed: list[str], *, redirected: bool = False) -> str | None:
    """What is wrong with a URL that is to be fetched; None if nothing is. Only a redirect may lead to a query."""
    if not allowed:
        return "this service fetches no URLs (CAVEAT_SOURCE_ALLOW is empty)"
    if wrong := _unfit(url, query=redirected):
        return wrong
    if not any(_covers(urlsplit(prefix), urlsplit(url)) for prefix in allowed):
        return "this service does not fetch from there (CAVEAT_SOURCE_ALLOW lists from where)"
    return None


def _unfit(url: str, *, query: bool = False) -> str | None:
    """Why a URL, or a prefix of one, is none that can be compared; None if it can."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - raises for a port that is none
    except ValueError as wrong:
        return f"this is not a URL: {wrong}"
    if parts.scheme not in SCHEMES or not parts.hostname:
        return f"a source that the service fetches begins with {', '.join(f'{one}://' for one in SCHEMES)} and a host"
    if _UNPRINTABLE.search(url):
        return "a URL must hold no blanks, no backslashes and only letters of ASCII; others are written as %20 is"
    if "@" in parts.netloc:
        return "a URL must not hold credentials, which an operator configures (CAVEAT_SOURCE_NETRC)"
    if (parts.query and not query) or parts.fragment:
        return "a URL must not hold a query, which could be a credential"
    if _AMBIGUOUS.search(parts.netloc + parts.path):
        return "the path must not hold '.', '..' or '::', nor escapes of dots, slashes, semicolons or the percent sign"
    return None


def _covers(prefix: SplitResult, url: SplitResult) -> bool:
    place = prefix.path.rstrip("/")
    return _origin(prefix) == _origin(url) and (url.path == place or url.path.startswith(f"{place}/"))


def _origin(parts: SplitResult) -> tuple[str, str | None, int | None]:
    """Scheme, host and port; the hosts of buckets and repositories are names, whose letters' case matters."""
    if parts.scheme in _PORTS:
        return parts.scheme, parts.hostname, parts.port or _PORTS[parts.scheme]
    return parts.scheme, parts.netloc, None
