"""The synchronous client of the API. Generated from `async_client.py` by `make generate`: do not edit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import sleep
from types import TracebackType
from typing import Self, TypeVar
from uuid import uuid4

import httpx2
import stamina

from caveat import endpoints
from caveat.endpoints import ENDED, Call
from caveat.pack import Content, addressed, size_of
from caveat.progress import ProgressCallback
from caveat.transport import (
    Action,
    RetryPolicy,
    UploadPolicy,
    base_url,
    default_headers,
    report_progress,
    request_options,
    succeeded,
)
from caveat_spec.artifacts import (
    AuditPage,
    AuditRecord,
    ExamplesPage,
    ExamplesRecord,
    Job,
    ModelPage,
    ModelRecord,
    NewExamples,
    NewModel,
    State,
)
from caveat_spec.audit import Audit
from caveat_spec.report import Report
from caveat_spec.studies import NewStudy, StudyLinks, StudyRatings, StudyRecord
from caveat_spec.study import StudyFindings

T = TypeVar("T")
Record = TypeVar("Record", bound=Job)
Page = TypeVar("Page", AuditPage, ModelPage, ExamplesPage)


class Client:
    """A Caveat service over HTTP; close it, or use it as a context manager.

    `url` and `key` default to `$CAVEAT_URL` and `$CAVEAT_KEY`. `timeout` is that of one request, in seconds;
    `retry_for` is how many seconds a request is retried while the server cannot be reached (default: 45).
    Every method raises `ProblemError`.
    """

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        timeout: float = 60.0,
        retry_for: float | None = None,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        self.url = base_url(url)
        self._retry_for = retry_for
        self._http = httpx2.Client(
            base_url=self.url,
            headers=default_headers(key),
            timeout=timeout,
            transport=transport,
            follow_redirects=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def put(self, file: Content, known_as: str | None = None, on_progress: ProgressCallback | None = None) -> str:
        """Upload a file unless the server has it, and return its digest.

        A model is uploaded together with its data files, and a folder as an archive of its pictures. Pass the digest as
        `known_as` if you have it already. An upload whose connection breaks is resumed at the byte where it broke off.
        """
        content, name = (file, known_as) if known_as else addressed(file)
        policy = UploadPolicy(content, self._retry_for, on_progress)

        def attempt() -> None:
            kept = self._send(endpoints.get_upload(name))
            if not kept.complete:
                policy.resume_at(kept.offset)
                self._send(endpoints.finish_upload(name, size_of(content), kept.offset), policy.chunks(kept.offset))

        self._retry(attempt, policy)
        return name

    def register_model(self, new: NewModel, on_progress: ProgressCallback | None = None) -> ModelRecord:
        """Register a blob as a model, and wait until the service has inspected it for one class of one output."""
        record = self.do(endpoints.create_model(new))
        return self._wait(record, f"/v1/models/{record.id}", on_progress)

    def register_examples(self, new: NewExamples, on_progress: ProgressCallback | None = None) -> ExamplesRecord:
        """Register a blob as an example set, and wait until the service has read it."""
        record = self.do(endpoints.create_examples(new))
        return self._wait(record, f"/v1/examples/{record.id}", on_progress)

    def start(self, audit: Audit, key: str | None = None) -> AuditRecord:
        """Start an audit whose sources are digests; calls with the same idempotency `key` return the same audit."""
        return self.do(endpoints.create_audit(audit, key or str(uuid4())))

    def audit(self, audit: str) -> AuditRecord:
        """The record of an audit: its state, its progress and, once it has ended, its outcome."""
        return self.do(endpoints.get_audit(audit))

    def audits(self, state: State | None = None) -> Iterator[AuditRecord]:
        """Every audit, newest first, or those in one state."""
        for page in self._pages(lambda token: endpoints.list_audits(token, state)):
            for record in page.audits:
                yield record

    def models(self) -> Iterator[ModelRecord]:
        """Every model, newest first."""
        for page in self._pages(endpoints.list_models):
            for record in page.models:
                yield record

    def example_sets(self) -> Iterator[ExamplesRecord]:
        """Every example set, newest first."""
        for page in self._pages(endpoints.list_examples):
            for record in page.examples:
                yield record

    def wait(self, audit: str, on_progress: ProgressCallback | None = None) -> AuditRecord:
        """Wait until an audit has succeeded; raises the problem of one that failed or was cancelled."""
        return self._wait(self.audit(audit), f"/v1/audits/{audit}", on_progress)

    def cancel(self, audit: str) -> AuditRecord:
        """Ask an audit to stop."""
        return self.do(endpoints.cancel_audit(audit))

    def report(self, audit: str) -> Report:
        """The report of an audit that succeeded."""
        return endpoints.read_report(self.report_bytes(audit))

    def report_bytes(self, audit: str) -> bytes:
        """The same report as canonical JSON, byte for byte as it was signed."""
        return self.do(endpoints.get_report(audit))

    def maps(self, audit: str) -> bytes:
        """Every number of a report's figures as arrays (`.npz`), of an audit with `keep: maps`."""
        return self.do(endpoints.get_maps(audit))

    def cav(self, audit: str, concept: str, layer: str) -> bytes:
        """A concept activation vector as an array (`.npy`), of an audit with `keep: cavs`; a report lists them."""
        return self.do(endpoints.get_cav(audit, concept, layer))

    def attestation(self, audit: str) -> bytes:
        """The signed attestation of an audit that succeeded; `caveat verify` checks it."""
        return self.do(endpoints.get_attestation(audit))

    def make_study(self, new: NewStudy, key: str | None = None) -> StudyLinks:
        """Make a study of the maps in an audit's report, with the links of its raters, which are shown only here.

        Calls with the same idempotency `key` return the same study and the same links.
        """
        return self.do(endpoints.create_study(new, key or str(uuid4())))

    def study(self, study: str) -> StudyRecord:
        """The record of a study: what it is about, and how far it is."""
        return self.do(endpoints.get_study(study))

    def close_study(self, study: str) -> StudyRecord:
        """End a study, so that it takes no more answers and is analysed; repeating it has no further effect."""
        return self.do(endpoints.close_study(study))

    def delete_study(self, study: str) -> None:
        """Delete a study with its links, answers and analysis; needs a key with the scope `admin`."""
        self.do(endpoints.delete_study(study))

    def protocol(self, study: str) -> bytes:
        """The protocol of a study as canonical JSON: who sees what in which order."""
        return self.do(endpoints.get_protocol(study))

    def ratings(self, study: str) -> StudyRatings:
        """Every answer of a study."""
        return self.do(endpoints.get_ratings(study))

    def findings(self, study: str) -> StudyFindings:
        """What the ratings of a closed study came to."""
        return self.do(endpoints.get_findings(study))

    def audit_log(self) -> bytes:
        """The tenant's audit log as JSON lines, for `caveat verify --audit-log`; needs a key with the scope `admin`."""
        return self.do(endpoints.get_audit_log())

    def _pages(self, page_after: Callable[[str | None], Call[Page]]) -> Iterator[Page]:
        page = self.do(page_after(None))
        yield page
        while page.next_page_token:
            page = self.do(page_after(page.next_page_token))
            yield page

    def do(self, call: Call[T]) -> T:
        """Send a request, retry it where that may help, and read the response."""
        return self._retry(lambda: self._send(call), RetryPolicy(self._retry_for))

    def _send(self, call: Call[T], content: Iterator[bytes] | None = None) -> T:
        response = self._http.request(**request_options(call, content, self._http.timeout))
        return endpoints.read_response(call, response)

    def _retry(self, action: Action[T], policy: RetryPolicy) -> T:
        try:
            for attempt in stamina.retry_context(**policy.options()):
                with attempt:
                    return action()
        except httpx2.TransportError as error:
            raise endpoints.unreachable(self.url, error) from error
        raise AssertionError("stamina returns a value or raises the last error")

    def _wait(self, record: Record, path: str, on_progress: ProgressCallback | None) -> Record:
        etag: str | None = None
        while record.state not in ENDED:
            report_progress(on_progress, record)
            polled = self.do(endpoints.poll(type(record), path, etag))
            record, etag = polled.record or record, polled.etag
            if record.state not in ENDED:
                sleep(polled.pause)
        return succeeded(record, on_progress)
