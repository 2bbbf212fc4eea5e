"""What is forgotten is gone, from every table and from the log; what is not stays, and the log's chain holds."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from sqlalchemy import text

from caveat.cli import cli
from tests.vault.test_storage import DAY, NOTHING, named, put, submit, succeed
from vault import chain, ledger, lifecycle, records, retention, storage, webhooks
from vault.blobs import Blobs
from vault.records import Database, Key, migrate
from vault.retention import Forgotten
from vault.tables import metadata
from worker.reaper import tidy
from worker.settings import Settings


@pytest.fixture
def blobs(database: Database, tmp_path: Path) -> Blobs:
    return storage.opened(str(tmp_path / "blobs"), database)


def age(database: Database, by: timedelta, tenant: str = "acme") -> None:
    """Makes everything of a tenant older."""
    with database.writing() as connection:
        for column, table in (("updated_at", "jobs"), ("created_at", "blobs")):
            then = {"then": records.now() - by, "tenant": tenant}
            connection.execute(text(f"UPDATE {table} SET {column} = :then WHERE tenant = :tenant"), then)


def told(database: Database, tenant: str = "acme") -> ledger.Account:
    return ledger.account(chain.export(database, tenant))


def forget(database: Database, before: timedelta = DAY) -> Forgotten:
    return retention.forget(database, before=records.now() - before, by="retention")


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
    assert [record.id for record in records.page(database, "acme", "audit", limit=9)] == [fresh, waits]
    assert records.history(database, "acme", old) == []
    assert set(records.owned(database, "acme", [shared, alone, untouched])) == {shared}
    assert named(database) == {shared}
    assert storage.collect(database, blobs, unused_for=NOTHING).removed == 3
    assert not blobs.exists(report)
    assert forget(database) == Forgotten(0, 0, 1)
    account = told(database)
    assert (account.steps["erase"], account.steps["drop_blobs"], account.erased) == (1, 1, 2)
    assert told(database, "other").erased == 0


def test_nothing_that_was_said_is_left_anywhere(database: Database, blobs: Blobs) -> None:
    job_id = lifecycle.submit(
        database, "acme", "audit", {"about": "hush"}, name="hush", by="key:hush", key=Key("hush", "f"),
        sources=[put(database, blobs, b"hush")],
    ).record.id  # fmt: skip
    succeed(database, blobs, job_id, b"hush too")
    assert "hush" in everything(database)
    assert forget(database, NOTHING).jobs == 1
    assert "hush" not in everything(database)
    again = lifecycle.submit(database, "acme", "audit", {}, key=Key("hush", "f"))
    assert again.replayed is False
    assert told(database).erased == 2


def subscribe(database: Database, tenant: str = "acme") -> str:
    return webhooks.register(database, tenant, "https://hush.example/hook", ["audit.cancelled"], by="key:1")[0].id


def test_a_tenants_webhooks_go_when_all_of_it_does_and_no_sooner(database: Database) -> None:
    for _ in range(2):
        webhooks.test(database, "acme", subscribe(database))
    webhooks.remove(database, "acme", subscribe(database))
    theirs = subscribe(database, "other")
    webhooks.test(database, "other", theirs)
    lifecycle.cancel(database, "acme", "audit", submit(database))
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
    account = told(database)
    assert (account.steps["create_webhook"], account.steps["delete_webhook"], account.steps["erase"]) == (3, 1, 2)
    assert account.erased == 2 + 4
    length = account.length
    retention.forget_tenant(database, "acme", by="operator")
    assert told(database).length == length


def everything(database: Database) -> str:
    with database.reading() as connection:
        tables = metadata.sorted_tables
        return "".join(str(connection.execute(text(f"SELECT * FROM {table.name}")).all()) for table in tables)


def test_many_jobs_go_in_batches_and_steps_stay_counted(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "BATCH", 3)
    for _ in range(7):
        lifecycle.cancel(database, "acme", "audit", submit(database))
    before = records.count_events(database)
    assert before == {"submit": 7, "cancel": 7}
    assert forget(database, NOTHING).jobs == 7
    assert records.count_events(database) == before
    lifecycle.cancel(database, "acme", "audit", submit(database))
    assert forget(database, NOTHING).jobs == 1
    assert records.count_events(database) == {"submit": 8, "cancel": 8}
    assert (told(database).steps["erase"], told(database).erased) == (4, 16)


def test_a_worker_tidies_as_it_is_told(database: Database, blobs: Blobs) -> None:
    lifecycle.cancel(database, "acme", "audit", submit(database, put(database, blobs, b"old")))
    age(database, 10 * DAY)
    tidy(database, blobs, Settings(tidy_hours=0, retention_days=1))
    tidy(database, blobs, Settings())
    assert len(records.page(database, "acme", "audit", limit=9)) == 1
    tidy(database, blobs, Settings(retention_days=1))  # not again so soon
    assert len(records.page(database, "acme", "audit", limit=9)) == 1
    with database.writing() as connection:
        connection.execute(text("DELETE FROM chores"))
        connection.execute(text("UPDATE stored SET touched_at = :then"), {"then": records.now() - 2 * DAY})
    tidy(database, blobs, Settings(retention_days=1))
    assert records.page(database, "acme", "audit", limit=9) == []
    assert list(blobs.digests()) == []


def test_an_operator_erases_a_tenant_and_collects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "ada")
    url, place = f"sqlite:///{tmp_path / 'caveat.db'}", str(tmp_path / "blobs")
    migrate(url)
    database = Database(url)
    blobs = storage.opened(place, database)
    lifecycle.cancel(database, "acme", "audit", submit(database, put(database, blobs, b"mine")))
    submit(database, put(database, blobs, b"theirs", "other"), tenant="other")
    waits = submit(database)
    subscribe(database)

    def invoke(*arguments: str) -> str:
        done = CliRunner().invoke(cli, [*arguments, "--database-url", url], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    assert "Erased 0 jobs" in invoke("erase", "--tenant", "acme", "--older-than-days", "1")
    assert len(webhooks.registered(database, "acme")) == 1
    told_ = invoke("erase", "--tenant", "acme")
    assert "Erased 1 jobs and 1 webhooks; 1 uploads" in told_
    assert webhooks.registered(database, "acme") == []
    assert "1 jobs have not ended" in told_
    assert "Deleted 0 blobs" in invoke("collect", "--blobs-url", place)
    assert "Deleted 1 blobs" in invoke("collect", "--blobs-url", place, "--unused-hours", "0")
    assert [record.id for record in records.page(database, "acme", "audit", limit=9)] == [waits]
    last = json.loads(list(chain.export(database, "acme"))[-1])
    assert (last["what"], last["payload"]["by"]) == ("drop_blobs", "operator:ada")
    assert told(database).erased == 3
    database.close()
