"""The log of a tenant, for whoever administers it there."""

from __future__ import annotations

from tempfile import SpooledTemporaryFile

from flask import Blueprint, Response, send_file

from api_spec.openapi import LOG_TYPE
from service import attestations
from service.contract import serves
from service.state import behind, tenant
from vault import chain

blueprint = Blueprint("log", __name__)

IN_MEMORY = 1 << 20  # bytes of a log that are not worth a file


@serves(blueprint, "get_log")
def get_log() -> Response:
    """Gives the whole log as it is at one moment; a client that reads slowly holds no transaction open."""
    written = SpooledTemporaryFile[bytes](IN_MEMORY)
    written.writelines(chain.export(behind().database, tenant(), attestations.signers(behind().settings.signing_key)))
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
