"""Attestations: signed when they are asked for, with a key that no worker has. `docs/decisions/0006` says why."""

from __future__ import annotations

from flask import Response
from securesystemslib.signer import Signer

from api_spec.attestation import Run
from service.errors import refuse
from service.state import behind
from vault import attest, keyring, records
from vault.records import Record


def signed(record: Record, report: bytes) -> Response:
    """The envelope around what record and report of an audit say; keys are read anew each time, so they may change."""
    keys = signers(behind().settings.signing_key)
    if not keys:
        raise refuse(
            "not-signed", 404, "This service has no key to sign with, so it attests nothing.",
            "Ask an operator to set CAVEAT_SIGNING_KEY; `caveat keygen` makes a key.",
        )  # fmt: skip
    envelope = attest.sign(attest.state(report, _run(record)), keys)
    response = Response(envelope, content_type="application/json")
    response.headers["Cache-Control"] = "private, no-cache"
    return response


def signers(where: str | None) -> list[Signer]:
    """The keys that `CAVEAT_SIGNING_KEY` names; none where it is not set."""
    return keyring.signers(keyring.pem_at(where)) if where else []


def _run(record: Record) -> Run:
    """When and where the audit ran, by its events: the claim that led to its end, and that end."""
    happened = {event.what: event for event in records.history(behind().database, record.tenant, record.id)}
    claim, end = happened["claim"], happened["succeed"]
    return Run(
        audit=record.id,
        where=claim.data["worker"],
        started_at=claim.at.replace(microsecond=0),
        finished_at=end.at.replace(microsecond=0),
    )
