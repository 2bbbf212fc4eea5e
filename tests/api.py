"""The API over a vault in a folder, with nobody at the broker unless its settings name somebody."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flask import Flask

from service.app import create_app
from service.settings import Settings
from service.state import EXTENSION


@contextmanager
def api(folder: Path, **settings: Any) -> Iterator[Flask]:
    """The API with these settings."""
    places = {"database_url": f"sqlite:///{folder / 'caveat.db'}", "blobs_url": str(folder / "blobs")}
    app = create_app(Settings(**places, **{"broker_url": "redis://127.0.0.1:1/0", **settings}))
    app.testing = True
    yield app
    app.extensions[EXTENSION].database.close()
