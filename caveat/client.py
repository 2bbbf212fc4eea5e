"""A typed client of the API, in a sync and an async form: retries with backoff, timeouts, streamed uploads."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from time import sleep
from types import TracebackType
from typing import Any, Self, TypeVar
from uuid import uuid4

import httpx
import stamina

from api_spec.artifacts import AuditRecord, ExamplesRecord, Job, ModelRecord, NewExamples, NewModel
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

    def put(self, file: Path, known_as: str | None = None) -> str:
        """Hands over a file unless the server has it; returns its digest, which is `known_as` where that is known."""
        name = known_as or digest(file)
        if not self.do(calls.has_blob(name)):
            self.do(calls.put_blob(name, file))
        return name

    def register_model(self, blob: str, name: str | None = None, watch: Watch | None = None) -> ModelRecord:
        """Registers a blob as a model, and waits until it was looked into."""
        record = self.do(calls.create_model(NewModel(blob=blob, name=name)))
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

    def audits(self) -> Iterator[AuditRecord]:
        """Every audit, the newest first."""
        page = self.do(calls.list_audits(None))
        yield from page.audits
        while page.next_page_token:
            page = self.do(calls.list_audits(page.next_page_token))
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

    def do(self, call: Call[T]) -> T:
        """Sends a request, again where that may help, and reads its answer."""
        try:
            for attempt in stamina.retry_context(**_retries(self._patience)):
                with attempt:
                    return calls.accepted(call, self._http.request(**_request(call)))
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

    async def put(self, file: Path, known_as: str | None = None) -> str:
        """Hands over a file unless the server has it; returns its digest, which is `known_as` where that is known."""
        name = known_as or str(await asyncio.to_thread(digest, file))
        if not await self.do(calls.has_blob(name)):
            await self.do(calls.put_blob(name, file))
        return name

    async def register_model(self, blob: str, name: str | None = None, watch: Watch | None = None) -> ModelRecord:
        """Registers a blob as a model, and waits until it was looked into."""
        record = await self.do(calls.create_model(NewModel(blob=blob, name=name)))
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

    async def audits(self) -> AsyncIterator[AuditRecord]:
        """Every audit, the newest first."""
        page = await self.do(calls.list_audits(None))
        for record in page.audits:
            yield record
        while page.next_page_token:
            page = await self.do(calls.list_audits(page.next_page_token))
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

    async def do(self, call: Call[T]) -> T:
        """Sends a request, again where that may help, and reads its answer."""
        try:
            async for attempt in stamina.retry_context(**_retries(self._patience)):
                with attempt:
                    request = _request(call)
                    if isinstance(call.body, Path):
                        request["content"] = _async_chunks(call.body)
                    return calls.accepted(call, await self._http.request(**request))
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


def _retries(patience: float) -> dict[str, Any]:
    return {"on": calls.worth_another_try, "attempts": None, "timeout": patience, "wait_max": 5.0, "wait_jitter": 0.2}


def _request(call: Call[T]) -> dict[str, Any]:
    request: dict[str, Any] = {
        "method": call.method,
        "url": call.path,
        "headers": call.headers,
        "params": call.params,
    }
    if isinstance(call.body, Path):
        length = {"Content-Length": str(call.body.stat().st_size)}
        return request | {"headers": call.headers | length, "content": chunks(call.body)}
    return request | {"content": call.body}


async def _async_chunks(file: Path) -> AsyncIterator[bytes]:
    for chunk in chunks(file):
        yield chunk


def _tell(watch: Watch | None, record: Job) -> None:
    if watch is not None:
        watch(record.stage, record.progress)


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
