"""The endpoints of the API as values: each request, and how its response is read. Both clients use them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from email.utils import parsedate_to_datetime
from time import time
from typing import Generic, TypeVar
from urllib.parse import quote

import httpx2
from pydantic import BaseModel, ValidationError

from caveat.problems import ProblemError
from caveat_spec.artifacts import (
    AuditPage,
    AuditRecord,
    Blob,
    ExamplesPage,
    ExamplesRecord,
    Job,
    ModelPage,
    ModelRecord,
    NewExamples,
    NewModel,
    State,
    Upload,
)
from caveat_spec.audit import Audit
from caveat_spec.problem import ProblemDetails
from caveat_spec.report import Report
from caveat_spec.studies import NewStudy, StudyLinks, StudyRatings, StudyRecord
from caveat_spec.study import StudyFindings

T = TypeVar("T")
Document = TypeVar("Document", bound=BaseModel)
Ended = TypeVar("Ended", bound=Job)

ENDED = {"succeeded", "failed", "cancelled"}
POLL_SECONDS = 0.5
"""Pause between two polls of a job, unless the server asks for another."""


@dataclass(frozen=True)
class Call(Generic[T]):
    """A request, and the function that reads its response."""

    method: str
    path: str
    read: Callable[[httpx2.Response], T]
    headers: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    read_timeout: float | None = None
    """Seconds that the response may take once the body is sent; the client's own timeout where left out."""


class ServerError(ProblemError):
    """An error response: the server's problem, the status and, where the server names one, the pause before a retry."""

    def __init__(self, problem: ProblemDetails, status: int, retry_after: float | None) -> None:
        super().__init__(problem)
        self.status = status
        self.retry_after = retry_after


@dataclass(frozen=True)
class Polled(Generic[T]):
    """The result of polling a job: its record (`None`: unchanged), its ETag, and seconds until the next poll."""

    record: T | None
    etag: str | None
    pause: float


def get_upload(digest: str) -> Call[Upload]:
    """How much of an upload the server has kept."""
    return Call("GET", f"/v1/uploads/{digest}", _read(Upload))


def finish_upload(digest: str, size: int, offset: int) -> Call[Blob]:
    """Sends the bytes from `offset` on of a blob of this size."""
    headers = {"Upload-Offset": str(offset), "Upload-Complete": "?1", "Content-Type": "application/partial-upload"}
    length = {"Content-Length": str(size - offset)}
    return Call("PATCH", f"/v1/uploads/{digest}", _read(Blob), headers | length, read_timeout=600.0)


def create_model(new: NewModel) -> Call[ModelRecord]:
    """Registers a blob as a model."""
    return _post("/v1/models", new, ModelRecord)


def create_examples(new: NewExamples) -> Call[ExamplesRecord]:
    """Registers a blob as an example set."""
    return _post("/v1/examples", new, ExamplesRecord)


def create_audit(audit: Audit, key: str) -> Call[AuditRecord]:
    """Starts an audit; requests with the same idempotency key return the same audit."""
    return _post("/v1/audits", audit, AuditRecord, {"Idempotency-Key": key})


def get_audit(audit: str) -> Call[AuditRecord]:
    """The record of an audit."""
    return Call("GET", f"/v1/audits/{quote(audit, safe='')}", _read(AuditRecord))


def list_audits(page_token: str | None, state: State | None = None) -> Call[AuditPage]:
    """A page of audits, newest first, or of those in one state."""
    query = {"page_token": page_token, "state": state}
    params = {name: value for name, value in query.items() if value}
    return Call("GET", "/v1/audits", _read(AuditPage), params=params)


def list_models(page_token: str | None) -> Call[ModelPage]:
    """A page of models, newest first."""
    return Call("GET", "/v1/models", _read(ModelPage), params={"page_token": page_token} if page_token else {})


def list_examples(page_token: str | None) -> Call[ExamplesPage]:
    """A page of example sets, newest first."""
    return Call("GET", "/v1/examples", _read(ExamplesPage), params={"page_token": page_token} if page_token else {})


def poll(kind: type[Ended], path: str, etag: str | None) -> Call[Polled[Ended]]:
    """Polls a job; the response is empty (304) where nothing has changed."""

    def read(response: httpx2.Response) -> Polled[Ended]:
        fresh = response.status_code != httpx2.codes.NOT_MODIFIED
        pause = _retry_after(response)
        return Polled(
            _read(kind)(response) if fresh else None,
            response.headers.get("ETag", etag),
            POLL_SECONDS if pause is None else pause,
        )

    return Call("GET", path, read, {"If-None-Match": etag} if etag else {})


def cancel_audit(audit: str) -> Call[AuditRecord]:
    """Asks an audit to stop."""
    return Call("POST", f"/v1/audits/{quote(audit, safe='')}:cancel", _read(AuditRecord))


def get_report(audit: str) -> Call[bytes]:
    """A report's canonical bytes."""
    path = f"/v1/audits/{quote(audit, safe='')}/report"
    return Call("GET", path, lambda response: response.content, {"Accept": "application/json"})


def get_maps(audit: str) -> Call[bytes]:
    """The file of maps of an audit that keeps them."""
    return Call("GET", f"/v1/audits/{quote(audit, safe='')}/maps", lambda response: response.content)


def get_cav(audit: str, concept: str, layer: str) -> Call[bytes]:
    """A concept activation vector of an audit that keeps them."""
    names = "/".join(quote(name, safe="") for name in (concept, layer))
    return Call("GET", f"/v1/audits/{quote(audit, safe='')}/cavs/{names}", lambda response: response.content)


def get_attestation(audit: str) -> Call[bytes]:
    """The signed attestation of an audit that succeeded."""
    return Call("GET", f"/v1/audits/{quote(audit, safe='')}/attestation", lambda response: response.content)


def get_audit_log() -> Call[bytes]:
    """The tenant's audit log, as JSON lines."""
    return Call("GET", "/v1/audit-log", lambda response: response.content)


def create_study(new: NewStudy, key: str) -> Call[StudyLinks]:
    """Makes a study of the maps in a report; requests with the same idempotency key return the same links."""
    return _post("/v1/studies", new, StudyLinks, {"Idempotency-Key": key})


def get_study(study: str) -> Call[StudyRecord]:
    """The record of a study."""
    return Call("GET", f"/v1/studies/{quote(study, safe='')}", _read(StudyRecord))


def close_study(study: str) -> Call[StudyRecord]:
    """Ends a study and has it analysed."""
    return Call("POST", f"/v1/studies/{quote(study, safe='')}:close", _read(StudyRecord))


def delete_study(study: str) -> Call[None]:
    """Deletes a study with its answers."""
    return Call("DELETE", f"/v1/studies/{quote(study, safe='')}", lambda response: None)


def get_protocol(study: str) -> Call[bytes]:
    """The canonical bytes of a study's protocol."""
    return Call("GET", f"/v1/studies/{quote(study, safe='')}/protocol", lambda response: response.content)


def get_ratings(study: str) -> Call[StudyRatings]:
    """Every answer of a study."""
    return Call("GET", f"/v1/studies/{quote(study, safe='')}/ratings", _read(StudyRatings))


def get_findings(study: str) -> Call[StudyFindings]:
    """What the ratings of a closed study came to."""
    return Call("GET", f"/v1/studies/{quote(study, safe='')}/findings", _read(StudyFindings))


def read_report(report: bytes) -> Report:
    """Parses a report."""
    return Report.model_validate_json(report)


def read_response(call: Call[T], response: httpx2.Response) -> T:
    """The value of a response; raises `ServerError`, with the server's own problem where it sent one."""
    if response.is_success or response.status_code in _EXPECTED.get(call.method, ()):
        try:
            return call.read(response)
        except ValidationError:
            raise ProblemError(
                ProblemDetails.of(
                    "not-caveat",
                    502,
                    f"{response.url} sent a response that this version of Caveat cannot read.",
                    "Check that the URL is a Caveat service of the same version as this client.",
                )
            ) from None
    try:
        details = ProblemDetails.model_validate_json(response.content)
    except ValidationError:
        details = ProblemDetails.of(
            "unexpected-answer",
            502,
            f"{response.url} responded with {response.status_code} {response.reason_phrase}".rstrip() + ".",
            "Check that the URL is a Caveat service, and for proxies between it and you.",
        )
    raise ServerError(details, response.status_code, _retry_after(response))


def should_retry(error: Exception) -> bool | timedelta:
    """Whether to send a request again; where the server asks for a pause, that pause."""
    if isinstance(error, httpx2.TransportError):
        return not isinstance(error, httpx2.UnsupportedProtocol)
    if isinstance(error, ServerError) and error.status in (425, 429, 502, 503, 504):
        return True if error.retry_after is None else timedelta(seconds=error.retry_after)
    return isinstance(error, ServerError) and error.problem.type.endswith(":other-offset")


def unreachable(url: str, error: httpx2.TransportError) -> ProblemError:
    """The problem of a server that does not respond."""
    return ProblemError(
        ProblemDetails.of(
            "server-unreachable",
            503,
            f"Caveat at {url} does not respond: {error or type(error).__name__}.",
            "Check $CAVEAT_URL; `caveat up` starts a service on this machine, and `--local` runs without one.",
        )
    )


_EXPECTED = {"GET": (304,)}
"""Statuses over 299 that are no errors."""


def _post(path: str, body: BaseModel, kind: type[Document], headers: dict[str, str] | None = None) -> Call[Document]:
    return Call(
        "POST",
        path,
        _read(kind),
        {"Content-Type": "application/json", **(headers or {})},
        body=body.model_dump_json(exclude_unset=True).encode(),
    )


def _read(kind: type[Document]) -> Callable[[httpx2.Response], Document]:
    return lambda response: kind.model_validate_json(response.content)


def _retry_after(response: httpx2.Response) -> float | None:
    """The pause that `Retry-After` asks for, in either of its forms: in seconds, at most 60."""
    value = response.headers.get("Retry-After", "")
    try:
        seconds = float(value) if value.isdecimal() else parsedate_to_datetime(value).timestamp() - time()
    except ValueError:
        return None
    return min(max(seconds, 0.0), 60.0)
