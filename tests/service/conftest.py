"""The API over a fresh vault, as the contract's tests have it."""

from __future__ import annotations

from tests.contract.conftest import app, client  # noqa: F401 - fixtures
