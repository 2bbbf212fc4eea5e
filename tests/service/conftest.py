"""The API over a fresh vault, with nobody at the broker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

from service.state import EXTENSION
from tests.contract.conftest import serve


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Flask]:
    app = serve(tmp_path)
    app.testing = True
    yield app
    app.extensions[EXTENSION].database.close()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()
