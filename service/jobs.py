"""What models, example sets and audits have in common: each is a job that is kept, rung for, and shown as it stands."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Collection
from typing import Any

from flask import Response, request

from api_spec.artifacts import AuditRecord, ExamplesRecord, ModelRecord, NewExamples, NewModel, Shards
from api_spec.audit import Audit
from api_spec.jobs import JobKind, Request, queue_of, sources
from api_spec.openapi import SubmitHeaders
from api_spec.problem import Fault
from service import limits, patience, watch
from service.contract import answer, invalid, unless_known
from service.errors import RefusedError, not_found, refuse
from service.state import asker, behind, tenant
from telemetry import traces
from vault import lifecycle, records
from vault.lifecycle import ENDED, FullError, GoneError, KeyReusedError
from vault.records import Key, Record

PLACES: dict[JobKind, str] = {"audit": "/v1/audits", "model": "/v1/models", "examples": "/v1/examples"}
LOOK_SECONDS = 0.2


def submit(kind: JobKind, body: Request, headers: SubmitHeaders) -> Response:
    """Keeps a job, rings for it, and answers 202; with `Prefer: wait`, 200 if it ends in time."""
    wanted = sources(body)
    there = records.owned(behind().database, tenant(), list(wanted.values()))
    _require(wanted, there)
    try:
        submission = lifecycle.submit(
            behind().database, tenant(), kind, body.model_dump(mode="json"),
            queue=queue_of(body, there, large=behind().settings.large_model),
            name=getattr(body, "name", None), key=_key(headers, body),
            by=asker(), sources=set(wanted.values()), traceparent=traces.carried(),
            most_waiting=behind().settings.tenant_waiting,
        )  # fmt: skip
    except GoneError:
        raise _absent(wanted) from None
    except KeyReusedError as fault:
        raise refuse(
            "idempotency-key-reused", 422, "This Idempotency-Key came before with another request.",
            "Send a new key with a new request; send the same request with the same key.",
        ) from fault  # fmt: skip
    except FullError:
        raise limits.too_many_wait() from None
    watch.concerns(kind, submission.record.id)
    if not submission.replayed:
        behind().bell.ring(submission.record.id, submission.record.queue)
    return _accepted(submission.record, _seconds(headers))


def show(kind: JobKind, job_id: str) -> Response:
    """A job as it stands now."""
    record = find(kind, job_id)
    return unless_known(answer(document(record), headers=_retry(record)))


def find(kind: JobKind, job_id: str) -> Record:
    """A job of the tenant that asks."""
    watch.concerns(kind, job_id)
    record = records.get(behind().database, tenant(), kind, job_id)
    if record is None:
        raise not_found({"audit": "audit", "model": "model", "examples": "example set"}[kind])
    return record


def document(record: Record) -> AuditRecord | ModelRecord | ExamplesRecord:
    """A record as the API shows it."""
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


def _require(wanted: dict[str, str], there: Collection[str]) -> None:
    """Every source is bytes that this tenant uploaded; whether anybody else did makes no difference to the answer."""
    if absent := {pointer: source for pointer, source in wanted.items() if source not in there}:
        raise _absent(absent)


def _absent(sources: dict[str, str]) -> RefusedError:
    faults = [
        Fault(
            pointer=pointer,
            detail=f"'{source[:80]}' is not the digest of bytes that you uploaded; "
            "put them in with PUT /v1/blobs/sha256:...",
        )
        for pointer, source in sources.items()
    ]
    return invalid("The request names bytes that are not here.", faults)


def _key(headers: SubmitHeaders, body: Request) -> Key | None:
    if headers.idempotency_key is None:
        return None
    asked = f"{request.path}\n{body.model_dump_json()}"
    return Key(headers.idempotency_key, hashlib.sha256(asked.encode()).hexdigest())


def _seconds(headers: SubmitHeaders) -> int:
    """How long the client would like to wait, within bounds; other preferences are ignored (RFC 7240)."""
    found = re.search(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,6})", headers.prefer or "")
    return min(int(found[1]), behind().settings.longest_wait) if found else 0


def _awaited(record: Record, seconds: int) -> Record:
    deadline = time.monotonic() + seconds
    while record.state not in ENDED and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)
        record = find(record.kind, record.id)
    return record


def _accepted(record: Record, seconds: int) -> Response:
    if seconds and patience.take():
        try:
            record = _awaited(record, seconds)
        finally:
            patience.give_back()
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
