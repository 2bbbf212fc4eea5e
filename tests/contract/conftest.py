"""The API over empty storage, without a broker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.api import api


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Flask]:
    with api(tmp_path, longest_wait=1) as app:
        yield app


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()
