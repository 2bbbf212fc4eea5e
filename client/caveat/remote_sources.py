"""Fetches the sources of an audit that are URLs.

Each kind is one row: the package that reads it and the extra that installs that. A URL may end in `#sha256=…`, the
digest that its bytes must have; one of `https://` has to, as nothing else says what it stands for.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from caveat.pack import digest

_URL = re.compile(r"(?P<url>(?P<scheme>[a-z][a-z0-9]+)://[^#]+)(?:#sha256=(?P<digest>[0-9a-f]{64}))?")


@dataclass(frozen=True)
class Scheme:
    """One kind of URL."""

    module: str
    """The package that has to be there, beside fsspec."""
    extra: str
    """The extra of this distribution that installs both."""
    needs_digest: bool = False
    """Whether a URL has to give the digest of its bytes."""


SCHEMES = {
    "https": Scheme("aiohttp", "https", needs_digest=True),
    "http": Scheme("aiohttp", "https", needs_digest=True),
    "s3": Scheme("s3fs", "s3"),
    "gs": Scheme("gcsfs", "gs"),
}


class SourceFault(Exception):  # noqa: N818
    """A URL that cannot be used; its text is a sentence for the author of the audit file."""


def is_url(source: str) -> bool:
    """Whether a source is a URL, and neither a path nor a digest."""
    return "://" in source


def fetch(source: str, folder: Path) -> Path:
    """Fetches a URL into a folder and compares it with its digest; raises `SourceFault`."""
    match = _URL.fullmatch(source)
    if match is None or match["scheme"] not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise SourceFault(
            f"'{source}' is no URL that can be fetched: {known}, with '#sha256=' and 64 digits at its end"
        )
    scheme, url, wanted = SCHEMES[match["scheme"]], match["url"], match["digest"]
    if scheme.needs_digest and wanted is None:
        raise SourceFault(f"'{url}' needs the digest of its bytes: add '#sha256=' and 64 hexadecimal digits")
    missing = [module for module in ("fsspec", scheme.module) if find_spec(module) is None]
    if missing:
        raise SourceFault(f"'{url}' needs the package {missing[0]}: run `pip install 'caveat[{scheme.extra}]'`")
    folder.mkdir()
    path = folder / PurePosixPath(url).name
    try:
        _copy(url, path)
    except Exception as error:  # each file system has its own
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise SourceFault(f"'{url}' cannot be fetched ({reason})") from error
    if wanted is not None and digest(path) != f"sha256:{wanted}":
        raise SourceFault(f"'{url}' has other bytes now: they are {digest(path)}")
    return path


def _copy(url: str, path: Path) -> None:
    """Copies the file at a URL in chunks of one megabyte."""
    import fsspec  # only sources that are URLs need it

    with fsspec.open(url, "rb") as there, path.open("wb") as here:
        shutil.copyfileobj(there, here, 1 << 20)
