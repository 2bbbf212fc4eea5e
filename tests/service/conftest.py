"""The API over empty storage, from the contract's tests."""

from __future__ import annotations

from tests.contract.conftest import app, client  # noqa: F401 - fixtures
