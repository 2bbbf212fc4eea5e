"""What the synchronous and the asynchronous client share: requests, retries, uploads and the states of jobs."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import timedelta
from time import monotonic
from typing import Any, TypeVar

import httpx2

from caveat import endpoints
from caveat.endpoints import Call
from caveat.pack import Content, chunks, size_of
from caveat.problems import ProblemError, problem
from caveat.progress import ProgressCallback
from caveat_spec.artifacts import AuditRecord, Job
from caveat_spec.problem import ProblemDetails

logging.getLogger("stamina").addHandler(logging.NullHandler())  # a program that configures logging sees the retries

T = TypeVar("T")
Record = TypeVar("Record", bound=Job)
Action = Callable[[], T]
AsyncAction = Callable[[], Awaitable[T]]

RETRY_SECONDS = 45.0
"""How long a request is retried while the server cannot be reached."""
UPLOAD_ATTEMPTS = 10
"""How often an upload is resumed at the same byte."""


class RetryPolicy:
    """Decides whether a failed request is sent again: as long as the server was reachable `seconds` ago or later."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds = RETRY_SECONDS if seconds is None else seconds
        self.note_contact()

    def note_contact(self) -> None:
        """Starts the time limit again, because the server has answered or accepted bytes."""
        self._last_contact = monotonic()

    def __call__(self, error: Exception) -> bool | timedelta:
        """Whether stamina should retry after `error`, or the pause that the server asked for."""
        return monotonic() - self._last_contact < self._seconds and endpoints.should_retry(error)

    def options(self) -> dict[str, Any]:
        """Keyword arguments for `stamina.retry_context`."""
        return {"on": self, "attempts": None, "timeout": None, "wait_max": 5.0, "wait_jitter": 0.2}


class UploadPolicy(RetryPolicy):
    """Retries an upload: every byte sent counts as contact, but only bytes that the server has kept as progress."""

    def __init__(self, file: Content, seconds: float | None, on_progress: ProgressCallback | None) -> None:
        super().__init__(seconds)
        self._file, self._on_progress = file, on_progress
        self._furthest, self._attempts = 0, 0

    def resume_at(self, offset: int) -> None:
        """Counts an attempt that starts at `offset`; raises a `ProblemError` after too many at the same byte."""
        if offset > self._furthest:
            self._furthest, self._attempts = offset, 0
        self._attempts += 1
        if self._attempts > UPLOAD_ATTEMPTS:
            raise problem(
                "upload-breaks-off",
                503,
                f"The upload of {self._file.name} repeatedly breaks off at byte {offset:,}.",
                "Check for a proxy between here and the service that limits the size of a request.",
            )

    def chunks(self, offset: int) -> Iterator[bytes]:
        """The bytes from `offset` on."""
        size, sent = size_of(self._file), offset
        for chunk in chunks(self._file, offset):
            yield chunk
            self.note_contact()
            sent += len(chunk)
            if self._on_progress is not None:
                self._on_progress(f"uploading {self._file.name}", sent / size)

    async def async_chunks(self, offset: int) -> AsyncIterator[bytes]:
        """The same for the asynchronous client."""
        for chunk in self.chunks(offset):
            yield chunk


def base_url(url: str | None) -> str:
    """The service's URL, from the argument or `$CAVEAT_URL`; raises a `ProblemError` where neither is an HTTP URL."""
    url = url or os.environ.get("CAVEAT_URL", "")
    if not url.startswith(("http://", "https://")):
        raise problem(
            "no-server",
            422,
            f"'{url}' is not the URL of a Caveat service." if url else "No Caveat service is named.",
            "Set $CAVEAT_URL to one, such as http://127.0.0.1:8000; `caveat up` starts one and prints its URL.",
        )
    return url.rstrip("/")


def default_headers(key: str | None) -> dict[str, str]:
    """The headers of every request; the bearer key comes from the argument or `$CAVEAT_KEY`."""
    key = key or os.environ.get("CAVEAT_KEY")
    return {"Accept": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}


def request_options(
    call: Call[T], content: Iterator[bytes] | AsyncIterator[bytes] | None, timeout: httpx2.Timeout
) -> dict[str, Any]:
    """Keyword arguments for `httpx2.Client.request`; a call that takes longer extends the read timeout."""
    read = call.read_timeout or timeout.read
    return {
        "method": call.method,
        "url": call.path,
        "headers": call.headers,
        "params": call.params,
        "content": content or call.body,
        "timeout": httpx2.Timeout(connect=timeout.connect, read=read, write=timeout.write, pool=timeout.pool),
    }


def report_progress(on_progress: ProgressCallback | None, record: Job) -> None:
    """Calls `on_progress`, if there is one, with the state of a job."""
    if on_progress is not None:
        on_progress(_stage(record), record.progress)


def succeeded(record: Record, on_progress: ProgressCallback | None) -> Record:
    """The record of a job that has ended; raises its `ProblemError` where it did not succeed."""
    if record.state == "succeeded":
        report_progress(on_progress, record)
        return record
    raise ProblemError(
        record.problem
        or ProblemDetails.of(
            "cancelled",
            503,
            f"{record.id} was {record.state} before it finished.",
            "Somebody cancelled it, or the service was stopped; run it again.",
        )
    )


def _stage(record: Job) -> str:
    """The state of a job in a few words."""
    if isinstance(record, AuditRecord) and record.stage == "collecting" and record.shards:
        return f"collecting, {record.shards.done} of {record.shards.of} shards"
    if isinstance(record, AuditRecord) and record.stage == "queued" and record.queue != "default":
        return f"queued for {record.queue}"
    return record.stage
