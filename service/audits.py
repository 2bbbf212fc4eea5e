"""Audits: asked for, followed, cancelled, and their reports."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response

from api_spec.artifacts import AuditPage, AuditRecord
from api_spec.audit import Audit
from api_spec.openapi import AuditsQuery, EventsHeaders, SubmitHeaders
from service import attestations, events, jobs, reports
from service.contract import answer, serves, unless_known
from service.errors import not_found, refuse
from service.state import asker, behind, tenant
from vault import lifecycle, records
from vault.lifecycle import EndedError
from vault.records import Record

blueprint = Blueprint("audits", __name__)


@serves(blueprint, "create_audit")
def create_audit(body: Audit, headers: SubmitHeaders) -> Response:
    """Keeps the audit; a worker runs it."""
    return jobs.submit("audit", body, headers)


@serves(blueprint, "get_audit")
def get_audit(job_id: str) -> Response:
    """Shows where the audit stands and how it ended."""
    return jobs.show("audit", job_id)


@serves(blueprint, "list_audits")
def list_audits(query: AuditsQuery) -> Response:
    """Shows a page of audits and where the next one begins."""
    which: dict[str, Any] = {"before": query.page_token, "state": query.state}
    many = records.fitting(behind().database, tenant(), "audit", limit=query.limit, **which)
    found = records.page(behind().database, tenant(), "audit", limit=many + 1, **which)
    shown = [document for document in map(jobs.document, found[:many]) if isinstance(document, AuditRecord)]
    more = shown[-1].id if len(found) > many else None
    return answer(AuditPage(audits=shown, next_page_token=more))


@serves(blueprint, "cancel_audit")
def cancel_audit(job_id: str) -> Response:
    """Asks the audit to stop."""
    try:
        record = lifecycle.cancel(behind().database, tenant(), "audit", job_id, by=asker())
    except EndedError as fault:
        raise refuse(
            "ended", 409, f"The audit has {fault}, so it cannot be cancelled.", "Leave it as it is."
        ) from fault
    if record is None:
        raise not_found("audit")
    return answer(jobs.document(record), 202, {"Location": f"/v1/audits/{job_id}"})


@serves(blueprint, "get_report")
def get_report(job_id: str) -> Response:
    """Shows the report in the form that the client accepts."""
    _, digest = _reported(job_id)
    return unless_known(reports.shown(behind().blobs.read(digest), digest))


@serves(blueprint, "get_attestation")
def get_attestation(job_id: str) -> Response:
    """Signs what the report and the record say."""
    record, digest = _reported(job_id)
    return unless_known(attestations.signed(record, behind().blobs.read(digest)))


@serves(blueprint, "get_events")
def get_events(job_id: str, headers: EventsHeaders) -> Response:
    """Tells what happens to the audit as it happens."""
    jobs.find("audit", job_id)
    return events.stream(behind().database, tenant(), job_id, after=headers.last_event_id)


def _reported(job_id: str) -> tuple[Record, str]:
    """An audit that has a report, and the report's digest."""
    record = jobs.find("audit", job_id)
    if record.report_digest is None:
        raise refuse(
            "no-report", 409, f"The audit is {record.state}, so it has no report.",
            f"Follow it at /v1/audits/{job_id} until it has succeeded.",
        )  # fmt: skip
    return record, record.report_digest
