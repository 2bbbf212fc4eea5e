"""Migrations, ownership of bytes, and workers that greet."""

from __future__ import annotations

import multiprocessing
from datetime import timedelta
from pathlib import Path

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from vault import records, storage
from vault.records import Database, migrate
from vault.tables import metadata


def test_the_migrations_make_the_tables_that_the_code_knows(database: Database) -> None:
    with database.reading() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


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
    storage.touch(database, digest)
    assert records.own(database, "acme", digest, 5)
    assert not records.own(database, "acme", digest, 5)
    assert records.owned(database, "acme", [digest, "sha256:" + "b" * 64, "path.csv"]) == {digest: 5}
    assert records.owned(database, "other", [digest]) == {}
    assert records.own(database, "other", digest, 5)


def test_workers_come_and_go(database: Database) -> None:
    records.greet(database, "one", [])
    records.greet(database, "one", ["landlock"])
    records.greet(database, "two", [])
    assert records.alive(database, within=timedelta(minutes=1)) == {"one": ["landlock"], "two": []}
    assert records.alive(database, within=timedelta(0)) == {}
    records.part(database, "one")
    assert list(records.alive(database, within=timedelta(minutes=1))) == ["two"]


def test_ids_sort_by_the_time_of_their_making() -> None:
    made = [records.new_id() for _ in range(100)]
    assert len(set(made)) == 100
    assert [one[:10] for one in made] == sorted(one[:10] for one in made)
    assert all(len(one) == 26 for one in made)
