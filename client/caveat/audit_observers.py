"""Who is told of each audit that runs from Python; apart from `auditing`, so that looking on costs no import."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from caveat.result import AuditResult

observers: list[Callable[[AuditResult], None]] = []
