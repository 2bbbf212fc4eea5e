"""Uploads that go on where they broke off, as the IETF's draft of resumable uploads has it."""

from __future__ import annotations

from datetime import timedelta

from flask import Blueprint, Response, request
from werkzeug.exceptions import ClientDisconnected, LengthRequired

from api_spec.artifacts import Upload
from api_spec.openapi import PartHeaders
from service import limits, patience
from service.blobs import owned
from service.contract import answer, serves
from service.errors import refuse
from service.state import behind, tenant
from vault import records, uploads
from vault.blobs import WrongDigestError
from vault.uploads import OtherOffsetError, TooManyPiecesError, Uploads

blueprint = Blueprint("uploads", __name__)


@serves(blueprint, "get_upload")
def get_upload(digest: str) -> Response:
    """Says where the upload goes on."""
    size = records.owned(behind().database, tenant(), [digest]).get(digest)
    if size is not None:
        return _standing(Upload(digest=digest, offset=size, complete=True))
    return _standing(Upload(digest=digest, offset=_uploads().reached(tenant(), digest), complete=False))


@serves(blueprint, "patch_upload")
def patch_upload(digest: str, headers: PartHeaders) -> Response:
    """Adds the body to what has arrived; whole, it becomes the blob."""
    offset, complete = headers.upload_offset, headers.upload_complete == "?1"
    request.max_content_length = max(behind().settings.largest_blob - offset, 0)
    if offset > 0 and records.owned(behind().database, tenant(), [digest]).get(digest) == offset:
        return owned(digest, offset)  # nothing is left to come
    limits.require_room(offset + (request.content_length or 0), digest)
    if offset == 0:
        _uploads().expire(timedelta(hours=behind().settings.upload_hours))
    try:
        with patience.place():
            size = _uploads().append(tenant(), digest, offset, _Body(), complete=complete)
    except OtherOffsetError as fault:
        refused = refuse("other-offset", 409, str(fault), f"Go on at {fault.expected}, as HEAD {request.path} says.")
        refused.headers.update({"Upload-Offset": str(fault.expected), "Upload-Complete": "?0"})
        raise refused from fault
    except TooManyPiecesError as fault:
        raise refuse(
            "too-many-parts", 409, f"{uploads.MOST} parts of your uploads are kept, and no more can be.",
            f"Send this one whole, with PUT /v1/blobs/{digest}; parts are dropped some time after they came.",
        ) from fault  # fmt: skip
    except WrongDigestError as fault:
        raise refuse(
            "wrong-digest", 422, str(fault), "Send the bytes that the digest in the path belongs to, from the start."
        ) from fault
    if not complete:
        return _standing(Upload(digest=digest, offset=size, complete=False), 202)
    return owned(digest, size)


class _Body:
    """The body of the request; where it ends before it should, its sender has gone, and what came is not all."""

    def __init__(self) -> None:
        if "Transfer-Encoding" in request.headers:
            raise LengthRequired("The part does not say how long it is, so nobody could know whether it came whole.")
        self._stream, self._left = request.stream, request.content_length or 0

    def read(self, size: int, /) -> bytes:
        """The next bytes."""
        try:
            chunk = self._stream.read(size)
        except OSError as fault:
            raise ClientDisconnected from fault
        self._left -= len(chunk)
        if not chunk and self._left > 0:
            raise ClientDisconnected
        return chunk


def _uploads() -> Uploads:
    return Uploads(behind().blobs)


def _standing(upload: Upload, status: int = 200) -> Response:
    told = {
        "Upload-Offset": str(upload.offset),
        "Upload-Complete": f"?{upload.complete:d}",
        "Cache-Control": "no-store",
    }
    return answer(upload, status, told)
