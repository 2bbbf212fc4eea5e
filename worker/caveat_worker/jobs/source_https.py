"""Opens a source at an `https://` URL that an operator allowed, without reaching addresses that are not allowed.

Each redirect is checked like the first URL: against the allow-list, and by the addresses of its host. Credentials are
in the operator's netrc file, by host; they go to that host only, and only with TLS.
"""

from __future__ import annotations

import base64
import netrc
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import httpcore2

from caveat_storage import source_allow_list
from caveat_storage.ssrf import Network
from caveat_worker.jobs.pinned_connections import FAULTS, NotAllowedError, PinnedBackend, trust, why

MOST_REDIRECTS = 5
SILENCE_SECONDS = 10.0
"""Seconds after which a silent server is given up."""
REDIRECTS = frozenset({301, 302, 303, 307, 308})
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses that a later attempt may not get."""


class UnfetchedError(Exception):
    """The bytes were not fetched; the message says why in a few words."""

    def __init__(self, why: str, *, again: bool) -> None:
        """Takes the reason, and whether a later attempt could succeed."""
        super().__init__(why)
        self.again = again


@dataclass(frozen=True)
class Access:
    """From where, and how, sources may be fetched."""

    allowed: list[str]
    """Prefixes of URLs."""
    networks: list[Network]
    """Networks that may be reached although they are not public."""
    netrc: Path | None = None


@dataclass(frozen=True)
class Opened:
    """A source that is being read."""

    size: int | None
    """Number of bytes that the server announced."""
    chunks: Iterator[bytes]

    def read(self, size: int, /) -> bytes:
        """Returns the next `size` bytes or a few more; fewer only at the end."""
        came = bytearray()
        while len(came) < size and (chunk := next(filter(None, self.chunks), b"")):
            came += chunk
        return bytes(came)


@contextmanager
def opened(url: str, access: Access, deadline: float) -> Iterator[Opened]:
    """Opens a URL; `deadline` is in seconds of `time.monotonic()`.

    Raises:
        UnfetchedError: it is not allowed, or its server did not send it; reading raises it too.
    """
    for _ in range(MOST_REDIRECTS + 1):
        with ExitStack() as open_connections:
            with _in_words():
                answer = open_connections.enter_context(_answered(url, access, deadline))
            if answer.status not in REDIRECTS:
                _require_success(answer.status)
                yield Opened(_length(answer), _chunks(answer))
                return
            url = _next(url, answer, access.allowed)
    raise UnfetchedError(f"its server redirects more than {MOST_REDIRECTS} times", again=False)


def _chunks(answer: httpcore2.Response) -> Iterator[bytes]:
    chunks = iter(answer.iter_stream())
    while True:
        with _in_words():
            chunk = next(chunks, None)
        if chunk is None:
            return
        yield chunk


@contextmanager
def _in_words() -> Iterator[None]:
    """Turns faults of a connection into sentences; faults of whoever reads from it are not its own."""
    try:
        yield
    except NotAllowedError as fault:
        raise UnfetchedError(str(fault), again=False) from fault
    except httpcore2.TimeoutException as fault:
        raise UnfetchedError("its server was silent, or too slow", again=True) from fault
    except FAULTS as fault:
        raise UnfetchedError(why(fault), again=True) from fault


@contextmanager
def _answered(url: str, access: Access, deadline: float) -> Iterator[httpcore2.Response]:
    encrypted = url.startswith("https:")
    pinned = PinnedBackend(access.networks, "CAVEAT_SOURCE_NETWORKS", encrypted=encrypted, deadline=deadline)
    headers = {"User-Agent": f"caveat/{version('caveat')}", "Accept-Encoding": "identity"}
    if encrypted and access.netrc is not None:
        headers |= _credentials(access.netrc, urlsplit(url).hostname or "")
    left = min(SILENCE_SECONDS, max(deadline - time.monotonic(), 0.001))
    timeout = dict.fromkeys(("connect", "read", "write", "pool"), left)
    with (
        httpcore2.ConnectionPool(ssl_context=trust(), network_backend=pinned) as pool,
        pool.stream("GET", url, headers=list(headers.items()), extensions={"timeout": timeout}) as answer,
    ):
        yield answer


def _credentials(file: Path, host: str) -> dict[str, str]:
    """The credentials of exactly this host; the entry `default` of a netrc file is for nobody."""
    try:
        entry = netrc.netrc(str(file)).hosts.get(host)
    except (OSError, netrc.NetrcParseError) as fault:
        raise UnfetchedError("the service cannot read its credentials (CAVEAT_SOURCE_NETRC)", again=True) from fault
    if entry is None:
        return {}
    login, _, password = entry
    return {"Authorization": f"Basic {base64.b64encode(f'{login}:{password}'.encode()).decode()}"}


def _require_success(status: int) -> None:
    if status != 200:
        raise UnfetchedError(f"its server answers {status}", again=status in PASSING)


def _next(url: str, answer: httpcore2.Response, allowed: list[str]) -> str:
    """Where a redirect leads, if that is allowed."""
    place = next((value for name, value in answer.headers if name.lower() == b"location"), b"")
    try:
        there = urljoin(url, place.decode("latin-1")).partition("#")[0]
        host, scheme = urlsplit(there).hostname, urlsplit(there).scheme
    except ValueError as fault:
        raise UnfetchedError("its server redirects to what is not a URL", again=False) from fault
    wrong = source_allow_list.fault(there, allowed, redirected=True)
    if wrong is None and scheme not in ("https", "http"):  # a library would use its own credentials
        wrong = f"a redirect may not lead to {scheme}://"
    if wrong is not None:
        raise UnfetchedError(f"its server redirects to {host or 'another place'}: {wrong}", again=False)
    return there


def _length(answer: httpcore2.Response) -> int | None:
    found = next((value for name, value in answer.headers if name.lower() == b"content-length"), b"")
    return int(found) if found.isdigit() else None
