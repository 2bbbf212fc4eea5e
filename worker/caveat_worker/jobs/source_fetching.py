"""Fetches the sources of a job that are URLs into the blob store, as its tenant's, before its process begins.

A URL names the digest of its bytes, so it only says where they can be had: bytes that the tenant stores already are not
fetched again, others are refused, and the job itself, its report and its cache know digests only.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import ExitStack, contextmanager
from contextvars import copy_context
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from typing import TypeVar

import fsspec

from caveat_spec.jobs import REQUESTS, sources, with_sources
from caveat_spec.problem import Fault, ProblemDetails
from caveat_spec.source_urls import SourceURL, addressed_digest, is_url, parsed
from caveat_storage import blob_registry, job_records, job_state, source_allow_list, ssrf
from caveat_storage.blobs import CHUNK, Blobs, Readable, WrongDigestError
from caveat_storage.job_records import Database, NoRoomError
from caveat_storage.job_state import Lease
from caveat_telemetry import traces
from caveat_worker.jobs.settings import Settings
from caveat_worker.jobs.source_https import Access, Opened, UnfetchedError, opened

T = TypeVar("T")
log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
"""Seconds between looks whether the job has to stop."""
DRIVERS = {"s3": "s3fs", "gs": "gcsfs", "hf": "huggingface_hub"}
"""The kinds of URLs that a library reads, with its own configuration and credentials, and that library."""
BLOCK = 4 << 20
"""Bytes that such a library fetches at a time."""


class StoppedError(Exception):
    """The job has to stop."""


class FailedError(Exception):
    """A source cannot be fetched."""

    def __init__(self, problem: ProblemDetails, *, again: bool) -> None:
        """Takes what the client is told, and whether a later attempt could succeed."""
        super().__init__(problem.detail)
        self.problem, self.again = problem, again


def with_fetched_sources(
    lease: Lease, database: Database, blobs: Blobs, settings: Settings, should_stop: Callable[[], bool]
) -> Lease:
    """The lease with digests in place of URLs, whose bytes are then in the store and the tenant's.

    Raises:
        StoppedError: `should_stop` returned true, which is asked twice a second, whatever a server or library does.
        FailedError: a source is not allowed, cannot be fetched, has other bytes, or exceeds a limit.
    """
    request = REQUESTS[lease.kind].model_validate(lease.payload)
    named = sources(request)
    if not any(map(is_url, named.values())):
        return lease
    show = partial(job_state.show, lease=lease)
    mine = blob_registry.for_tenant(blobs, database, lease.tenant, settings.tenant_bytes, show)
    for pointer, source in named.items():
        if is_url(source):
            with traces.span("fetch_source", {}):
                _fetch(lease, pointer, source, database, mine, settings, should_stop)
    digests = {pointer: addressed_digest(source) for pointer, source in named.items()}
    return replace(lease, payload=with_sources(request, digests).model_dump(mode="json"))


def _fetch(
    lease: Lease,
    pointer: str,
    source: str,
    database: Database,
    blobs: Blobs,
    settings: Settings,
    should_stop: Callable[[], bool],
) -> None:
    found = parsed(source)
    if found is None or found.digest is None:  # the API accepts none
        raise _unfetched(pointer, source, "it does not end in '#sha256=' and a digest", again=False)
    known = job_records.owned(database, lease.tenant, [found.digest])
    if not known or blob_registry.is_damaged(database, found.digest):
        try:
            with ExitStack() as open_sources:
                opening = _opened(found, settings)
                there = _awaited(lambda: open_sources.enter_context(opening), should_stop)
                _require_room(there.size, lease.tenant, database, settings)
                blobs.put(_Watched(there, settings.largest_blob, should_stop), found.digest)
        except UnfetchedError as fault:
            raise _unfetched(pointer, found.url, str(fault), again=fault.again) from fault
        except WrongDigestError as fault:
            log.info("%s has other bytes: %s", found.url, fault.came)  # for an operator: who knows it could fetch them
            raise _unfetched(pointer, found.url, "its bytes have another digest", again=False) from fault
        except NoRoomError as fault:
            raise FailedError(fault.problem, again=False) from fault


@contextmanager
def _opened(source: SourceURL, settings: Settings) -> Iterator[Opened]:
    allowed = source_allow_list.prefixes(settings.source_allow)
    if wrong := source_allow_list.fault(source.url, allowed):
        raise UnfetchedError(wrong, again=False)
    deadline = time.monotonic() + settings.source_seconds
    if source.scheme in DRIVERS:
        with _by_library(source, deadline) as there:
            yield there
        return
    access = Access(allowed, ssrf.networks(settings.source_networks), settings.source_netrc)
    with opened(source.url, access, deadline) as there:
        yield there


@contextmanager
def _by_library(source: SourceURL, deadline: float) -> Iterator[Opened]:
    """Opens an object of a bucket or a file of a repository.

    The filesystem is named by the URL's kind, since fsspec would take a URL for a chain of several.
    """
    driver = DRIVERS[source.scheme]
    if find_spec(driver) is None:
        raise UnfetchedError(f"the service lacks the package {driver}", again=False)
    with ExitStack() as open_files:
        with _in_words(source.url):
            filesystem = fsspec.filesystem(source.scheme)
            path = filesystem._strip_protocol(source.url)
            file = open_files.enter_context(filesystem.open(path, "rb", block_size=BLOCK))
        yield Opened(file.size, _chunks(file, source.url, deadline))


def _chunks(file: Readable, url: str, deadline: float) -> Iterator[bytes]:
    while time.monotonic() <= deadline:
        with _in_words(url):
            chunk = file.read(CHUNK)
        if not chunk:
            return
        yield chunk
    raise UnfetchedError("its store was too slow", again=True)


@contextmanager
def _in_words(url: str) -> Iterator[None]:
    """Turns a library's faults into sentences; what it says may name hosts, so that is only logged."""
    try:
        yield
    except (FileNotFoundError, IsADirectoryError) as fault:
        raise UnfetchedError("there is no such file", again=False) from fault
    except PermissionError as fault:
        raise UnfetchedError("the service may not read it", again=False) from fault
    except Exception as fault:  # each library has its own
        log.warning("%s cannot be fetched: %s", url, type(fault).__name__, exc_info=fault)
        raise UnfetchedError(f"its store did not send it ({type(fault).__name__})", again=True) from fault


def _awaited(call: Callable[[], T], should_stop: Callable[[], bool]) -> T:
    """What a call returns that may take long, such as a lookup of a name.

    If the job has to stop meanwhile, the call is left to itself; its own deadline ends it.

    Raises:
        StoppedError: `should_stop` returned true.
    """
    outcome, context = Future[T](), copy_context()

    def run() -> None:
        try:
            outcome.set_result(context.run(call))
        except BaseException as fault:
            outcome.set_exception(fault)

    if should_stop():
        raise StoppedError
    threading.Thread(target=run, daemon=True, name="fetch").start()
    while not wait([outcome], LOOK_SECONDS).done:
        if should_stop():
            raise StoppedError
    return outcome.result()


@dataclass
class _Watched:
    """A source that is read until the job has to stop, or until it exceeds the size of a blob."""

    there: Opened
    most: int
    should_stop: Callable[[], bool]
    came: int = 0

    def read(self, size: int, /) -> bytes:
        """Returns the next bytes."""
        chunk = _awaited(lambda: self.there.read(size), self.should_stop)
        self.came += len(chunk)
        if max(self.came, self.there.size or 0) > self.most:
            raise UnfetchedError(f"it has more than {self.most:,} bytes (CAVEAT_LARGEST_BLOB)", again=False)
        return chunk


def _require_room(size: int | None, tenant: str, database: Database, settings: Settings) -> None:
    """Refuses early what would exceed the tenant's quota; what no size was announced for is refused at its end."""
    if settings.tenant_bytes and size is not None:
        used = job_records.kept(database, tenant)
        if used + size > settings.tenant_bytes:
            raise NoRoomError(used, settings.tenant_bytes)


def _unfetched(pointer: str, url: str, why: str, *, again: bool) -> FailedError:
    problem = ProblemDetails.of(
        "source-not-fetched",
        422,
        f"'{url}' cannot be fetched: {why}.",
        "Check the address and the digest, or upload the bytes with PUT /v1/blobs/sha256:... and name the digest.",
        [Fault(pointer=pointer, detail=why)],
    )
    return FailedError(problem, again=again)
