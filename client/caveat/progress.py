"""How progress is reported: one callback type for the engine, the client and the terminal."""

from __future__ import annotations

from collections.abc import Callable

ProgressCallback = Callable[[str, float], None]
"""Called with the current stage and the share of the work that is done, from 0 to 1."""
