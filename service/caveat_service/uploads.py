"""Resumable uploads (IETF draft: resumable uploads for HTTP)."""

from __future__ import annotations

from datetime import timedelta

from flask import Blueprint, Response, request
from werkzeug.exceptions import ClientDisconnected, LengthRequired

from caveat_service import limits
from caveat_service.blobs import is_owned, own_blobs
from caveat_service.contract import answer, serves
from caveat_service.errors import refuse
from caveat_service.state import app_context, tenant
from caveat_spec.artifacts import Blob, Upload
from caveat_spec.openapi import PartHeaders
from caveat_storage import blob_registry, job_records, uploads
from caveat_storage.blobs import WrongDigestError
from caveat_storage.uploads import OtherOffsetError, TooManyPiecesError, Uploads

blueprint = Blueprint("uploads", __name__)


@serves(blueprint, "get_upload")
def get_upload(digest: str) -> Response:
    """Returns the offset at which the upload continues."""
    size = _complete(digest)
    if size is not None:
        return _standing(Upload(digest=digest, offset=size, complete=True))
    return _standing(Upload(digest=digest, offset=_uploads().reached(tenant(), digest), complete=False))


@serves(blueprint, "patch_upload")
def patch_upload(digest: str, headers: PartHeaders) -> Response:
    """Appends the body to the upload; a complete upload becomes a blob."""
    offset, complete = headers.upload_offset, headers.upload_complete == "?1"
    request.max_content_length = max(app_context().settings.largest_blob - offset, 0)
    if offset > 0 and _complete(digest) == offset:
        return answer(Blob(digest=digest, size=offset))  # the upload is complete already
    limits.require_room(offset + (request.content_length or 0), digest)
    if offset == 0:
        _uploads().expire(timedelta(hours=app_context().settings.upload_hours))
    known = is_owned(digest)
    try:
        size = _uploads().append(tenant(), digest, offset, _Body(), complete=complete)
    except OtherOffsetError as fault:
        refused = refuse("other-offset", 409, str(fault), f"Continue at {fault.expected}, as HEAD {request.path} says.")
        refused.headers.update({"Upload-Offset": str(fault.expected), "Upload-Complete": "?0"})
        raise refused from fault
    except TooManyPiecesError as fault:
        raise refuse(
            "too-many-parts", 409, f"{uploads.MOST} parts of your uploads are stored, which is the limit.",
            f"Send this blob in one request, with PUT /v1/blobs/{digest}; old parts are deleted after some time.",
        ) from fault  # fmt: skip
    except WrongDigestError as fault:
        raise refuse(
            "wrong-digest", 422, str(fault), "Send the bytes that have the digest in the path, from the start."
        ) from fault
    except Exception:  # the client broke off, or was too slow: what arrived is kept if there is room for it
        limits.require_parts_fit(digest)
        raise
    if not complete:
        limits.require_parts_fit(digest)
        return _standing(Upload(digest=digest, offset=size, complete=False), 202)
    return answer(Blob(digest=digest, size=size), 200 if known else 201)


def _complete(digest: str) -> int | None:
    """Size of the tenant's blob; None if it has none, or if the bytes are damaged and have to be sent again."""
    size = job_records.owned(app_context().database, tenant(), [digest]).get(digest)
    return None if size is None or blob_registry.is_damaged(app_context().database, digest) else size


class _Body:
    """The body of the request; raises if it ends early, because the client has then gone."""

    def __init__(self) -> None:
        if "Transfer-Encoding" in request.headers:
            raise LengthRequired("The length of the part is missing, so an incomplete part could not be detected.")
        self._stream, self._left = request.stream, request.content_length or 0

    def read(self, size: int, /) -> bytes:
        """Returns the next bytes."""
        try:
            chunk = self._stream.read(size)
        except OSError as fault:
            raise ClientDisconnected from fault
        self._left -= len(chunk)
        if not chunk and self._left > 0:
            raise ClientDisconnected
        return chunk


def _uploads() -> Uploads:
    return Uploads(own_blobs())


def _standing(upload: Upload, status: int = 200) -> Response:
    headers = {
        "Upload-Offset": str(upload.offset),
        "Upload-Complete": f"?{upload.complete:d}",
        "Cache-Control": "no-store",
    }
    return answer(upload, status, headers)
