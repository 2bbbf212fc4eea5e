"""Fixtures that run tests over SQLite and over a real PostgreSQL."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from moto.server import ThreadedMotoServer
from sqlalchemy import text

from caveat_storage.job_records import Database, migrate
from caveat_storage.tables import metadata
from tests.worker import live


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    with live.postgresql() as url:
        yield url


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A migrated database of each kind."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('sqlite') / 'caveat.db'}"
    else:
        url = request.getfixturevalue("postgresql")
    migrate(url)
    return url


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    """An empty database."""
    database = Database(url)
    empty(database)
    yield database
    database.close()


def empty(database: Database) -> None:
    with database.writing() as connection:
        for table in reversed(metadata.sorted_tables):
            connection.execute(text(f"DELETE FROM {table.name}"))


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """A real S3 server; yields its URL."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    yield f"http://127.0.0.1:{server.get_host_and_port()[1]}"
    server.stop()


@pytest.fixture(params=["file", "memory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of a blob store: a folder, memory, or a bucket of its own."""
    if request.param != "s3":
        return (
            str(tmp_path / "blobs") if request.param == "file" else f"memory://{tmp_path.name}-{secrets.token_hex(8)}"
        )
    settings = {"ENDPOINT_URL": request.getfixturevalue("s3"), "ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "x"}
    for name, value in {**settings, "DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    bucket = f"caveat-{secrets.token_hex(8)}"
    fsspec.filesystem("s3").mkdir(bucket)
    return f"s3://{bucket}/blobs"
