"""Stored bytes that were changed are neither sent, rendered nor signed, and heal when they are uploaded again."""

from __future__ import annotations

from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

from caveat_service.state import AppContext
from caveat_spec.formats import FORMATS
from caveat_storage import keyring
from tests.service.test_attestations import OLD, REPORT, give_keys, run
from tests.worker.live import MODEL, TABLE, audit, digest

FORGED = REPORT.replace(b'"outcome":"', b'"outcome": "').replace(b"pass", b"fail")


@pytest.fixture
def job(app: Flask, client: FlaskClient) -> str:
    """An audit that succeeded."""
    for data in (MODEL, TABLE):
        client.put(f"/v1/blobs/{digest(data)}", data=data)
    job_id = str(client.post("/v1/audits", json=audit()).json["id"])
    run(app, job_id)
    give_keys(app, OLD.private)
    return job_id


def place_of(app: Flask, data: bytes) -> Path:
    """The file that holds some bytes, for somebody who can write to the folder of blobs and to nothing else."""
    app_context: AppContext = app.extensions["caveat"]
    name = digest(data).removeprefix("sha256:")
    return Path(app_context.blobs.root) / "sha256" / name[:2] / name


@pytest.mark.parametrize("media_type", [form.media_type for form in FORMATS if form.media_type])
def test_an_edited_report_is_not_served(app: Flask, client: FlaskClient, job: str, media_type: str) -> None:
    path = f"/v1/audits/{job}/report"
    etag = client.get(path, headers={"Accept": media_type}).headers["ETag"]
    place_of(app, REPORT).write_bytes(FORGED)
    for condition in ({}, {"If-None-Match": etag}):
        refused = client.get(path, headers={"Accept": media_type, **condition})
        assert (refused.status_code, refused.json["type"]) == (500, "urn:caveat:problem:corrupt-bytes")
        assert digest(REPORT) in refused.json["detail"]
        assert "ETag" not in refused.headers


def test_an_edited_report_is_not_signed(app: Flask, client: FlaskClient, job: str) -> None:
    place_of(app, REPORT).write_bytes(FORGED)
    refused = client.get(f"/v1/audits/{job}/attestation")
    assert (refused.status_code, refused.json["type"]) == (500, "urn:caveat:problem:corrupt-bytes")
    assert keyring.public_keys(OLD.public)[0].keyid not in refused.text


def test_a_damaged_blob_is_not_sent_and_asked_for_again(app: Flask, client: FlaskClient, job: str) -> None:
    blob, upload = f"/v1/blobs/{digest(MODEL)}", f"/v1/uploads/{digest(MODEL)}"
    place_of(app, MODEL).write_bytes(b"other")
    refused = client.get(blob)
    assert (refused.status_code, refused.json["type"]) == (500, "urn:caveat:problem:corrupt-bytes")
    assert client.get(upload).json["complete"] is False
    sent = client.patch(upload, data=MODEL, headers={"Upload-Offset": "0", "Upload-Complete": "?1"})
    assert sent.status_code == 200
    assert client.get(blob).data == MODEL
    assert client.get(upload).json["complete"] is True


def test_a_report_heals_when_it_is_uploaded(app: Flask, client: FlaskClient, job: str) -> None:
    place_of(app, REPORT).write_bytes(FORGED)
    assert client.get(f"/v1/audits/{job}/report").status_code == 500
    assert client.put(f"/v1/blobs/{digest(REPORT)}", data=REPORT).status_code == 201
    assert client.get(f"/v1/audits/{job}/report").data == REPORT
    assert client.get(f"/v1/audits/{job}/attestation").status_code == 200
