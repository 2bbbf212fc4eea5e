"""The command `caveat` and the Python client; neither needs Flask, Celery, ONNX or NumPy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from caveat.async_client import AsyncClient
    from caveat.client import Client
    from caveat.problems import ProblemError

    __version__: str

__all__ = ["AsyncClient", "Client", "ProblemError", "__version__"]


def __getattr__(name: str) -> Any:
    """Imports lazily, so that `caveat --help` starts quickly."""
    match name:
        case "AsyncClient":
            from caveat.async_client import AsyncClient

            return AsyncClient
        case "Client":
            from caveat.client import Client

            return Client
        case "ProblemError":
            from caveat.problems import ProblemError

            return ProblemError
        case "__version__":
            from importlib.metadata import version

            return version("caveat")
    raise AttributeError(f"module 'caveat' has no attribute '{name}'")
