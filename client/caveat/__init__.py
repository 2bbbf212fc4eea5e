"""The command `caveat`, the Python client, and audits from Python on this machine.

Importing it imports nothing heavy; only `audit` needs the engine's packages, when it is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from caveat.async_client import AsyncClient
    from caveat.auditing import audit, edit, monitor
    from caveat.client import Client
    from caveat.maps import Maps
    from caveat.problems import ProblemError
    from caveat.result import AuditResult

    __version__: str

__all__ = ["AsyncClient", "AuditResult", "Client", "Maps", "ProblemError", "__version__", "audit", "edit", "monitor"]


def __getattr__(name: str) -> Any:
    """Imports lazily, so that `caveat --help` starts quickly."""
    match name:
        case "AsyncClient":
            from caveat.async_client import AsyncClient

            return AsyncClient
        case "AuditResult":
            from caveat.result import AuditResult

            return AuditResult
        case "audit" | "edit" | "monitor":
            from caveat import auditing

            return getattr(auditing, name)
        case "Client":
            from caveat.client import Client

            return Client
        case "Maps":
            from caveat.maps import Maps

            return Maps
        case "ProblemError":
            from caveat.problems import ProblemError

            return ProblemError
        case "__version__":
            from importlib.metadata import version

            return version("caveat")
    raise AttributeError(f"module 'caveat' has no attribute '{name}'")
