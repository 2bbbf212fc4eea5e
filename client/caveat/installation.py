"""What this installation can do: which extras it has, and whether its system runs audits.

Imports nothing until something is missing, because a command asks first of all whether it may start the engine.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec

ENGINE_MODULES = (
    "fsspec",
    "numpy",
    "onnx",
    "onnx_ir",
    "onnxruntime",
    "opentelemetry",
    "PIL",
    "pydantic_settings",
    "scipy",
    "structlog",
    "threadpoolctl",
)
"""What every audit on this machine needs (the extra `images`), by the names under which it is imported."""
READING = {
    "table": ("A table", ("pandas", "pyarrow"), "tables"),
    "text": ("A text", ("pyarrow", "tokenizers"), "texts"),
}
"""Kind of examples → what it is called, the packages that read it, and the extra that has them."""


def missing(modules: Sequence[str]) -> list[str]:
    """Those of `modules` that are not installed."""
    return [module for module in modules if find_spec(module) is None]


def can_audit() -> bool:
    """Whether audits run on this machine."""
    return sys.platform == "linux" and not missing(ENGINE_MODULES)


def require(subject: str, modules: Sequence[str], extra: str) -> None:
    """Raises a `ProblemError` that names the packages that `subject` lacks, and the extra that has them."""
    if absent := missing(modules):
        from caveat.problems import problem

        raise problem(
            "not-installed",
            503,
            f"{subject} needs {', '.join(absent)}.",
            f"Install it with `pip install 'caveat[{extra}]'`.",
        )


def require_engine() -> None:
    """Raises a `ProblemError` where the engine's packages are not installed."""
    if missing(ENGINE_MODULES):
        from caveat.problems import problem

        raise problem(
            "no-engine",
            503,
            "Only the client is installed, and an audit on this machine needs the engine.",
            "Set $CAVEAT_URL to a Caveat service, or run `pip install 'caveat[local]'`.",
        )


def require_linux(subject: str) -> None:
    """Raises a `ProblemError` on other systems, which cannot confine what reads a model."""
    if sys.platform != "linux":
        from caveat.problems import problem

        raise problem(
            "not-linux",
            503,
            f"{subject} needs Linux, whose kernel confines the process that reads the model.",
            "Set $CAVEAT_URL to a Caveat service, or run this in a Linux container or WSL 2.",
        )
