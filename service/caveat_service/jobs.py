"""Jobs: submit and show models, example sets and audits, which share their life cycle."""

from __future__ import annotations

import re
import time
from collections.abc import Collection
from typing import Any

from flask import Response

from caveat_service import idempotency, instrumentation, limits, long_request_slots
from caveat_service.contract import answer, conditional_response, invalid
from caveat_service.errors import HTTPProblem, not_found, refuse
from caveat_service.state import app_context, principal, tenant
from caveat_spec.artifacts import (
    AuditPage,
    AuditRecord,
    ExamplesPage,
    ExamplesRecord,
    ModelPage,
    ModelRecord,
    NewExamples,
    NewModel,
    Shards,
)
from caveat_spec.audit import Audit
from caveat_spec.jobs import JobKind, Request, queue_of, sources
from caveat_spec.openapi import JobsQuery, SubmitHeaders
from caveat_spec.problem import Fault
from caveat_spec.source_urls import addressed_digest, is_url, parsed
from caveat_storage import job_records, job_state, source_allow_list
from caveat_storage.job_records import Record
from caveat_storage.job_state import ENDED, FullError, GoneError, KeyReusedError
from caveat_telemetry import traces

PLACES: dict[JobKind, str] = {"audit": "/v1/audits", "model": "/v1/models", "examples": "/v1/examples"}
LISTED: dict[JobKind, str] = {kind: place.rsplit("/", 1)[1] for kind, place in PLACES.items()}
"""The field of a page that has its jobs."""
LOOK_SECONDS = 0.2


def submit(kind: JobKind, body: Request, headers: SubmitHeaders) -> Response:
    """Stores and publishes a job; answers 202, or 200 if it ends within the time of `Prefer: wait`."""
    wanted = sources(body)
    _require_allowed(wanted)
    digests = {pointer: addressed_digest(source) for pointer, source in wanted.items()}
    there = job_records.owned(app_context().database, tenant(), list(digests.values()))
    _require(wanted, there)
    try:
        submission = job_state.submit(
            app_context().database, tenant(), kind, body.model_dump(mode="json", exclude_unset=True),
            queue=queue_of(body, there, large=app_context().settings.large_model_bytes),
            urgency=_urgency(headers),
            name=getattr(body, "name", None), key=idempotency.key_of(headers, body),
            by=principal(), sources=set(digests.values()), to_fetch=set(digests.values()) - there.keys(),
            traceparent=traces.carried(),
            most_waiting=app_context().settings.tenant_waiting,
        )  # fmt: skip
    except GoneError:
        raise _absent(wanted) from None
    except KeyReusedError as fault:
        raise idempotency.reused() from fault
    except FullError:
        raise limits.too_many_wait() from None
    instrumentation.concerns(kind, submission.record.id)
    if not submission.replayed:
        app_context().publisher.publish(submission.record.id, submission.record.queue)
    return _accepted(submission.record, _seconds(headers))


def show(kind: JobKind, job_id: str) -> Response:
    """Returns the current state of a job."""
    record = find(kind, job_id)
    return conditional_response(answer(document(record), headers=_retry(record)))


def listing(kind: JobKind, query: JobsQuery, page: type[AuditPage | ModelPage | ExamplesPage]) -> Response:
    """Returns a page of the tenant's jobs, newest first, and the token of the next page."""
    found, more = page_of(kind, query)
    return answer(page(**{LISTED[kind]: [document(record) for record in found]}, next_page_token=more))


def page_of(kind: JobKind, query: JobsQuery) -> tuple[list[Record], str | None]:
    """A page of the tenant's jobs, newest first, and the token of the next page."""
    database = app_context().database
    which: dict[str, Any] = {"before": query.page_token, "state": query.state}
    many = job_records.page_size(database, tenant(), kind, limit=query.limit, **which)
    found = job_records.page(database, tenant(), kind, limit=many + 1, **which)
    return found[:many], found[many - 1].id if len(found) > many else None


def find(kind: JobKind, job_id: str) -> Record:
    """A job of the tenant that sends the request."""
    instrumentation.concerns(kind, job_id)
    record = job_records.get(app_context().database, tenant(), kind, job_id)
    if record is None:
        raise not_found({"audit": "audit", "model": "model", "examples": "example set"}[kind])
    return record


def reported(job_id: str) -> tuple[Record, str]:
    """An audit of the tenant that has a report, and the digest of the report."""
    record = find("audit", job_id)
    if record.report_digest is None:
        raise refuse(
            "no-report", 409, f"The audit is {record.state}, so it has no report.",
            f"Follow it at /v1/audits/{job_id} until it has succeeded.",
        )  # fmt: skip
    return record, record.report_digest


def document(record: Record) -> AuditRecord | ModelRecord | ExamplesRecord:
    """The API's document for a record."""
    common: dict[str, Any] = {
        field: getattr(record, field)
        for field in ("id", "state", "stage", "progress", "attempts", "created_at", "updated_at", "problem")
    }
    result = record.result or {}
    if record.kind == "audit":
        return AuditRecord(
            **common,
            audit=Audit(**record.payload),
            queue=record.queue,
            shards=_shards(record),
            outcome=result.get("outcome"),
            report_digest=record.report_digest,
            maps_digest=record.maps_digest,
        )
    if record.kind == "model":
        model = NewModel(**record.payload)
        return ModelRecord(**common, name=model.name, blob=model.blob, inspection=record.result)
    examples = NewExamples(**record.payload)
    return ExamplesRecord(**common, name=examples.name, examples=examples.examples, summary=record.result)


def _shards(record: Record) -> Shards | None:
    if record.shards is None or record.shards_left is None:
        return None
    return Shards(done=record.shards - record.shards_left, of=record.shards)


def _require_allowed(wanted: dict[str, str]) -> None:
    """Requires that every source that is a URL names its digest, and may be fetched."""
    allowed = source_allow_list.prefixes(app_context().settings.source_allow)
    urls = {pointer: source for pointer, source in wanted.items() if is_url(source)}
    found = {pointer: _not_fetchable(source, allowed) for pointer, source in urls.items()}
    if faults := [Fault(pointer=pointer, detail=wrong) for pointer, wrong in found.items() if wrong is not None]:
        raise refuse(
            "source-not-allowed", 422, "The request names URLs that this service does not fetch.",
            "Upload the bytes with PUT /v1/blobs/sha256:... and name the digest, or ask an operator to allow the URL.",
            faults,
        )  # fmt: skip


def _not_fetchable(source: str, allowed: list[str]) -> str | None:
    found = parsed(source)
    if found is not None and found.digest is not None:
        return source_allow_list.fault(found.url, allowed)
    return "a URL ends in '#sha256=' and the 64 hexadecimal digits of the digest that its bytes must have"


def _require(wanted: dict[str, str], there: Collection[str]) -> None:
    """Requires that this tenant uploaded what no URL leads to; what other tenants have makes no difference."""
    missing = {pointer: one for pointer, one in wanted.items() if not is_url(one) and one not in there}
    if missing:
        raise _absent(missing)


def _absent(sources: dict[str, str]) -> HTTPProblem:
    faults = [
        Fault(
            pointer=pointer,
            detail=f"'{source[:80]}' is not the digest of bytes that you uploaded; "
            "upload them with PUT /v1/blobs/sha256:...",
        )
        for pointer, source in sources.items()
    ]
    return invalid("The request refers to bytes that you have not uploaded.", faults)


def _seconds(headers: SubmitHeaders) -> int:
    """The seconds that the client would like to wait, within limits; other preferences are ignored (RFC 7240)."""
    found = re.search(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,6})", headers.prefer or "")
    return min(int(found[1]), app_context().settings.longest_wait) if found else 0


def _urgency(headers: SubmitHeaders) -> int:
    """The urgency that the client asks for; other parameters, and values that are none, are ignored (RFC 9218)."""
    found = re.search(r"(?:^|,)\s*u=([0-7])\s*(?:[,;]|$)", headers.priority or "")
    return int(found[1]) if found else job_state.ORDINARY


def _awaited(record: Record, seconds: int) -> Record:
    deadline = time.monotonic() + seconds
    while record.state not in ENDED and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)
        record = find(record.kind, record.id)
    return record


def _accepted(record: Record, seconds: int) -> Response:
    place = long_request_slots.place()
    if seconds and place.take():
        try:
            record = _awaited(record, seconds)
        finally:
            place.give_back()
    else:
        seconds = 0
    headers = {"Location": f"{PLACES[record.kind]}/{record.id}"} | _retry(record)
    if seconds:
        headers["Preference-Applied"] = f"wait={seconds}"
    response = answer(document(record), 200 if record.state in ENDED else 202, headers)
    response.add_etag()
    return response


def _retry(record: Record) -> dict[str, str]:
    return {} if record.state in ENDED else {"Retry-After": "1"}
