"""The API as values: what each request is and how its answer is read, for the sync and the async client alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from time import time
from typing import Generic, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from api_spec.artifacts import (
    AuditPage,
    AuditRecord,
    Blob,
    ExamplesRecord,
    Job,
    ModelRecord,
    NewExamples,
    NewModel,
    State,
    Upload,
)
from api_spec.audit import Audit
from api_spec.problem import Problem
from api_spec.report import Report
from caveat.problems import ProblemError

T = TypeVar("T")
Document = TypeVar("Document", bound=BaseModel)
Ended = TypeVar("Ended", bound=Job)

ENDED = {"succeeded", "failed", "cancelled"}
POLL = 0.5
"""Seconds between two looks at a job, where the server names no better time."""


@dataclass(frozen=True)
class Call(Generic[T]):
    """A request, and what its answer means."""

    method: str
    path: str
    read: Callable[[httpx.Response], T]
    headers: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    answers_within: float | None = None
    """Seconds that the answer may take once the body is sent, where that is longer than a client waits else."""


class RefusedError(ProblemError):
    """A server's refusal: the status it came with, and the seconds after which it may think otherwise."""

    def __init__(self, problem: Problem, status: int, retry_after: float | None) -> None:
        super().__init__(problem)
        self.status = status
        self.retry_after = retry_after


@dataclass(frozen=True)
class Seen(Generic[T]):
    """A look at a job: what it was (`None`: as before), its tag, and how long to wait before the next look."""

    record: T | None
    etag: str | None
    pause: float


def get_upload(digest: str) -> Call[Upload]:
    """How much of these bytes the server has already."""
    return Call("GET", f"/v1/uploads/{digest}", _read(Upload))


def finish_upload(digest: str, file: Path, offset: int) -> Call[Blob]:
    """Hands over a file's bytes from `offset` on."""
    told = {"Upload-Offset": str(offset), "Upload-Complete": "?1", "Content-Type": "application/partial-upload"}
    length = {"Content-Length": str(file.stat().st_size - offset)}
    return Call("PATCH", f"/v1/uploads/{digest}", _read(Blob), told | length, answers_within=600.0)


def create_model(new: NewModel) -> Call[ModelRecord]:
    """Registers a blob as a model."""
    return _post("/v1/models", new, ModelRecord)


def create_examples(new: NewExamples) -> Call[ExamplesRecord]:
    """Registers a blob as an example set."""
    return _post("/v1/examples", new, ExamplesRecord)


def create_audit(audit: Audit, key: str) -> Call[AuditRecord]:
    """Asks for an audit; the same key asks for the same audit."""
    return _post("/v1/audits", audit, AuditRecord, {"Idempotency-Key": key})


def get_audit(audit: str) -> Call[AuditRecord]:
    """Where an audit stands."""
    return Call("GET", f"/v1/audits/{quote(audit, safe='')}", _read(AuditRecord))


def list_audits(page_token: str | None, state: State | None = None) -> Call[AuditPage]:
    """A page of audits, the newest first, or of those in one state."""
    asked = {"page_token": page_token, "state": state}
    params = {name: value for name, value in asked.items() if value}
    return Call("GET", "/v1/audits", _read(AuditPage), params=params)


def look(kind: type[Ended], path: str, etag: str | None) -> Call[Seen[Ended]]:
    """Looks at a job again; costs little where nothing has changed."""

    def read(response: httpx.Response) -> Seen[Ended]:
        fresh = response.status_code != httpx.codes.NOT_MODIFIED
        pause = _retry_after(response)
        return Seen(
            _read(kind)(response) if fresh else None,
            response.headers.get("ETag", etag),
            POLL if pause is None else pause,
        )

    return Call("GET", path, read, {"If-None-Match": etag} if etag else {})


def cancel_audit(audit: str) -> Call[AuditRecord]:
    """Asks an audit to stop."""
    return Call("POST", f"/v1/audits/{quote(audit, safe='')}:cancel", _read(AuditRecord))


def get_report(audit: str) -> Call[bytes]:
    """A report's canonical bytes."""
    path = f"/v1/audits/{quote(audit, safe='')}/report"
    return Call("GET", path, lambda response: response.content, {"Accept": "application/json"})


def get_attestation(audit: str) -> Call[bytes]:
    """The signed statement about an audit that succeeded."""
    return Call("GET", f"/v1/audits/{quote(audit, safe='')}/attestation", lambda response: response.content)


def get_log() -> Call[bytes]:
    """The log of what the tenant asked and what came of it."""
    return Call("GET", "/v1/log", lambda response: response.content)


def read_report(report: bytes) -> Report:
    """The report in some bytes."""
    return Report.model_validate_json(report)


def accepted(call: Call[T], response: httpx.Response) -> T:
    """What an answer means; raises what the server refused, in its own words where it has some."""
    if response.is_success or response.status_code in _MEANT.get(call.method, ()):
        try:
            return call.read(response)
        except ValidationError:
            raise ProblemError(
                Problem.of(
                    "not-caveat",
                    502,
                    f"{response.url} answered something that Caveat does not say.",
                    "Check that the URL is a Caveat service of the same version as this client.",
                )
            ) from None
    try:
        refusal = Problem.model_validate_json(response.content)
    except ValidationError:
        refusal = Problem.of(
            "unexpected-answer",
            502,
            f"{response.url} answered {response.status_code} {response.reason_phrase}".rstrip() + ".",
            "Check that the URL is a Caveat service, and what stands between it and you.",
        )
    raise RefusedError(refusal, response.status_code, _retry_after(response))


def worth_another_try(error: Exception) -> bool | timedelta:
    """Whether, and where the server says so when, to send a request again."""
    if isinstance(error, httpx.TransportError):
        return not isinstance(error, httpx.UnsupportedProtocol)
    if isinstance(error, RefusedError) and error.status in (425, 429, 502, 503, 504):
        return True if error.retry_after is None else timedelta(seconds=error.retry_after)
    return isinstance(error, RefusedError) and error.problem.type.endswith(":other-offset")


def unreachable(url: str, error: httpx.TransportError) -> ProblemError:
    """The problem of a server that does not answer."""
    return ProblemError(
        Problem.of(
            "server-unreachable",
            503,
            f"Caveat at {url} does not answer: {error or type(error).__name__}.",
            "Check $CAVEAT_URL; `caveat up` starts a service on this machine, and `--local` needs none.",
        )
    )


_MEANT = {"GET": (304,)}
"""Statuses over 299 that are answers, not refusals."""


def _post(path: str, body: BaseModel, kind: type[Document], headers: dict[str, str] | None = None) -> Call[Document]:
    return Call(
        "POST",
        path,
        _read(kind),
        {"Content-Type": "application/json", **(headers or {})},
        body=body.model_dump_json().encode(),
    )


def _read(kind: type[Document]) -> Callable[[httpx.Response], Document]:
    return lambda response: kind.model_validate_json(response.content)


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds to wait, from either form of the header, a minute at most."""
    value = response.headers.get("Retry-After", "")
    try:
        seconds = float(value) if value.isdecimal() else parsedate_to_datetime(value).timestamp() - time()
    except ValueError:
        return None
    return min(max(seconds, 0.0), 60.0)
