"""Programs and packages that some tests need; without them the tests fail and say what installs them.

No test is skipped for lack of them, so a green `make test-all` has run everything.
"""

from __future__ import annotations

import shutil
from importlib.metadata import Distribution, PackageNotFoundError, distribution

import pytest


def program(*names: str) -> str:
    """The path of a program under the first of its names that is found."""
    found = next((path for name in names if (path := shutil.which(name))), None)
    return found or pytest.fail(f"{names[0]} is missing: `make programs`, as root, installs it.", pytrace=False)


def package(name: str, target: str = "test-all") -> Distribution:
    """A package that only some tests need; a target of the Makefile installs it."""
    try:
        return distribution(name)
    except PackageNotFoundError:
        pytest.fail(f"{name} is missing: `make {target}` installs it.", pytrace=False)
