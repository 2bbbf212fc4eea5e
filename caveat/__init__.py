"""Who calls: the command `caveat` and the Python client, which need neither Flask, Celery, ONNX nor NumPy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from caveat.client import AsyncClient, Client
    from caveat.problems import ProblemError

    __version__: str

__all__ = ["AsyncClient", "Client", "ProblemError", "__version__"]


def __getattr__(name: str) -> Any:
    """Imports what is asked for, when it is asked for: `caveat --help` waits for none of it."""
    match name:
        case "Client" | "AsyncClient":
            from caveat import client

            return getattr(client, name)
        case "ProblemError":
            from caveat.problems import ProblemError

            return ProblemError
        case "__version__":
            from importlib.metadata import version

            return version("caveat")
    raise AttributeError(f"module 'caveat' has no attribute '{name}'")
