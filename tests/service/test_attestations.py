"""What the service signs: the record of an audit and its report, with whatever keys it has now."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

from reports.canonical import canonical
from service.app import create_app
from service.settings import Settings
from service.state import Behind
from tests.api_spec import evidence
from tests.worker.live import MODEL, TABLE, audit, digest
from vault import attest, keyring, lifecycle
from vault.keyring import UnusableKeyError

REPORT = canonical(evidence.report(evidence.row()))
OLD, NEW = keyring.make(), keyring.make()


@pytest.fixture
def job(client: FlaskClient) -> str:
    """An audit that waits."""
    for data in (MODEL, TABLE):
        client.put(f"/v1/blobs/{digest(data)}", data=data)
    return str(client.post("/v1/audits", json=audit()).json["id"])


def run(app: Flask, job: str) -> None:
    """What a worker does, after another one was lost."""
    behind: Behind = app.extensions["caveat"]
    lifecycle.claim(behind.database, job, worker="lost@host", lasts=timedelta(seconds=-1))
    lifecycle.expire(behind.database, attempts=3, backoff=timedelta())
    lease = lifecycle.claim(behind.database, job, worker="celery@host", lasts=timedelta(hours=1))
    assert lease is not None
    behind.blobs.put(io.BytesIO(REPORT), digest(REPORT))
    assert lifecycle.succeed(behind.database, lease, {"outcome": None}, digest(REPORT))


def give_keys(app: Flask, where: str) -> None:
    behind: Behind = app.extensions["caveat"]
    settings = behind.settings.model_copy(update={"signing_key": where})
    app.extensions["caveat"] = replace(behind, settings=settings)


def test_an_attestation_says_what_when_and_where(app: Flask, client: FlaskClient, job: str) -> None:
    give_keys(app, OLD.private)
    assert client.get(f"/v1/audits/{job}/attestation").status_code == 409
    run(app, job)
    answered = client.get(f"/v1/audits/{job}/attestation")
    assert answered.status_code == 200
    opened = attest.open_envelope(answered.data, keyring.public_keys(OLD.public))
    assert opened.digest("report") == digest(client.get(f"/v1/audits/{job}/report").data)
    ran = opened.statement.predicate.run
    assert (ran.audit, ran.where) == (job, "celery@host")
    assert ran.started_at <= ran.finished_at
    again = client.get(f"/v1/audits/{job}/attestation", headers={"If-None-Match": answered.headers["ETag"]})
    assert again.status_code == 304


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
        attest.open_envelope(after.data, keyring.public_keys(pair.public))


def test_a_service_without_a_key_says_so(app: Flask, client: FlaskClient, job: str) -> None:
    run(app, job)
    refused = client.get(f"/v1/audits/{job}/attestation")
    assert refused.status_code == 404
    assert "CAVEAT_SIGNING_KEY" in refused.json["remedy"]


def test_a_key_that_cannot_be_used_stops_the_service_before_it_serves(tmp_path: Path) -> None:
    with pytest.raises(UnusableKeyError, match="neither PEM nor"):
        create_app(Settings(database_url=f"sqlite:///{tmp_path / 'db'}", signing_key=str(tmp_path / "absent.pem")))


def test_a_key_is_never_shown() -> None:
    """Neither a traceback nor a log that prints the settings gives the key away."""
    assert OLD.private.splitlines()[1] not in repr(Settings(signing_key=OLD.private))
