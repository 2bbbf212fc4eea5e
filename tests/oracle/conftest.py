"""torch is the oracle here, and all is slow: only who asks for slow tests has to have it."""

from __future__ import annotations

from importlib.util import find_spec

import pytest


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """Where torch is missing, quick tests do without these files; slow ones do not pass without them."""
    if find_spec("torch") is not None:
        return None
    if "not slow" in config.getoption("markexpr"):
        return True
    raise pytest.UsageError("torch, the oracle, is missing: `make test-all` installs it.")
