"""Deleted data is gone from every table and from the log; other data stays, and the log remains valid."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from sqlalchemy import text
from sqlalchemy.exc import TimeoutError as NoConnectionError

from caveat.cli import cli
from caveat_service import retention as expiry
from caveat_service.settings import Settings as ServiceSettings
from caveat_storage import audit_log, blob_registry, hash_chain, job_records, job_state, retention, webhooks
from caveat_storage.blobs import Blobs
from caveat_storage.job_records import Database, Key, migrate
from caveat_storage.retention import Forgotten
from caveat_storage.tables import metadata
from caveat_worker.jobs.reaper import collect_garbage
from caveat_worker.jobs.settings import Settings
from tests.storage.test_blob_registry import DAY, NOTHING, named, put, submit, succeed


@pytest.fixture
def blobs(database: Database, tmp_path: Path) -> Blobs:
    return blob_registry.opened(str(tmp_path / "blobs"), database)


def age(database: Database, by: timedelta, tenant: str = "acme") -> None:
    """Makes all data of a tenant older."""
    with database.writing() as connection:
        for column, table in (("updated_at", "jobs"), ("created_at", "blobs")):
            then = {"then": job_records.now() - by, "tenant": tenant}
            connection.execute(text(f"UPDATE {table} SET {column} = :then WHERE tenant = :tenant"), then)


def read_log(database: Database, tenant: str = "acme") -> hash_chain.Account:
    return hash_chain.account(audit_log.export(database, tenant))


def forget(database: Database, before: timedelta = DAY) -> Forgotten:
    return retention.forget(database, before=job_records.now() - before, by="retention")


def test_what_ended_long_ago_goes_and_what_newer_jobs_read_stays(database: Database, blobs: Blobs) -> None:
    shared, alone, untouched = (put(database, blobs, data) for data in (b"shared", b"alone", b"untouched"))
    theirs = put(database, blobs, b"shared", "other")
    old = submit(database, shared, alone)
    report = succeed(database, blobs, old, b"report")
    waits = submit(database, shared)
    submit(database, theirs, tenant="other")
    assert forget(database) == Forgotten(0, 0, 0)
    age(database, 2 * DAY)
    fresh = submit(database, shared)
    assert forget(database) == Forgotten(1, 2, 1)
    assert [record.id for record in job_records.page(database, "acme", "audit", limit=9)] == [fresh, waits]
    assert job_records.history(database, "acme", old) == []
    assert set(job_records.owned(database, "acme", [shared, alone, untouched])) == {shared}
    assert named(database) == {shared}
    assert blob_registry.collect(database, blobs, unused_for=NOTHING).removed == 3
    assert not blobs.exists(report)
    assert forget(database) == Forgotten(0, 0, 1)
    account = read_log(database)
    assert (account.steps["erase"], account.steps["drop_blobs"], account.erased) == (1, 1, 2)
    assert read_log(database, "other").erased == 0


def test_nothing_that_was_said_is_left_anywhere(database: Database, blobs: Blobs) -> None:
    job_id = job_state.submit(
        database, "acme", "audit", {"about": "hush"}, name="hush", by="key:hush", key=Key("hush", "f"),
        sources=[put(database, blobs, b"hush")],
    ).record.id  # fmt: skip
    succeed(database, blobs, job_id, b"hush too")
    assert "hush" in everything(database)
    assert forget(database, NOTHING).jobs == 1
    assert "hush" not in everything(database)
    again = job_state.submit(database, "acme", "audit", {}, key=Key("hush", "f"))
    assert again.replayed is False
    assert read_log(database).erased == 2


def subscribe(database: Database, tenant: str = "acme") -> str:
    return webhooks.register(database, tenant, "https://hush.example/hook", ["audit.cancelled"], by="key:1")[0].id


def test_a_tenants_webhooks_go_when_all_of_it_does_and_no_sooner(database: Database) -> None:
    for _ in range(2):
        webhooks.test(database, "acme", subscribe(database))
    webhooks.remove(database, "acme", subscribe(database))
    theirs = subscribe(database, "other")
    webhooks.test(database, "other", theirs)
    job_state.cancel(database, "acme", "audit", submit(database))
    assert forget(database, NOTHING).webhooks == 0
    assert len(webhooks.registered(database, "acme")) == 2
    assert webhooks.count_deliveries(database) == {"pending": 3}
    assert retention.forget_tenant(database, "acme", by="operator") == Forgotten(0, 0, 0, webhooks=2)
    assert webhooks.registered(database, "acme") == []
    assert webhooks.count_deliveries(database) == {"pending": 1}
    assert [one.id for one in webhooks.registered(database, "other")] == [theirs]
    webhooks.remove(database, "other", theirs)
    assert retention.forget_tenant(database, "other", by="operator").webhooks == 0
    assert "hush" not in everything(database)
    account = read_log(database)
    assert (account.steps["create_webhook"], account.steps["delete_webhook"], account.steps["erase"]) == (3, 1, 2)
    assert account.erased == 2 + 4
    length = account.length
    retention.forget_tenant(database, "acme", by="operator")
    assert read_log(database).length == length


def everything(database: Database) -> str:
    with database.reading() as connection:
        tables = metadata.sorted_tables
        return "".join(str(connection.execute(text(f"SELECT * FROM {table.name}")).all()) for table in tables)


def test_many_jobs_go_in_batches_and_steps_stay_counted(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "BATCH", 3)
    for _ in range(7):
        job_state.cancel(database, "acme", "audit", submit(database))
    before = job_records.count_events(database)
    assert before == {"submit": 7, "cancel": 7}
    assert forget(database, NOTHING).jobs == 7
    assert job_records.count_events(database) == before
    job_state.cancel(database, "acme", "audit", submit(database))
    assert forget(database, NOTHING).jobs == 1
    assert job_records.count_events(database) == {"submit": 8, "cancel": 8}
    assert (read_log(database).steps["erase"], read_log(database).erased) == (4, 16)


def test_the_api_deletes_what_expired_and_a_worker_its_bytes_as_they_are_told(
    database: Database, blobs: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expiry.threading, "Thread", pytest.fail)
    expiry.begin(database, ServiceSettings(retention_days=1, gc_interval_hours=0))
    expiry.begin(database, ServiceSettings())
    job_state.cancel(database, "acme", "audit", submit(database, put(database, blobs, b"old")))
    expiry.delete_expired(database, ServiceSettings(retention_days=1))
    age(database, 10 * DAY)
    expiry.delete_expired(database, ServiceSettings(retention_days=1))  # too soon after the last time
    collect_garbage(database, blobs, Settings(gc_interval_hours=0))
    assert len(job_records.page(database, "acme", "audit", limit=9)) == 1
    with database.writing() as connection:
        connection.execute(text("DELETE FROM chores"))
        connection.execute(text("UPDATE stored SET touched_at = :then"), {"then": job_records.now() - 2 * DAY})
    collect_garbage(database, blobs, Settings())
    assert len(list(blobs.digests())) == 1
    expiry.delete_expired(database, ServiceSettings(retention_days=1))
    assert job_records.page(database, "acme", "audit", limit=9) == []
    collect_garbage(database, blobs, Settings())  # too soon after the last collection
    assert len(list(blobs.digests())) == 1
    with database.writing() as connection:
        connection.execute(text("DELETE FROM chores"))
    collect_garbage(database, blobs, Settings())
    assert list(blobs.digests()) == []


def test_the_deletion_of_what_expired_outlives_a_database_without_a_free_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    faults = [NoConnectionError(), KeyboardInterrupt()]

    def fail(*_: object) -> None:
        raise faults.pop(0)

    monkeypatch.setattr(expiry, "delete_expired", fail)
    monkeypatch.setattr(expiry, "LOOK_SECONDS", 0)
    with pytest.raises(KeyboardInterrupt):
        expiry._delete_forever(None, ServiceSettings())  # type: ignore[arg-type]


def test_an_operator_erases_a_tenant_and_collects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "ada")
    url, place = f"sqlite:///{tmp_path / 'caveat.db'}", str(tmp_path / "blobs")
    migrate(url)
    database = Database(url)
    blobs = blob_registry.opened(place, database)
    job_state.cancel(database, "acme", "audit", submit(database, put(database, blobs, b"mine")))
    submit(database, put(database, blobs, b"theirs", "other"), tenant="other")
    waits = submit(database)
    subscribe(database)

    def invoke(*arguments: str) -> str:
        done = CliRunner().invoke(cli, [*arguments, "--database-url", url], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    assert "Erased 0 jobs" in invoke("erase", "--tenant", "acme", "--older-than-days", "1")
    assert len(webhooks.registered(database, "acme")) == 1
    output = invoke("erase", "--tenant", "acme")
    assert "Erased 1 jobs, 0 studies and 1 webhooks; 1 uploads" in output
    assert webhooks.registered(database, "acme") == []
    assert "1 jobs are unfinished and were kept" in output
    assert "Deleted 0 blobs" in invoke("collect", "--blobs-url", place)
    assert "Deleted 1 blobs" in invoke("collect", "--blobs-url", place, "--grace-hours", "0")
    assert [record.id for record in job_records.page(database, "acme", "audit", limit=9)] == [waits]
    last = json.loads(list(audit_log.export(database, "acme"))[-1])
    assert (last["what"], last["payload"]["by"]) == ("drop_blobs", "operator:ada")
    assert read_log(database).erased == 3
    database.close()
