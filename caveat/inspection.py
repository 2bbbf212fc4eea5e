"""What can be audited in a model, found out on a server or in a sandboxed child."""

from __future__ import annotations

from pathlib import Path

from api_spec.artifacts import Inspection
from caveat.problems import problem
from caveat.terminal import progress


def inspect(
    model: Path, server: str | None, key: str | None, output: str | None = None, index: int | None = None
) -> Inspection:
    """The inputs, outputs and layers of a model, for one class of one output."""
    if not model.is_file():
        what = "is a folder" if model.is_dir() else "does not exist"
        raise problem("no-such-file", 422, f"The model {model} {what}.", "Name an ONNX file.")
    with progress() as watch:
        if server is None:
            from caveat.local import inspect_here

            return inspect_here(model, output, index, watch)
        from caveat.remote import inspect_there

        return inspect_there(server, key, model, output, index, watch)
