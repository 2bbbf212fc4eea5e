"""Audits and inspections on this machine, in the same sandboxed child process that a worker starts."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caveat.auditfile import Resolved
from caveat.console_output import show_note
from caveat.installation import READING, require, require_engine, require_linux
from caveat.pack import Content, addressed, changed_file, chunks
from caveat.problems import ProblemError, problem
from caveat.progress import ProgressCallback
from caveat_spec.artifacts import Directions, Inspection, NewModel, Visualisation
from caveat_spec.audit import Audit
from caveat_spec.jobs import NewDirections, NewPlan, NewVisualisation
from caveat_spec.power import AuditPlan
from caveat_spec.report import Report

if TYPE_CHECKING:
    from caveat_spec.jobs import JobKind
    from caveat_storage.blobs import Writable
    from caveat_worker.jobs.supervisor import Finished


def run_audit(
    resolved: Resolved,
    on_progress: ProgressCallback,
    *,
    show_faults: bool = True,
    keep_maps: Callable[[bytes], None] | None = None,
) -> bytes:
    """Runs an audit; returns its canonical report, and gives `keep_maps` the file of maps that belongs to it.

    The worker's log is printed if it fails, with `show_faults`.
    """
    absent = [source for source in resolved.audit.sources().values() if source not in resolved.blobs]
    if absent:
        raise problem(
            "digest-without-bytes",
            422,
            f"The audit names {absent[0]} by its digest, and this machine does not have the file.",
            "Name a file instead, or set $CAVEAT_URL to a service that has it.",
        )
    _require_readers(resolved.audit)
    payload = resolved.audit.model_dump(mode="json")
    end = _ended("audit", payload, resolved.blobs, on_progress, show_faults=show_faults)
    report = end.result
    if keep_maps is not None and end.maps is not None:
        keep_maps(end.maps)
    if lacks := json.loads(report)["engine"]["sandbox_lacks"]:
        show_note(
            f"The sandbox on this machine lacks {', '.join(lacks)}: a malicious model could do more than be audited. "
            "CAVEAT_REQUIRE_SANDBOX=true refuses to run without every protection."
        )
    return report


def inspect_model(
    model: Path,
    output: str | None,
    index: int | None,
    constants: Mapping[str, float],
    on_progress: ProgressCallback,
) -> Inspection:
    """Inspects a model."""
    content, blob = addressed(model)
    new = NewModel(blob=blob, output=output, index=index, constants=dict(constants))
    result = _supervised("model", new.model_dump(mode="json"), {blob: content}, on_progress)
    return Inspection.model_validate_json(result)


def plan_audit(
    resolved: Resolved, report: Report | None, on_progress: ProgressCallback, *, show_faults: bool = True
) -> AuditPlan:
    """What an audit's examples can settle, before the model runs."""
    _require_readers(resolved.audit)
    new = NewPlan(audit=resolved.audit, report=report)
    return AuditPlan.model_validate_json(
        _supervised("plan", new.model_dump(mode="json"), resolved.blobs, on_progress, show_faults=show_faults)
    )


def find_directions(resolved: Resolved, on_progress: ProgressCallback, *, watch: bool) -> Directions:
    """The directions of an audit's concepts at its layers; with `watch` also checks a monitoring model along them."""
    _require_readers(resolved.audit)
    new = NewDirections(audit=resolved.audit, watch=watch)
    return Directions.model_validate_json(
        _supervised("directions", new.model_dump(mode="json"), resolved.blobs, on_progress)
    )


def make_pictures(asked: NewVisualisation, resolved: Resolved, on_progress: ProgressCallback) -> Visualisation:
    """Pictures of what atoms of a layer look for."""
    _require_readers(resolved.audit)
    payload = asked.model_dump(mode="json")
    return Visualisation.model_validate_json(_supervised("visualisation", payload, resolved.blobs, on_progress))


def _require_readers(audit: Audit) -> None:
    """Raises a `ProblemError` that names what the audit's examples are read with, where it is not installed."""
    require_linux("An audit on this machine")
    require_engine()
    for declared in audit.examples.values():
        if needed := READING.get(next(iter(declared.SOURCES))):
            require(*needed)


@contextmanager
def engine_errors() -> Iterator[None]:
    """Raises the engine's errors about invalid input as a `ProblemError`."""
    from caveat_worker.engine.base.errors import InvalidInput

    try:
        yield
    except InvalidInput as error:
        raise problem(error.code, 422, error.sentence, error.remedy) from None


def _supervised(
    kind: JobKind,
    payload: dict[str, Any],
    blobs: dict[str, Content],
    on_progress: ProgressCallback,
    *,
    show_faults: bool = True,
) -> bytes:
    """Runs a job in a supervised child; returns its result, or raises its problem."""
    return _ended(kind, payload, blobs, on_progress, show_faults=show_faults).result


def _ended(
    kind: JobKind,
    payload: dict[str, Any],
    blobs: dict[str, Content],
    on_progress: ProgressCallback,
    *,
    show_faults: bool,
) -> Finished:
    """Runs a job in a supervised child; returns what it wrote, or raises its problem."""
    require_linux("An audit on this machine")
    require_engine()
    from caveat_worker.jobs.limits import LimitSettings
    from caveat_worker.jobs.supervisor import Failed, Finished, supervise

    with _held_worker_log() as log:
        end = supervise(
            kind,
            payload,
            _fetch(blobs),
            limits=LimitSettings().limits,
            on_progress=on_progress,
            should_stop=lambda: False,
            show_output=True,
        )
    match end:
        case Finished():
            return end
        case Failed(problem_details):
            if problem_details.status >= 500 and problem_details.code != "not-installed" and show_faults:
                log.show()
                remedy = "Please report it, with the lines above."
                problem_details = problem_details.model_copy(update={"remedy": remedy})
            raise ProblemError(problem_details)
    raise AssertionError("a local job is never asked to stop: Ctrl-C kills it")


@contextmanager
def _held_worker_log() -> Iterator[_HeldLog]:
    """Holds back the worker's log, which is shown only where the worker itself failed."""
    held, logger = _HeldLog(), logging.getLogger("caveat_worker")
    logger.addHandler(held)
    try:
        yield held
    finally:
        logger.removeHandler(held)


class _HeldLog(logging.Handler):
    """Keeps log lines in memory."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps a line."""
        self._lines.append(record.getMessage())

    def show(self) -> None:
        """Prints the lines that were kept."""
        for line in "\n".join(self._lines).split("\n"):
            show_note(line)


def _fetch(blobs: dict[str, Content]) -> Callable[[str, Writable], None]:
    """Copies files to where the child may read them, and checks that they still have the digests of before."""

    def fetch(wanted: str, copy: Writable) -> None:
        sha256 = hashlib.sha256()
        for chunk in chunks(blobs[wanted]):
            sha256.update(chunk)
            copy.write(chunk)
        if f"sha256:{sha256.hexdigest()}" != wanted:
            raise changed_file(blobs[wanted])

    return fetch
