"""The outcome of a job is stored, or the job says why its store did not take it."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import fsspec
import pytest

from caveat_storage import job_records, job_state
from caveat_storage.blobs import Blobs
from caveat_storage.job_records import Database, migrate
from caveat_storage.job_state import Lease
from caveat_worker.jobs import tasks
from caveat_worker.jobs.settings import Settings
from caveat_worker.jobs.supervisor import Finished
from tests.serving import Answer, serving
from tests.worker.live import audit

DENIED = b'<?xml version="1.0"?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>'
REPORT = Finished(json.dumps({"verdict": {"outcome": "pass"}}).encode())


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    url = f"sqlite:///{tmp_path / 'caveat.db'}"
    migrate(url)
    database = Database(url)
    monkeypatch.setattr(tasks, "database", lambda: database)
    monkeypatch.setattr(tasks, "settings", lambda: Settings(attempts=1))
    for name, seconds in {"STORE_SECONDS": 0.2, "LOOK_SECONDS": 0.02, "DATABASE_AWAY_SECONDS": 10.0}.items():
        monkeypatch.setattr(tasks, name, seconds)
    yield database
    database.close()


def outcome(database: Database, blobs: Blobs, monkeypatch: pytest.MonkeyPatch) -> str:
    """Code of the problem of an audit whose report cannot be stored."""
    monkeypatch.setattr(tasks, "blobs", lambda: blobs)
    job = job_state.submit(database, "acme", "audit", audit()).record.id
    lease = job_state.claim(database, job, worker="one", lasts=timedelta(minutes=1))
    assert isinstance(lease, Lease)
    began = time.monotonic()
    tasks.store_until(REPORT, tasks.LeaseHolder(database, lease), {})
    assert time.monotonic() - began < 9
    record = job_records.get(database, "acme", "audit", job)
    assert record is not None
    assert record.problem is not None
    return str(record.problem["type"]).rpartition(":")[2]


def test_a_bucket_that_denies_access_is_the_cause_and_not_asked_for_ten_minutes(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(lambda _: Answer(403, {"Content-Type": "application/xml"}, DENIED)) as port:
        keys = {"ENDPOINT_URL": f"http://127.0.0.1:{port}", "ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "x"}
        for name, value in {**keys, "DEFAULT_REGION": "us-east-1"}.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        blobs = Blobs.at("s3://caveat/blobs")
        assert outcome(database, blobs, monkeypatch) == "blobs-denied"
        assert blobs.fault() == "blobs-denied"


def test_a_store_with_an_error_of_its_own_is_away(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such an error left the job to its lease, and nobody said why."""

    class EndpointConnectionError(Exception):
        """A bucket's library has errors that are no OSError."""

    def put(*_: object) -> int:
        raise EndpointConnectionError

    monkeypatch.setattr(Blobs, "put", put)
    assert outcome(database, Blobs.at(str(tmp_path / "blobs")), monkeypatch) == "blobs-away"


def test_a_store_that_recovers_has_the_report(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = Blobs.put, list[str]()

    def put(blobs: Blobs, stream: io.BytesIO, digest: str) -> int:
        calls.append(digest)
        if len(calls) < 3:
            raise ConnectionResetError
        return real(blobs, stream, digest)

    monkeypatch.setattr(Blobs, "put", put)
    monkeypatch.setattr(tasks, "blobs", lambda: tasks.blob_registry.opened(str(tmp_path / "blobs"), database))
    job = job_state.submit(database, "acme", "audit", audit()).record.id
    lease = job_state.claim(database, job, worker="one", lasts=timedelta(minutes=1))
    assert lease is not None
    assert tasks.store_until(REPORT, tasks.LeaseHolder(database, lease), {}) == REPORT
    record = job_records.get(database, "acme", "audit", job)
    assert record is not None
    assert (record.state, record.report_digest, len(calls)) == ("succeeded", calls[0], 3)
