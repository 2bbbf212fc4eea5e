"""Attestations: signed on request, with a key that no worker has (see `docs/decisions/0006`)."""

from __future__ import annotations

from flask import Response
from securesystemslib.signer import Signer

from caveat_service.errors import refuse
from caveat_service.state import app_context
from caveat_spec.attestation import Run
from caveat_storage import attestations, audit_log, job_records, keyring
from caveat_storage.audit_log import NotLoggedError
from caveat_storage.job_records import Record


def signed(record: Record, report: bytes) -> Response:
    """The signed envelope of an audit's statement; the keys are read on every call, so they can be rotated."""
    keys = signers(app_context().settings.signing_key)
    if not keys:
        raise refuse(
            "not-signed", 404, "This service has no signing key, so it makes no attestations.",
            "Ask an operator to set CAVEAT_SIGNING_KEY; `caveat keygen` creates a key.",
        )  # fmt: skip
    try:
        reported = audit_log.reported(app_context().database, record.tenant, record.id)
    except NotLoggedError:
        raise refuse(
            "not-logged", 404, "The audit log does not say how this audit ended, so nothing of it can be signed: the "
            "audit is older than the log, which services keep since migration 0003, or was not made by this service.",
            "Repeat the audit, and fetch the attestation of the new one.",
        ) from None  # fmt: skip
    if reported != record.report_digest:
        raise refuse(
            "not-reported", 500, "The audit log does not say that the worker of this audit reported this digest.",
            "Somebody changed the record of the audit: tell an operator, who finds the entry with `caveat audit-log`.",
        )  # fmt: skip
    envelope = attestations.sign(attestations.state(report, _run(record)), keys)
    response = Response(envelope, content_type="application/json")
    response.headers["Cache-Control"] = "private, no-cache"
    return response


def signers(where: str | None) -> list[Signer]:
    """The keys that `CAVEAT_SIGNING_KEY` names; none if it is not set."""
    return keyring.signers(keyring.pem_at(where)) if where else []


def _run(record: Record) -> Run:
    """When and where the audit ran, from the events of its last claim and its end."""
    happened = {event.what: event for event in job_records.history(app_context().database, record.tenant, record.id)}
    claim, end = happened["claim"], happened["succeed"]
    return Run(
        audit=record.id,
        where=claim.data["worker"],
        started_at=claim.at.replace(microsecond=0),
        finished_at=end.at.replace(microsecond=0),
    )
