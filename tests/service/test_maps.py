"""The file of maps beside a report: served as long as it is what its digest says, and deleted with its audit."""

from __future__ import annotations

import io
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from flask import Flask
from flask.testing import FlaskClient

from caveat_reports.canonical import canonical
from caveat_service.state import AppContext
from caveat_spec.maps import KeptCav
from caveat_spec.report import Report
from caveat_storage import blob_registry, hash_chain, job_records, keys, retention
from caveat_storage.audit_log import export
from caveat_worker.engine.panels.maps import maps_file
from tests.api import api
from tests.api_spec import handmade
from tests.service.test_attestations import REPORT, job, run
from tests.service.test_console import submitted
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


def with_vectors() -> tuple[Report, bytes]:
    """A report, and the file beside it with a vector of two layers, one of them named as PyTorch names them."""
    vectors = {"conv": np.arange(6, dtype=np.float32).reshape(2, 3), "/features/0/Conv_output_0@mean": np.ones(4)}
    cavs = [
        (
            KeptCav(
                concept="stripes", layer=layer, tensor=layer, reduce="flatten", name=f"cavs/stripes/{layer}",
                shape=list(vector.shape), step=1, origin=0, n_concept=30, n_reference=30,
            ),
            vector,
        )
        for layer, vector in vectors.items()
    ]  # fmt: skip
    content, maps = maps_file([], [], cavs)
    return handmade.report().model_copy(update={"maps": maps}), content


def test_a_vector_is_served_as_numpy_reads_it(app: Flask, client: FlaskClient, job: str) -> None:
    report, content = with_vectors()
    run(app, job, content, canonical(report))
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        for layer in ("conv", "/features/0/Conv_output_0@mean"):
            path = f"/v1/audits/{job}/cavs/stripes/{quote(layer, safe='')}"
            answered = client.get(path)
            assert (answered.status_code, answered.mimetype) == (200, "application/octet-stream")
            assert answered.headers["Content-Disposition"] == 'attachment; filename="stripes.npy"'
            vector = np.load(io.BytesIO(answered.data), allow_pickle=False)
            assert vector.dtype == np.float32
            assert vector.tolist() == file[f"cavs/stripes/{layer}"].tolist()
            assert client.get(path, headers={"If-None-Match": answered.headers["ETag"]}).status_code == 304
    etags = {client.get(f"/v1/audits/{job}/{place}").headers["ETag"] for place in ("maps", "cavs/stripes/conv")}
    assert len(etags) == 2


@pytest.mark.parametrize(("name", "status", "kind"), [
    ("spots/conv", 404, "no-such-cav"),
    ("stripes/conv2", 404, "no-such-cav"),
    ("stripes/conv/", 404, "no-such-cav"),
    ("stripes/../../../maps", 404, "no-such-cav"),
    ("stripes/", 404, "not-found"),
    ("%2e%2e/conv", 422, "invalid"),
    ("stripes/" + "x" * 1025, 422, "invalid"),
    ("stripes/%00", 404, "no-such-cav"),
])  # fmt: skip
def test_a_vector_that_was_not_kept_is_not_found(
    app: Flask, client: FlaskClient, job: str, name: str, status: int, kind: str
) -> None:
    report, content = with_vectors()
    run(app, job, content, canonical(report))
    refused = client.get(f"/v1/audits/{job}/cavs/{name}")
    assert (refused.status_code, refused.json["type"]) == (status, f"urn:caveat:problem:{kind}")
    assert refused.json["remedy"]


def test_an_audit_without_vectors_says_how_to_keep_some(app: Flask, client: FlaskClient, job: str) -> None:
    path = f"/v1/audits/{job}/cavs/stripes/conv"
    assert client.get(path).json["type"] == "urn:caveat:problem:no-report"
    run(app, job, MAPS)
    refused = client.get(path)
    assert (refused.status_code, refused.json["type"]) == (404, "urn:caveat:problem:no-cavs")
    assert "`keep: cavs`" in refused.json["remedy"]
    unknown = client.get(f"/v1/audits/{'0' * 26}/cavs/stripes/conv")
    assert (unknown.status_code, unknown.json["type"]) == (404, "urn:caveat:problem:not-found")


def test_another_tenant_s_vector_is_not_found(tmp_path: Path) -> None:
    with api(tmp_path, auth="keys") as app:
        database = app.extensions["caveat"].database
        ours, theirs = (keys.issue(database, name, "ci", ["submit", "read"]) for name in ("ours", "theirs"))
        job, (report, content) = submitted(app, theirs), with_vectors()
        run(app, job, content, canonical(report))
        statuses = {
            key: app.test_client()
            .get(f"/v1/audits/{job}/cavs/stripes/conv", headers={"Authorization": f"Bearer {key}"})
            .status_code
            for key in (ours, theirs)
        }
        assert statuses == {ours: 404, theirs: 200}


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
