"""An audit on this machine, in the sandboxed child that a worker would start: the same bytes come back."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from api_spec.artifacts import Inspection, NewModel
from caveat.auditfile import Resolved
from caveat.pack import chunks, digest
from caveat.problems import ProblemError, problem
from caveat.terminal import Watch, show_note

if TYPE_CHECKING:
    from api_spec.jobs import JobKind
    from vault.blobs import Writable

ENGINE = ("onnxruntime", "onnx", "numpy", "sklearn", "pandas", "PIL", "pydantic_settings")


def run_here(resolved: Resolved, watch: Watch) -> bytes:
    """The canonical report of an audit that ran in a sandboxed child."""
    absent = [source for source in resolved.audit.sources().values() if source not in resolved.blobs]
    if absent:
        raise problem(
            "digest-without-bytes",
            422,
            f"The audit names {absent[0]} by its digest, and there are no such bytes on this machine.",
            "Name a file instead, or set $CAVEAT_URL to the service that has them.",
        )
    return _supervised("audit", resolved.audit.model_dump(mode="json"), resolved.blobs, watch)


def inspect_here(model: Path, output: str | None, index: int | None, watch: Watch) -> Inspection:
    """What a sandboxed child finds in a model."""
    new = NewModel(blob=digest(model), output=output, index=index)
    result = _supervised("model", new.model_dump(mode="json"), {new.blob: model}, watch)
    return Inspection.model_validate_json(result)


def require_engine() -> None:
    """Raises a problem where the client alone is installed."""
    if any(find_spec(module) is None for module in ENGINE):
        raise problem(
            "no-engine",
            503,
            "This is the client alone: it has no engine to run an audit with.",
            "Set $CAVEAT_URL to a Caveat service, or `pip install 'caveat[worker]'` to run audits on this machine.",
        )


def _supervised(kind: JobKind, payload: dict[str, Any], blobs: dict[str, Path], watch: Watch) -> bytes:
    require_engine()
    from worker.settings import Settings
    from worker.supervisor import Failed, Finished, supervise

    with _worker_log() as said:
        end = supervise(
            kind, payload, _fetch(blobs), limits=Settings().limits, on_progress=watch, should_stop=lambda: False,
            show_output=True,
        )  # fmt: skip
    match end:
        case Finished(result):
            return result
        case Failed(told):
            if told.status >= 500:
                said.dump()
                told = told.model_copy(update={"remedy": "Please report it, with what is said above."})
            raise ProblemError(told)
    raise AssertionError("nobody asks the child to stop: Ctrl-C kills it")


@contextmanager
def _worker_log() -> Iterator[_Said]:
    """Keeps what the worker logs, to be shown only where it failed by a fault of its own."""
    said, log = _Said(), logging.getLogger("worker")
    log.addHandler(said)
    try:
        yield said
    finally:
        log.removeHandler(said)


class _Said(logging.Handler):
    """Log lines, held back."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps a line."""
        self._lines.append(record.getMessage())

    def dump(self) -> None:
        """Shows what was kept."""
        for line in self._lines:
            show_note(line)


def _fetch(blobs: dict[str, Path]) -> Callable[[str, Writable], None]:
    """Copies bytes to where the child may read them, and makes sure that they are still what was hashed."""

    def fetch(wanted: str, copy: Writable) -> None:
        sha256 = hashlib.sha256()
        for chunk in chunks(blobs[wanted]):
            sha256.update(chunk)
            copy.write(chunk)
        if f"sha256:{sha256.hexdigest()}" != wanted:
            raise problem(
                "changed-file", 409, f"{blobs[wanted]} changed while it was read.", "Run it again once it stands still."
            )

    return fetch
