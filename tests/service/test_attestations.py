"""The service signs the record of an audit and its report with its current keys."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

from caveat_reports.canonical import canonical
from caveat_service.app import create_app
from caveat_service.settings import Settings
from caveat_service.state import AppContext
from caveat_storage import attestations, job_state, keyring
from caveat_storage.keyring import UnusableKeyError
from caveat_storage.tables import jobs, log
from tests.api_spec import handmade
from tests.worker.live import MODEL, TABLE, audit, digest

REPORT = canonical(handmade.report(handmade.row()))
OLD, NEW = keyring.make(), keyring.make()


@pytest.fixture
def job(client: FlaskClient) -> str:
    """A queued audit."""
    for data in (MODEL, TABLE):
        client.put(f"/v1/blobs/{digest(data)}", data=data)
    return str(client.post("/v1/audits", json=audit()).json["id"])


def run(app: Flask, job: str, maps: bytes | None = None, report: bytes = REPORT) -> None:
    """The work of a worker after another one was lost; it leaves a report, and `maps` beside it."""
    app_context: AppContext = app.extensions["caveat"]
    job_state.claim(app_context.database, job, worker="lost@host", lasts=timedelta(seconds=-1))
    job_state.expire(app_context.database, attempts=3, backoff=timedelta())
    lease = job_state.claim(app_context.database, job, worker="celery@host", lasts=timedelta(hours=1))
    assert lease is not None
    app_context.blobs.put(io.BytesIO(report), digest(report))
    if maps is not None:
        app_context.blobs.put(io.BytesIO(maps), digest(maps))
    beside = None if maps is None else digest(maps)
    assert job_state.succeed(app_context.database, lease, {"outcome": None}, digest(report), beside)


def give_keys(app: Flask, where: str) -> None:
    app_context: AppContext = app.extensions["caveat"]
    settings = app_context.settings.model_copy(update={"signing_key": where})
    app.extensions["caveat"] = replace(app_context, settings=settings)


def test_an_attestation_says_what_when_and_where(app: Flask, client: FlaskClient, job: str) -> None:
    give_keys(app, OLD.private)
    assert client.get(f"/v1/audits/{job}/attestation").status_code == 409
    run(app, job)
    answered = client.get(f"/v1/audits/{job}/attestation")
    assert answered.status_code == 200
    opened = attestations.open_envelope(answered.data, keyring.public_keys(OLD.public))
    assert opened.digest("report") == digest(client.get(f"/v1/audits/{job}/report").data)
    ran = opened.statement.predicate.run
    assert (ran.audit, ran.where) == (job, "celery@host")
    assert ran.started_at <= ran.finished_at
    again = client.get(f"/v1/audits/{job}/attestation", headers={"If-None-Match": answered.headers["ETag"]})
    assert again.status_code == 304


@pytest.mark.parametrize("table", ["jobs", "log"])
def test_only_what_the_holder_of_the_lease_reported_is_signed(
    app: Flask, client: FlaskClient, job: str, table: str
) -> None:
    """The record and the audit log were written in one transaction; somebody then changes either."""
    give_keys(app, OLD.private)
    run(app, job)
    app_context: AppContext = app.extensions["caveat"]
    forged = canonical(handmade.report())
    app_context.blobs.put(io.BytesIO(forged), digest(forged))
    forge = {
        "jobs": jobs.update().where(jobs.c.id == job).values(report_digest=digest(forged)),
        "log": log.update().where(log.c.job_id == job).values(payload={"report_digest": digest(forged)}),
    }
    with app_context.database.writing() as connection:
        connection.execute(forge[table])
    answered = client.get(f"/v1/audits/{job}/attestation")
    assert (answered.status_code, answered.json["type"].rpartition(":")[2]) == (500, "not-reported")
    assert "caveat audit-log" in answered.json["remedy"]


def test_an_audit_that_is_older_than_the_audit_log_is_not_signed_and_says_why(
    app: Flask, client: FlaskClient, job: str
) -> None:
    """It was told that somebody had changed its record."""
    give_keys(app, OLD.private)
    run(app, job)
    app_context: AppContext = app.extensions["caveat"]
    with app_context.database.writing() as connection:
        connection.execute(log.delete())
    answered = client.get(f"/v1/audits/{job}/attestation")
    assert (answered.status_code, answered.json["type"].rpartition(":")[2]) == (404, "not-logged")
    assert "older than the log" in answered.json["detail"]
    assert "Repeat the audit" in answered.json["remedy"]


def test_keys_change_without_a_restart(app: Flask, client: FlaskClient, job: str, tmp_path: Path) -> None:
    run(app, job)
    keys = tmp_path / "keys"
    keys.mkdir()
    (keys / "old.pem").write_text(OLD.private)
    give_keys(app, str(keys))
    before = client.get(f"/v1/audits/{job}/attestation")
    (keys / "new.pem").write_text(NEW.private)
    after = client.get(f"/v1/audits/{job}/attestation", headers={"If-None-Match": before.headers["ETag"]})
    assert after.status_code == 200
    for pair in (OLD, NEW):
        attestations.open_envelope(after.data, keyring.public_keys(pair.public))


def test_a_service_without_a_key_says_so(app: Flask, client: FlaskClient, job: str) -> None:
    run(app, job)
    refused = client.get(f"/v1/audits/{job}/attestation")
    assert refused.status_code == 404
    assert "CAVEAT_SIGNING_KEY" in refused.json["remedy"]


def test_a_key_that_cannot_be_used_stops_the_service_before_it_serves(tmp_path: Path) -> None:
    with pytest.raises(UnusableKeyError, match="neither PEM nor"):
        create_app(Settings(database_url=f"sqlite:///{tmp_path / 'db'}", signing_key=str(tmp_path / "absent.pem")))


def test_a_key_is_never_shown() -> None:
    """The key appears neither in a traceback nor in a log of the settings."""
    assert OLD.private.splitlines()[1] not in repr(Settings(signing_key=OLD.private))
