"""The API over a fresh vault, with nobody at the broker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

from service.app import create_app
from service.settings import Settings
from service.state import EXTENSION


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Flask]:
    app = serve(tmp_path)
    app.testing = True
    yield app
    app.extensions[EXTENSION].database.close()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


def serve(folder: Path) -> Flask:
    """The API over a vault in `folder`."""
    return create_app(
        Settings(
            database_url=f"sqlite:///{folder / 'caveat.db'}",
            blobs_url=str(folder / "blobs"),
            broker_url="redis://127.0.0.1:1/0",
            longest_wait=1,
        )
    )
