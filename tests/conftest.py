"""Configuration of all tests."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    """Lets Ctrl-C reach the programs that tests start, also where tests run in the background of a script.

    A shell without job control ignores SIGINT for what it puts into the background, and children inherit that.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
