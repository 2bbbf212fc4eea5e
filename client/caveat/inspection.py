"""Inspects a model, on a service or in a sandboxed child process: which layers can be audited?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from caveat.problems import problem
from caveat.terminal import progress
from caveat_spec.artifacts import Inspection


def inspect(
    model: Path,
    server: str | None,
    key: str | None,
    output: str | None = None,
    index: int | None = None,
    constants: Mapping[str, float] | None = None,
) -> Inspection:
    """The inputs, outputs and layers of a model, for class `index` of one output; `constants` fill inputs by name."""
    numbers = constants or {}
    if not model.is_file():
        what = "is a folder" if model.is_dir() else "does not exist"
        raise problem("no-such-file", 422, f"The model {model} {what}.", "Name an ONNX file.")
    with progress() as on_progress:
        if server is None:
            from caveat import local

            return local.inspect_model(model, output, index, numbers, on_progress)
        from caveat import remote

        return remote.inspect_model(server, key, model, output, index, numbers, on_progress)
