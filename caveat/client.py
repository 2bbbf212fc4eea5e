"""A typed client of the API, in a sync and an async form: retries with backoff, timeouts, streamed uploads."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import timedelta
from pathlib import Path
from time import monotonic, sleep
from types import TracebackType
from typing import Any, Self, TypeVar
from uuid import uuid4

import httpx
import stamina

from api_spec.artifacts import (
    AuditRecord,
    ExamplesRecord,
    Job,
    ModelRecord,
    NewExamples,
    NewModel,
    State,
)
from api_spec.audit import Audit
from api_spec.problem import Problem
from api_spec.report import Report
from caveat import calls
from caveat.calls import ENDED, Call
from caveat.pack import chunks, digest
from caveat.problems import ProblemError, problem

logging.getLogger("stamina").addHandler(logging.NullHandler())  # a program that logs will see the retries

T = TypeVar("T")
Record = TypeVar("Record", bound=Job)
Watch = Callable[[str, float], None]
"""Told of each stage and of the share of the work that is done."""


PATIENCE = 45.0
"""Seconds that a server may stay away before a request is given up."""


UPLOADS = 10
"""How often an upload may break off at the same byte."""


class _Patience:
    """Whether a request that failed is worth sending again: while the server was heard from not too long ago."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.heard()

    def heard(self) -> None:
        """Notes a sign of life."""
        self._since = monotonic()

    def __call__(self, error: Exception) -> bool | timedelta:
        """What stamina asks about each error."""
        return monotonic() - self._since < self._seconds and calls.worth_another_try(error)


class _Delivery(_Patience):
    """A file on its way: each byte that is taken is a sign of life, but only those that are kept are headway."""

    def __init__(self, file: Path, seconds: float, watch: Watch | None) -> None:
        super().__init__(seconds)
        self._file, self._watch = file, watch
        self._furthest, self._attempts = 0, 0

    def goes_on(self, offset: int) -> None:
        """Notes where the upload goes on; raises a problem where it never gets any farther."""
        if offset > self._furthest:
            self._furthest, self._attempts = offset, 0
        self._attempts += 1
        if self._attempts > UPLOADS:
            raise problem(
                "upload-breaks-off",
                503,
                f"The upload of {self._file.name} breaks off again and again, at byte {offset:,}.",
                "Look at what stands between here and the service: a proxy may limit how much a request may bring.",
            )

    def rest(self, offset: int) -> Iterator[bytes]:
        """The file's bytes from `offset` on."""
        size, sent = self._file.stat().st_size, offset
        for chunk in chunks(self._file, offset):
            yield chunk
            self.heard()
            sent += len(chunk)
            if self._watch is not None:
                self._watch(f"uploading {self._file.name}", sent / size)


class Client:
    """A Caveat service, over HTTP; close it, or use it in a `with` statement.

    `url` and `key` come from `$CAVEAT_URL` and `$CAVEAT_KEY` where they are left out; `patience` is how many seconds
    a server may stay away before a request is given up, `PATIENCE` where left out. Every method raises `ProblemError`.
    """

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        timeout: float = 60.0,
        patience: float | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.url = _url(url)
        self._patience = PATIENCE if patience is None else patience
        self._http = httpx.Client(
            base_url=self.url, headers=_headers(key), timeout=timeout, transport=transport, follow_redirects=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def put(self, file: Path, known_as: str | None = None, watch: Watch | None = None) -> str:
        """Hands over a file unless the server has it; returns its digest, which is `known_as` where that is known.

        A connection that breaks is made anew, and the upload goes on where it broke off.
        """
        name = known_as or digest(file)
        delivery = _Delivery(file, self._patience, watch)

        def once() -> None:
            kept = self._send(calls.get_upload(name))
            if not kept.complete:
                delivery.goes_on(kept.offset)
                self._send(calls.finish_upload(name, file, kept.offset), delivery.rest(kept.offset))

        self._insist(once, delivery)
        return name

    def register_model(self, new: NewModel, watch: Watch | None = None) -> ModelRecord:
        """Registers a blob as a model, and waits until it was looked into, for one class of one output."""
        record = self.do(calls.create_model(new))
        return self._wait(record, f"/v1/models/{record.id}", watch)

    def register_examples(self, new: NewExamples, watch: Watch | None = None) -> ExamplesRecord:
        """Registers a blob as an example set, and waits until it was read."""
        record = self.do(calls.create_examples(new))
        return self._wait(record, f"/v1/examples/{record.id}", watch)

    def start(self, audit: Audit, key: str | None = None) -> AuditRecord:
        """Asks for an audit, whose sources are digests; the same `key` asks for the same audit."""
        return self.do(calls.create_audit(audit, key or str(uuid4())))

    def audit(self, audit: str) -> AuditRecord:
        """Where an audit stands."""
        return self.do(calls.get_audit(audit))

    def audits(self, state: State | None = None) -> Iterator[AuditRecord]:
        """Every audit, the newest first, or those in one state."""
        page = self.do(calls.list_audits(None, state))
        yield from page.audits
        while page.next_page_token:
            page = self.do(calls.list_audits(page.next_page_token, state))
            yield from page.audits

    def wait(self, audit: str, watch: Watch | None = None) -> AuditRecord:
        """Waits until an audit succeeded; raises the problem of one that failed or was cancelled."""
        return self._wait(self.audit(audit), f"/v1/audits/{audit}", watch)

    def cancel(self, audit: str) -> AuditRecord:
        """Asks an audit to stop."""
        return self.do(calls.cancel_audit(audit))

    def report(self, audit: str) -> Report:
        """The report of an audit that succeeded."""
        return calls.read_report(self.report_bytes(audit))

    def report_bytes(self, audit: str) -> bytes:
        """The same in canonical form, byte for byte as it was signed."""
        return self.do(calls.get_report(audit))

    def attestation(self, audit: str) -> bytes:
        """The signed statement about an audit that succeeded; `caveat verify` checks it."""
        return self.do(calls.get_attestation(audit))

    def log(self) -> bytes:
        """Who asked for what and what came of it, as lines for `caveat verify --log`; needs an admin's key."""
        return self.do(calls.get_log())

    def do(self, call: Call[T]) -> T:
        """Sends a request, again where that may help, and reads its answer."""
        return self._insist(lambda: self._send(call), _Patience(self._patience))

    def _send(self, call: Call[T], content: Iterator[bytes] | None = None) -> T:
        return calls.accepted(call, self._http.request(**_request(call, content, self._http.timeout)))

    def _insist(self, action: Callable[[], T], patience: _Patience) -> T:
        try:
            for attempt in stamina.retry_context(**_retries(patience)):
                with attempt:
                    return action()
        except httpx.TransportError as error:
            raise calls.unreachable(self.url, error) from error
        raise AssertionError("a retry ends with a value or an error")

    def _wait(self, record: Record, path: str, watch: Watch | None) -> Record:
        etag: str | None = None
        while record.state not in ENDED:
            _tell(watch, record)
            seen = self.do(calls.look(type(record), path, etag))
            record, etag = seen.record or record, seen.etag
            if record.state not in ENDED:
                sleep(seen.pause)
        return _succeeded(record, watch)


class AsyncClient:
    """The same service for asynchronous callers; every method is that of `Client`."""

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        timeout: float = 60.0,
        patience: float | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.url = _url(url)
        self._patience = PATIENCE if patience is None else patience
        self._http = httpx.AsyncClient(
            base_url=self.url, headers=_headers(key), timeout=timeout, transport=transport, follow_redirects=True
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def put(self, file: Path, known_as: str | None = None, watch: Watch | None = None) -> str:
        """Hands over a file unless the server has it; returns its digest, which is `known_as` where that is known.

        A connection that breaks is made anew, and the upload goes on where it broke off.
        """
        name = known_as or str(await asyncio.to_thread(digest, file))
        delivery = _Delivery(file, self._patience, watch)

        async def once() -> None:
            kept = await self._send(calls.get_upload(name))
            if not kept.complete:
                delivery.goes_on(kept.offset)
                await self._send(calls.finish_upload(name, file, kept.offset), _later(delivery.rest(kept.offset)))

        await self._insist(once, delivery)
        return name

    async def register_model(self, new: NewModel, watch: Watch | None = None) -> ModelRecord:
        """Registers a blob as a model, and waits until it was looked into, for one class of one output."""
        record = await self.do(calls.create_model(new))
        return await self._wait(record, f"/v1/models/{record.id}", watch)

    async def register_examples(self, new: NewExamples, watch: Watch | None = None) -> ExamplesRecord:
        """Registers a blob as an example set, and waits until it was read."""
        record = await self.do(calls.create_examples(new))
        return await self._wait(record, f"/v1/examples/{record.id}", watch)

    async def start(self, audit: Audit, key: str | None = None) -> AuditRecord:
        """Asks for an audit, whose sources are digests; the same `key` asks for the same audit."""
        return await self.do(calls.create_audit(audit, key or str(uuid4())))

    async def audit(self, audit: str) -> AuditRecord:
        """Where an audit stands."""
        return await self.do(calls.get_audit(audit))

    async def audits(self, state: State | None = None) -> AsyncIterator[AuditRecord]:
        """Every audit, the newest first, or those in one state."""
        page = await self.do(calls.list_audits(None, state))
        for record in page.audits:
            yield record
        while page.next_page_token:
            page = await self.do(calls.list_audits(page.next_page_token, state))
            for record in page.audits:
                yield record

    async def wait(self, audit: str, watch: Watch | None = None) -> AuditRecord:
        """Waits until an audit succeeded; raises the problem of one that failed or was cancelled."""
        return await self._wait(await self.audit(audit), f"/v1/audits/{audit}", watch)

    async def cancel(self, audit: str) -> AuditRecord:
        """Asks an audit to stop."""
        return await self.do(calls.cancel_audit(audit))

    async def report(self, audit: str) -> Report:
        """The report of an audit that succeeded."""
        return calls.read_report(await self.report_bytes(audit))

    async def report_bytes(self, audit: str) -> bytes:
        """The same in canonical form, byte for byte as it was signed."""
        return await self.do(calls.get_report(audit))

    async def attestation(self, audit: str) -> bytes:
        """The signed statement about an audit that succeeded; `caveat verify` checks it."""
        return await self.do(calls.get_attestation(audit))

    async def log(self) -> bytes:
        """Who asked for what and what came of it, as lines; needs an admin's key."""
        return await self.do(calls.get_log())

    async def do(self, call: Call[T]) -> T:
        """Sends a request, again where that may help, and reads its answer."""
        return await self._insist(lambda: self._send(call), _Patience(self._patience))

    async def _send(self, call: Call[T], content: AsyncIterator[bytes] | None = None) -> T:
        return calls.accepted(call, await self._http.request(**_request(call, content, self._http.timeout)))

    async def _insist(self, action: Callable[[], Awaitable[T]], patience: _Patience) -> T:
        try:
            async for attempt in stamina.retry_context(**_retries(patience)):
                with attempt:
                    return await action()
        except httpx.TransportError as error:
            raise calls.unreachable(self.url, error) from error
        raise AssertionError("a retry ends with a value or an error")

    async def _wait(self, record: Record, path: str, watch: Watch | None) -> Record:
        etag: str | None = None
        while record.state not in ENDED:
            _tell(watch, record)
            seen = await self.do(calls.look(type(record), path, etag))
            record, etag = seen.record or record, seen.etag
            if record.state not in ENDED:
                await asyncio.sleep(seen.pause)
        return _succeeded(record, watch)


def _url(url: str | None) -> str:
    url = url or os.environ.get("CAVEAT_URL", "")
    if not url.startswith(("http://", "https://")):
        raise problem(
            "no-server",
            422,
            f"'{url}' is not the URL of a Caveat service." if url else "No Caveat service is named.",
            "Set $CAVEAT_URL to one, such as http://127.0.0.1:8000; `caveat up` starts one and prints its URL.",
        )
    return url.rstrip("/")


def _headers(key: str | None) -> dict[str, str]:
    key = key or os.environ.get("CAVEAT_KEY")
    return {"Accept": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}


def _retries(patience: _Patience) -> dict[str, Any]:
    return {"on": patience, "attempts": None, "timeout": None, "wait_max": 5.0, "wait_jitter": 0.2}


def _request(
    call: Call[T], content: Iterator[bytes] | AsyncIterator[bytes] | None, usual: httpx.Timeout
) -> dict[str, Any]:
    read = call.answers_within or usual.read
    return {
        "method": call.method,
        "url": call.path,
        "headers": call.headers,
        "params": call.params,
        "content": content or call.body,
        "timeout": httpx.Timeout(connect=usual.connect, read=read, write=usual.write, pool=usual.pool),
    }


async def _later(content: Iterator[bytes]) -> AsyncIterator[bytes]:
    for chunk in content:
        yield chunk


def _tell(watch: Watch | None, record: Job) -> None:
    if watch is not None:
        watch(_stage(record), record.progress)


def _stage(record: Job) -> str:
    """Where a job is, in a few words."""
    if isinstance(record, AuditRecord) and record.stage == "probing" and record.shards:
        return f"probing, {record.shards.done} of {record.shards.of} shards"
    if isinstance(record, AuditRecord) and record.stage == "queued" and record.queue != "default":
        return f"queued for {record.queue}"
    return record.stage


def _succeeded(record: Record, watch: Watch | None) -> Record:
    if record.state == "succeeded":
        _tell(watch, record)
        return record
    raise ProblemError(
        record.problem
        or Problem.of(
            "cancelled",
            503,
            f"{record.id} was {record.state} before it ended.",
            "Somebody asked for that, or the service was stopped; run it again.",
        )
    )
