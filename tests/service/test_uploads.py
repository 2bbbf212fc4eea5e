"""Resumable uploads over HTTP: which parts are kept, for whom and how long, and which are rejected."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from caveat_service.state import AppContext
from tests.worker.live import MODEL, digest

PLACE = f"/v1/uploads/{digest(MODEL)}"
BLOB = f"/v1/blobs/{digest(MODEL)}"


def send(client: FlaskClient, offset: int, data: bytes, complete: str = "?1", **more: str) -> TestResponse:
    headers = {"Upload-Offset": str(offset), "Upload-Complete": complete, **more}
    return client.patch(PLACE, data=data, headers=headers)


def standing(client: FlaskClient) -> tuple[int, str]:
    """The offset and completeness that HEAD returns."""
    head = client.head(PLACE)
    assert (head.status_code, head.headers["Cache-Control"]) == (200, "no-store")
    return int(head.headers["Upload-Offset"]), head.headers["Upload-Complete"]


def test_a_blob_comes_in_parts(client: FlaskClient) -> None:
    assert standing(client) == (0, "?0")
    part = send(client, 0, MODEL[:2], "?0")
    assert (part.status_code, part.headers["Upload-Offset"]) == (202, "2")
    assert part.json == {"digest": digest(MODEL), "offset": 2, "complete": False}
    assert standing(client) == (2, "?0")
    assert client.get(BLOB).status_code == 404
    whole = send(client, 2, MODEL[2:])
    assert (whole.status_code, whole.json) == (201, {"digest": digest(MODEL), "size": len(MODEL)})
    assert client.get(BLOB).data == MODEL
    assert standing(client) == (len(MODEL), "?1")


def test_a_blob_that_was_put_in_before_may_come_again(client: FlaskClient) -> None:
    client.put(BLOB, data=MODEL)
    assert standing(client) == (len(MODEL), "?1")
    assert send(client, 0, MODEL).status_code == 200
    nothing_left = send(client, len(MODEL), b"")
    assert (nothing_left.status_code, nothing_left.json) == (200, {"digest": digest(MODEL), "size": len(MODEL)})


def test_as_many_parts_as_may_be_kept_are(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("caveat_storage.uploads.MOST", 1)
    assert send(client, 0, MODEL[:2], "?0").status_code == 202
    refused = send(client, 2, MODEL[2:])
    assert (refused.status_code, refused.json["type"]) == (409, "urn:caveat:problem:too-many-parts")
    assert BLOB in refused.json["remedy"]
    assert client.put(BLOB, data=MODEL).status_code == 201


def test_what_does_not_go_on_where_it_should_is_refused(client: FlaskClient) -> None:
    send(client, 0, MODEL[:2], "?0")
    refused = send(client, 3, MODEL[3:])
    assert (refused.status_code, refused.headers["Upload-Offset"]) == (409, "2")
    assert refused.json["type"] == "urn:caveat:problem:other-offset"
    assert "Continue at 2" in refused.json["remedy"]
    assert standing(client) == (2, "?0")


def test_other_bytes_than_announced_are_dropped(client: FlaskClient) -> None:
    send(client, 0, b"xx", "?0")
    refused = send(client, 2, MODEL[2:])
    assert (refused.status_code, refused.json["type"]) == (422, "urn:caveat:problem:wrong-digest")
    assert standing(client) == (0, "?0")


@pytest.mark.parametrize(
    "headers", [{}, {"Upload-Offset": "-1"}, {"Upload-Offset": "x"}, {"Upload-Offset": "0", "Upload-Complete": "yes"}]
)
def test_headers_that_make_no_sense_are_refused(client: FlaskClient, headers: dict[str, str]) -> None:
    assert client.patch(PLACE, data=MODEL, headers=headers).status_code == 422


def test_parts_together_may_not_be_too_large(app: Flask, client: FlaskClient) -> None:
    app_context: AppContext = app.extensions["caveat"]
    small = app_context.settings.model_copy(update={"largest_blob": 4})
    app.extensions["caveat"] = replace(app_context, settings=small)
    assert send(client, 0, MODEL[:3], "?0").status_code == 202
    refused = send(client, 3, MODEL[3:])
    assert refused.status_code == 413
    assert "CAVEAT_LARGEST_BLOB" in refused.json["remedy"]


def test_what_is_left_for_a_day_is_dropped_when_the_next_upload_begins(client: FlaskClient, tmp_path: Path) -> None:
    send(client, 0, MODEL[:2], "?0")
    (piece,) = (tmp_path / "blobs" / "uploads").iterdir()
    client.patch(f"/v1/uploads/{digest(b'another')}", data=b"another", headers={"Upload-Offset": "0"})
    assert piece.exists()
    os.utime(piece, (yesterday := time.time() - 25 * 3600, yesterday))
    client.patch(f"/v1/uploads/{digest(b'a third')}", data=b"a third", headers={"Upload-Offset": "0"})
    assert not piece.exists()
    assert standing(client) == (0, "?0")
