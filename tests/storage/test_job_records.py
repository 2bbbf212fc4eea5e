"""Migrations, ownership of bytes, and the registration of workers."""

from __future__ import annotations

import json
import multiprocessing
import secrets
from datetime import timedelta
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, make_url, select, text

from caveat_storage import blob_registry, job_records
from caveat_storage.job_records import MIGRATIONS, Database, migrate
from caveat_storage.tables import metadata, stored, uses, workers


def test_the_migrations_make_the_tables_that_the_code_knows(database: Database) -> None:
    with database.reading() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
@pytest.mark.parametrize("released", ["0001", "0002"])
def test_a_database_of_every_earlier_version_is_brought_up_with_what_it_holds(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, released: str
) -> None:
    """`released` is a revision in use; later ones were released together in one version."""
    url = f"sqlite:///{tmp_path / 'old.db'}" if kind == "sqlite" else fresh(request.getfixturevalue("postgresql"))
    database = Database(url)
    with database.writing() as connection:
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        config.attributes["connection"] = connection
        command.upgrade(config, released)
        mine, theirs, report = (f"sha256:{letter * 64}" for letter in "abc")
        asked = json.dumps({"model": mine, "examples": {"x": {"arrays": theirs}}, "digest": "sha256:short"})
        moment = "2026-01-02 03:04:05+00:00"
        for digest, tenant in ((mine, "acme"), (theirs, "other")):
            connection.execute(
                text("INSERT INTO blobs VALUES (:t, :d, 5, :at)"), {"t": tenant, "d": digest, "at": moment}
            )
        connection.execute(
            text(
                "INSERT INTO jobs (id, tenant, kind, payload, state, stage, progress, attempts, report_digest, "
                "cancel_requested, release_requested, available_at, created_at, updated_at) VALUES "
                "(:id, 'acme', 'audit', :asked, 'succeeded', 'done', 1, 1, :report, false, false, :at, :at, :at)"
            ),
            {"id": "0" * 26, "asked": asked, "report": report, "at": moment},
        )
        connection.execute(
            text("INSERT INTO idempotency VALUES ('acme', 'k', 'f', :id, :at)"), {"id": "0" * 26, "at": moment}
        )
    migrate(url)
    migrate(url)
    with database.reading() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
        assert set(connection.scalars(select(stored.c.digest))) == {mine, theirs, report}
        assert set(connection.scalars(select(uses.c.digest))) == {mine, report}  # not the bytes of another tenant
    assert job_records.owned(database, "acme", [mine, theirs]) == {mine: 5}
    assert job_records.idempotent_job(database, "acme", "k") == ("f", "0" * 26)
    (kept,) = job_records.page(database, "acme", "audit", limit=2)
    assert (kept.report_digest, kept.queue) == (report, "default")
    database.close()


def fresh(url: str) -> str:
    """Another database on the same server, empty."""
    name = f"old_{secrets.token_hex(8)}"
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return make_url(url).set(database=name).render_as_string(hide_password=False)


def test_processes_that_start_together_migrate_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'caveat.db'}"
    spawn = multiprocessing.get_context("spawn")
    together = [spawn.Process(target=migrate, args=(url,)) for _ in range(3)]
    for process in together:
        process.start()
    for process in together:
        process.join()
    assert [process.exitcode for process in together] == [0, 0, 0]


def test_bytes_belong_to_who_put_them_in(database: Database) -> None:
    digest = "sha256:" + "a" * 64
    blob_registry.touch(database, digest)
    assert job_records.own(database, "acme", digest, 5)
    assert not job_records.own(database, "acme", digest, 5)
    assert job_records.owned(database, "acme", [digest, "sha256:" + "b" * 64, "path.csv"]) == {digest: 5}
    assert job_records.owned(database, "other", [digest]) == {}
    assert job_records.own(database, "other", digest, 5)


def test_workers_come_and_go(database: Database) -> None:
    job_records.record_worker(database, "one", [])
    job_records.record_worker(database, "one", ["landlock"])
    job_records.record_worker(database, "two", [])
    assert job_records.alive(database, within=timedelta(minutes=1)) == {"one": ["landlock"], "two": []}
    assert job_records.alive(database, within=timedelta(0)) == {}
    job_records.remove_worker(database, "one")
    assert list(job_records.alive(database, within=timedelta(minutes=1))) == ["two"]


def test_ids_sort_by_the_time_of_their_making() -> None:
    made = [job_records.new_id() for _ in range(100)]
    assert len(set(made)) == 100
    assert [one[:10] for one in made] == sorted(one[:10] for one in made)
    assert all(len(one) == 26 for one in made)


def test_the_rows_of_dead_workers_go(database: Database) -> None:
    for name, ago in (("dead", timedelta(hours=2)), ("late", timedelta(minutes=5))):
        job_records.record_worker(database, name, [])
        with database.writing() as connection:
            connection.execute(workers.update().where(workers.c.name == name).values(seen_at=job_records.now() - ago))
    job_records.record_worker(database, "alive", [])
    assert job_records.alive(database, within=timedelta(days=1)).keys() == {"late", "alive"}
