"""Bytes, by their digest."""

from __future__ import annotations

from flask import Blueprint, Response, request, send_file

from api_spec.artifacts import Blob
from service import limits, patience
from service.contract import answer, serves
from service.errors import not_found, refuse
from service.state import behind, tenant
from vault import records
from vault.blobs import WrongDigestError
from vault.records import NoRoomError

blueprint = Blueprint("blobs", __name__)


@serves(blueprint, "put_blob")
def put_blob(digest: str) -> Response:
    """Streams the body to where it is kept, once it has proved to be what it was announced as."""
    request.max_content_length = behind().settings.largest_blob
    limits.require_room(request.content_length or 0, digest)
    try:
        with patience.place():
            size = behind().blobs.put(request.stream, digest)
    except WrongDigestError as fault:
        raise refuse(
            "wrong-digest", 422, str(fault), "Send the bytes that the digest in the path belongs to."
        ) from fault
    return owned(digest, size)


def owned(digest: str, size: int) -> Response:
    """Answers for bytes that are kept from now on."""
    try:
        new = records.own(behind().database, tenant(), digest, size, most=behind().settings.tenant_bytes)
    except NoRoomError as fault:
        raise limits.no_room(fault.used) from fault
    return answer(Blob(digest=digest, size=size), 201 if new else 200)


@serves(blueprint, "get_blob")
def get_blob(digest: str) -> Response:
    """Gives bytes back to the tenant that put them in."""
    size = records.owned(behind().database, tenant(), [digest]).get(digest)
    if size is None:
        raise not_found("blob")
    response = send_file(
        behind().blobs.open(digest),
        mimetype="application/octet-stream",
        etag=digest.partition(":")[2],
        max_age=31536000,
    )
    response.content_length = response.content_length or size
    return response
