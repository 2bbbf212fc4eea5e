"""The file of maps beside a report: served as long as it is what its digest says, and deleted with its audit."""

from __future__ import annotations

from datetime import timedelta

import pytest
from flask import Flask
from flask.testing import FlaskClient

from caveat_service.state import AppContext
from caveat_storage import blob_registry, hash_chain, job_records, retention
from caveat_storage.audit_log import export
from tests.service.test_attestations import REPORT, job, run
from tests.service.test_corrupt_bytes import place_of
from tests.worker.live import digest

__all__ = ["job"]
"""A fixture that another module has."""

MAPS = b"PK: a file of maps"


def test_maps_are_served_as_they_were_stored(app: Flask, client: FlaskClient, job: str) -> None:
    path = f"/v1/audits/{job}/maps"
    early = client.get(path)
    assert (early.status_code, early.json["type"]) == (409, "urn:caveat:problem:no-report")
    run(app, job, MAPS)
    assert client.get(f"/v1/audits/{job}").json["maps_digest"] == digest(MAPS)
    answered = client.get(path)
    assert (answered.status_code, answered.data, answered.mimetype) == (200, MAPS, "application/zip")
    assert answered.headers["Content-Disposition"] == f'attachment; filename="{job}.npz"'
    again = client.get(path, headers={"If-None-Match": answered.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")


def test_an_audit_without_maps_says_how_to_keep_some(app: Flask, client: FlaskClient, job: str) -> None:
    run(app, job)
    refused = client.get(f"/v1/audits/{job}/maps")
    assert (refused.status_code, refused.json["type"]) == (404, "urn:caveat:problem:no-maps")
    assert "`keep: maps`" in refused.json["remedy"]
    assert client.get(f"/v1/audits/{job}").json["maps_digest"] is None


@pytest.mark.parametrize("damaged", [True, False], ids=["damaged", "gone"])
def test_bytes_that_are_not_what_they_were_are_not_served(
    app: Flask, client: FlaskClient, job: str, damaged: bool
) -> None:
    run(app, job, MAPS)
    etag = client.get(f"/v1/audits/{job}/maps").headers["ETag"]
    place = place_of(app, MAPS)
    place.write_bytes(MAPS.upper()) if damaged else place.unlink()
    for condition in ({}, {"If-None-Match": etag}):
        refused = client.get(f"/v1/audits/{job}/maps", headers=condition)
        kind = "corrupt-bytes" if damaged else "missing-bytes"
        assert (refused.status_code, refused.json["type"]) == (500, f"urn:caveat:problem:{kind}")
    assert client.get(f"/v1/audits/{job}/report").data == REPORT


def test_maps_go_with_their_audit_and_the_log_keeps_their_digest_until_then(
    app: Flask, client: FlaskClient, job: str
) -> None:
    run(app, job, MAPS)
    context: AppContext = app.extensions["caveat"]
    database, blobs, tenant = context.database, context.blobs, "default"
    (ended,) = (entry for entry in export(database, tenant) if b'"succeed"' in entry)
    assert digest(MAPS).encode() in ended
    blob_registry.collect(database, blobs, unused_for=timedelta(0))
    assert digest(MAPS) in set(blobs.digests())
    assert retention.forget(database, before=job_records.now() + timedelta(hours=1), by="retention").jobs == 1
    blob_registry.collect(database, blobs, unused_for=timedelta(0))
    assert digest(MAPS) not in set(blobs.digests())
    assert hash_chain.account(export(database, tenant)).erased > 0
