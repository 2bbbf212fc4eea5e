"""Audits: submit, list, follow, cancel, and read their reports."""

from __future__ import annotations

from flask import Blueprint, Response

from caveat_service import attestations, events, jobs, reports
from caveat_service.contract import answer, conditional_response, serves, unchanging
from caveat_service.errors import not_found, refuse
from caveat_service.state import app_context, principal, tenant
from caveat_spec.artifacts import AuditPage
from caveat_spec.audit import Audit
from caveat_spec.maps import npy_head
from caveat_spec.openapi import CAV_TYPE, MAPS_TYPE, EventsHeaders, JobsQuery, SubmitHeaders
from caveat_spec.report import Report
from caveat_storage import job_state
from caveat_storage.job_state import EndedError

blueprint = Blueprint("audits", __name__)


@serves(blueprint, "create_audit")
def create_audit(body: Audit, headers: SubmitHeaders) -> Response:
    """Stores the audit and publishes it to the workers."""
    return jobs.submit("audit", body, headers)


@serves(blueprint, "get_audit")
def get_audit(job_id: str) -> Response:
    """Returns the state and the outcome of the audit."""
    return jobs.show("audit", job_id)


@serves(blueprint, "list_audits")
def list_audits(query: JobsQuery) -> Response:
    """Returns a page of audits and the token of the next page."""
    return jobs.listing("audit", query, AuditPage)


@serves(blueprint, "cancel_audit")
def cancel_audit(job_id: str) -> Response:
    """Requests the cancellation of the audit."""
    try:
        record = job_state.cancel(app_context().database, tenant(), "audit", job_id, by=principal())
    except EndedError as fault:
        raise refuse(
            "ended", 409, f"The audit has {fault}, so it cannot be cancelled.", "There is nothing to do."
        ) from fault
    if record is None:
        raise not_found("audit")
    return answer(jobs.document(record), 202, {"Location": f"/v1/audits/{job_id}"})


@serves(blueprint, "get_report")
def get_report(job_id: str) -> Response:
    """Returns the report in the format that the client accepts."""
    _, digest = jobs.reported(job_id)
    return conditional_response(reports.shown(app_context().blobs.read(digest), digest))


@serves(blueprint, "get_maps")
def get_maps(job_id: str) -> Response:
    """Returns the file of maps that belongs to the report, once it is what its digest says."""
    record, _ = jobs.reported(job_id)
    if record.maps_digest is None:
        raise refuse(
            "no-maps", 404, "The audit kept no maps.",
            "Submit it with `keep: maps`, where it has `explain`; its report has the figures in any case.",
        )  # fmt: skip
    return _file(app_context().blobs.read(record.maps_digest), MAPS_TYPE, record.maps_digest, f"{job_id}.npz")


@serves(blueprint, "get_cav")
def get_cav(job_id: str, concept: str, layer: str) -> Response:
    """Returns the numbers that lie where the report says, behind a head of our own: nothing of the file is parsed."""
    record, digest = jobs.reported(job_id)
    maps = Report.model_validate_json(app_context().blobs.read(digest)).maps
    if maps is None or record.maps_digest is None or not maps.cavs:
        raise refuse(
            "no-cavs", 404, "The audit kept no concept activation vectors.", "Submit it with `keep: cavs`."
        )  # fmt: skip
    found = next((one for one in maps.cavs if (one.concept, one.layer) == (concept, layer)), None)
    if found is None:
        raise refuse(
            "no-such-cav", 404, "The audit kept no vector of this concept at this layer.",
            "Its report lists those that it kept under `maps`: `cavs`.",
        )  # fmt: skip
    numbers = app_context().blobs.read(record.maps_digest)[found.at : found.end]
    return _file(npy_head(found.shape) + numbers, CAV_TYPE, f"{record.maps_digest}-{found.at}", f"{concept}.npy")


@serves(blueprint, "get_attestation")
def get_attestation(job_id: str) -> Response:
    """Signs a statement about the report and the run of the audit."""
    record, digest = jobs.reported(job_id)
    return conditional_response(attestations.signed(record, app_context().blobs.read(digest)))


@serves(blueprint, "get_events")
def get_events(job_id: str, headers: EventsHeaders) -> Response:
    """Streams the events of the audit."""
    jobs.find("audit", job_id)
    return events.stream(app_context().database, tenant(), job_id, after=headers.last_event_id)


def _file(content: bytes, media_type: str, version: str, name: str) -> Response:
    """A file to keep, under its name."""
    response = Response(content, content_type=media_type)
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return conditional_response(unchanging(response, version.partition(":")[2]))
