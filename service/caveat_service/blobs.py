"""Blobs: upload and download bytes by digest."""

from __future__ import annotations

from flask import Blueprint, Response, request, send_file

from caveat_service import limits, long_request_slots
from caveat_service.contract import answer, serves
from caveat_service.errors import not_found, refuse
from caveat_service.state import app_context, tenant
from caveat_spec.artifacts import Blob
from caveat_storage import blob_registry, job_records
from caveat_storage.blobs import Blobs, WrongDigestError

blueprint = Blueprint("blobs", __name__)

LONG = 1 << 20
"""Bytes above which a download is a long request: it takes long to verify them, and the client may take them slowly."""


@serves(blueprint, "put_blob")
def put_blob(digest: str) -> Response:
    """Stores the body if it has the digest in the path."""
    request.max_content_length = app_context().settings.largest_blob
    limits.require_room(request.content_length or 0, digest)
    known = is_owned(digest)
    try:
        size = own_blobs().put(request.stream, digest)
    except WrongDigestError as fault:
        raise refuse("wrong-digest", 422, str(fault), "Send the bytes that have the digest in the path.") from fault
    return answer(Blob(digest=digest, size=size), 200 if known else 201)


def own_blobs() -> Blobs:
    """The blob store for uploads of this tenant, within its quota."""
    there = app_context()
    return blob_registry.for_tenant(there.blobs, there.database, tenant(), there.settings.tenant_bytes)


def is_owned(digest: str) -> bool:
    """Whether the tenant uploaded these bytes before."""
    return digest in job_records.owned(app_context().database, tenant(), [digest])


@serves(blueprint, "get_blob")
def get_blob(digest: str) -> Response:
    """Returns bytes to the tenant that uploaded them."""
    size = job_records.owned(app_context().database, tenant(), [digest]).get(digest)
    if size is None:
        raise not_found("blob")
    place = long_request_slots.require() if size > LONG else None
    try:
        response = _sent(digest, size)
    except BaseException:
        if place is not None:
            place.give_back()
        raise
    if place is not None:
        response.direct_passthrough = False  # or nothing would be called on its close
        response.call_on_close(place.give_back)
    return response


def _sent(digest: str, size: int) -> Response:
    stored = app_context().blobs.open(digest)
    response = send_file(
        stored,
        mimetype="application/octet-stream",
        etag=digest.partition(":")[2],
        max_age=31536000,
    )
    response.content_length = response.content_length or size
    return response
