"""The audit log of a tenant, for its administrators."""

from __future__ import annotations

from tempfile import SpooledTemporaryFile

from flask import Blueprint, Response, send_file

from caveat_service import attestations
from caveat_service.contract import serves
from caveat_service.state import app_context, tenant
from caveat_spec.openapi import LOG_TYPE
from caveat_storage import audit_log

blueprint = Blueprint("log", __name__)

IN_MEMORY = 1 << 20  # bytes; a longer log is written to a file


@serves(blueprint, "get_audit_log")
def get_audit_log() -> Response:
    """Sends a snapshot of the log, copied first so that a slow client holds no transaction open."""
    written = SpooledTemporaryFile[bytes](IN_MEMORY)
    written.writelines(
        audit_log.export(app_context().database, tenant(), attestations.signers(app_context().settings.signing_key))
    )
    length = written.tell()
    written.seek(0)
    if length <= IN_MEMORY:
        with written:
            response = Response(written.read(), mimetype=LOG_TYPE)
    else:
        response = send_file(written, mimetype=LOG_TYPE)
        response.content_length = length
    response.headers["Cache-Control"] = "private, no-store"
    return response
