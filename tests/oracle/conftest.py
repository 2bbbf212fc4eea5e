"""torch is the oracle of these tests; all of them are slow, so the quick tests do not need torch."""

from __future__ import annotations

from importlib.util import find_spec

import pytest


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """Without torch, skips these files in a quick run and fails a slow run."""
    if find_spec("torch") is not None:
        return None
    if "not slow" in config.getoption("markexpr"):
        return True
    raise pytest.UsageError("torch, the oracle, is missing: `make test-all` installs it.")
