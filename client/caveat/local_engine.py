"""The engine on this machine: whether it is installed, and a process that imports it in advance."""

from __future__ import annotations

from contextlib import suppress
from importlib.util import find_spec

ENGINE_MODULES = ("onnxruntime", "onnx", "numpy", "sklearn", "pandas", "PIL", "pydantic_settings")


def has_engine() -> bool:
    """Whether the engine's packages are installed."""
    return all(find_spec(module) for module in ENGINE_MODULES)


def start_engine() -> None:
    """Starts the process that will fork the job, so that it imports the engine while this one reads the audit.

    Settings that are wrong are reported where they are used.
    """
    if has_engine():
        from caveat_worker.jobs import forkserver
        from caveat_worker.jobs.environment import environment
        from caveat_worker.jobs.limits import LimitSettings

        with suppress(ValueError):
            forkserver.ready(environment(LimitSettings().limits.threads))
