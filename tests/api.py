"""The API over storage in a folder, without a broker unless its settings name one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flask import Flask

from caveat_service.app import create_app
from caveat_service.settings import Settings
from caveat_service.state import EXTENSION


@contextmanager
def api(folder: Path, **settings: Any) -> Iterator[Flask]:
    """The API with these settings."""
    places = {
        "database_url": f"sqlite:///{folder / 'caveat.db'}",
        "blobs_url": str(folder / "blobs"),
        "broker_url": "redis://127.0.0.1:1/0",
    }
    app = create_app(Settings(**places | settings))
    app.testing = True
    yield app
    app.extensions[EXTENSION].database.close()
