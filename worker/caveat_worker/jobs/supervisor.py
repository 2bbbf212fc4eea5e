"""Runs each job in a fresh, confined child process that is forked, watched and ended here."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import rfc8785
from pydantic import ValidationError

from caveat_spec.artifacts import STAGES, Stage
from caveat_spec.base import digest_of_bytes
from caveat_spec.disk_faults import ERRNOS, FAILING, FULL, disk_problem, of_disk
from caveat_spec.jobs import REQUESTS, RESULTS, Division, JobKind, Result, graphs, sources
from caveat_spec.maps import LARGEST_MAPS
from caveat_spec.problem import ProblemDetails
from caveat_spec.report import Report
from caveat_storage.blobs import CorruptBytesError, MissingBytesError, Writable
from caveat_storage.temporary_folders import temporary_folder
from caveat_telemetry import traces
from caveat_worker.jobs import forkserver
from caveat_worker.jobs.child import DISK_STATUS, MAPS, CrashReport
from caveat_worker.jobs.environment import PIPELINE, environment
from caveat_worker.jobs.forkserver import Forked
from caveat_worker.jobs.limits import Limits
from caveat_worker.jobs.output_files import read_file
from caveat_worker.jobs.sandbox import MOST_THREADS
from caveat_worker.jobs.shared_models import SharedModels

log = logging.getLogger(__name__)

POLL_SECONDS = 0.1
STOPPED_SECONDS = 20.0
"""Seconds for which something may stop a job's process before the job is given up and started again."""
KEPT_OF_STDERR = 8_000  # characters
LARGEST_LINE = 4_096  # bytes of a line of progress
MOST_STAGES = 100  # stages of one child that are recorded
LARGEST_RESULT = 256 << 20  # bytes
CRASHES = frozenset({signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE})
"""Signals of a crash in the process's own code or a library; no other process sends them."""
CALLED: dict[JobKind, str] = {
    "audit": "this audit",
    "model": "this model",
    "examples": "these examples",
    "shard": "a part of this audit",
    "plan": "this plan",
    "directions": "these directions",
    "visualisation": "these pictures",
    "findings": "this analysis",
}
SCRATCH = frozenset(disk_problem("scratch", number).code for number in FULL | FAILING)


@dataclass(frozen=True)
class Finished:
    """The job succeeded; `result` is canonical JSON (RFC 8785) of its result document."""

    result: bytes
    maps: bytes | None = None
    """The file of maps that a report names by its digest."""


@dataclass(frozen=True)
class Failed:
    """The job failed; `killed` if the machine and not the job may be the reason."""

    problem: ProblemDetails
    killed: bool = False


@dataclass(frozen=True)
class Stopped:
    """The job was stopped because `should_stop` returned true."""


@dataclass(frozen=True)
class Divided:
    """The job is too large for one worker and is divided into shards."""

    division: Division


End = Finished | Failed | Stopped | Divided


class ArtifactSink(Protocol):
    """A store for the arrays that a child computed."""

    @property
    def folder(self) -> Path | None:
        """The folder of earlier arrays that the child may read."""
        ...

    def take_in(self, outputs: int) -> None:
        """Stores the files in `cache/` of an ended child's outputs, a folder that is open as `outputs`."""
        ...


class _OtherMapsError(Exception):
    """A child's file of maps is not the one that its report names."""


class _InterruptedError(Exception):
    """`should_stop` returned true while bytes were fetched."""


@dataclass(frozen=True)
class Guarded:
    """A file that can be written until the job has to stop, since fetching may take minutes."""

    file: BinaryIO
    should_stop: Callable[[], bool]

    def write(self, data: bytes, /) -> int:
        """Writes, unless the job has to stop."""
        _check(self.should_stop)
        with of_disk("scratch"):
            return self.file.write(data)


def supervise(
    kind: JobKind,
    payload: dict[str, Any],
    fetch: Callable[[str, Writable], None],
    *,
    limits: Limits,
    on_progress: Callable[[Stage, float], None],
    should_stop: Callable[[], bool],
    sink: ArtifactSink | None = None,
    models: SharedModels | None = None,
    pieces: Callable[[Path], None] | None = None,
    shard_batches: int = 0,
    attributes: Mapping[str, str] | None = None,
    show_output: bool = False,
    pipeline: str = PIPELINE,
) -> End:
    """Runs a job in a fresh child process and returns how it ended.

    `fetch(digest, file)` writes the bytes of `digest` to `file`, or raises what `Blobs.copy` does. `on_progress` and
    `should_stop` are called in this thread several times a second, `should_stop` also on each write; once it returns
    true, the child ends within a second. The child can read the earlier arrays of `sink`, which stores its new ones if
    it succeeds. Its large models are files of `models`, which other jobs read too; without it they are copies.
    `pieces(folder)` lays out the pieces of its shards. An audit of more than `shard_batches` batches, if
    not 0, ends as `Divided`.

    The child has no network, so the run and its stages are traced here, with `attributes`. Its standard error is logged
    only if `show_output` is true, except for its crash reports.

    Raises:
        DiskError: the scratch disk, or the one that `sink` writes, is full or fails.
    """
    with (
        of_disk("scratch"),
        temporary_folder(scratch_folder()) as folder,
        ExitStack() as open_files,
    ):
        try:
            with traces.span("fetch", attributes or {}):
                _lay_out(folder, kind, payload, fetch, should_stop, limits, sink, models, pipeline, shard_batches)
                if pieces is not None:
                    (folder / "pieces").mkdir()
                    pieces(folder / "pieces")
        except _InterruptedError:
            return Stopped()
        except (CorruptBytesError, MissingBytesError) as fault:
            return Failed(fault.problem)
        outputs = os.open(folder / "outputs", os.O_DIRECTORY)
        open_files.callback(os.close, outputs)
        stderr = open_files.enter_context(tempfile.TemporaryFile(dir=folder))
        with traces.span("child", attributes or {}):
            confined = forkserver.forked(environment(limits.threads, pipeline), folder, stderr.fileno(), should_stop)
            try:
                child = open_files.enter_context(confined)
            except forkserver.GivenUpError:
                return Stopped()
            except forkserver.StuckError:
                return Failed(_stuck(), killed=True)
            try:
                cut_short = _accompany(child, limits, on_progress, should_stop, attributes or {})
            finally:
                _log_crash_reports(stderr.fileno(), show_output=show_output)
        end = cut_short or _collect(outputs, kind, child.wait(), limits)
        if sink is not None and isinstance(end, Finished):
            sink.take_in(outputs)
        return end


def scratch_folder() -> Path:
    """Where jobs have their folders: TMPDIR, also while it is full, when Python would take another place for good."""
    told = os.environ.get("TMPDIR", "")
    return Path(told if os.path.isdir(told) else tempfile.gettempdir())


def _lay_out(
    folder: Path,
    kind: JobKind,
    payload: dict[str, Any],
    fetch: Callable[[str, Writable], None],
    should_stop: Callable[[], bool],
    limits: Limits,
    sink: ArtifactSink | None,
    models: SharedModels | None,
    pipeline: str,
    shard_batches: int,
) -> None:
    """Creates the child's folder: `job.json`, `inputs/` to read, `outputs/` to write, and `tmp/`."""
    for part in ("inputs", "outputs", "tmp"):
        (folder / part).mkdir()
    request = REQUESTS[kind].model_validate(payload)
    shared = set() if models is None else graphs(request)
    for digest in set(sources(request).values()):
        place = folder / "inputs" / digest.partition(":")[2]
        copy = partial(_copy, digest, place, fetch, should_stop)
        if models is not None and digest in shared:
            models.lay_out(digest, place, copy, partial(_check, should_stop))
        else:
            copy()
    kept = str(sink.folder) if sink is not None and sink.folder is not None else None
    job = {
        "kind": kind, "payload": payload, "limits": asdict(limits), "kept": kept, "shard_batches": shard_batches,
        "pipeline": pipeline,
    }  # fmt: skip
    (folder / "job.json").write_text(json.dumps(job))


def _copy(digest: str, place: Path, fetch: Callable[[str, Writable], None], should_stop: Callable[[], bool]) -> None:
    """Writes the bytes of a digest to a file of the job's own, which must not exist: it could have other names."""
    with place.open("xb") as file:
        fetch(digest, Guarded(file, should_stop))
    place.chmod(0o400)


def _check(should_stop: Callable[[], bool]) -> None:
    if should_stop():
        raise _InterruptedError


def make_ready(limits: Limits) -> None:
    """Starts a forkserver in advance, so that the first job with these limits begins as fast as later ones."""
    forkserver.ready(environment(limits.threads))


def _accompany(
    child: Forked,
    limits: Limits,
    on_progress: Callable[[Stage, float], None],
    should_stop: Callable[[], bool],
    attributes: Mapping[str, str],
) -> Failed | Stopped | None:
    """Reads what the child says until it has ended, and traces its stages; None if it ended by itself."""
    reader = ProgressReader()
    listener = threading.Thread(target=reader.listen, args=(child,), daemon=True)
    listener.start()
    try:
        return _watch(child, limits, reader, on_progress, should_stop)
    finally:
        child.kill()
        listener.join(1)
        reader.trace(attributes)


def _watch(
    child: Forked,
    limits: Limits,
    reader: ProgressReader,
    on_progress: Callable[[Stage, float], None],
    should_stop: Callable[[], bool],
) -> Failed | Stopped | None:
    """Waits for the child and passes its progress on; None if it ended by itself."""
    deadline = time.monotonic() + limits.wall_seconds
    ran = time.monotonic()
    while not _ended(child):
        if reader.progress:
            on_progress(*reader.progress.popleft())
        if should_stop():
            return Stopped()
        if time.monotonic() > deadline:
            return Failed(_out_of_time(limits.wall_seconds, "CAVEAT_WALL_SECONDS"))
        if not child.is_stopped():
            ran = time.monotonic()
        elif time.monotonic() - ran > STOPPED_SECONDS:
            return Failed(_stopped(), killed=True)
        if child.threads() > limits.threads + MOST_THREADS:
            return Failed(_too_many_threads(limits.threads + MOST_THREADS))
    return None


def _ended(child: Forked) -> bool:
    """Waits a moment for the child and returns whether it has ended."""
    with suppress(subprocess.TimeoutExpired):
        child.wait(POLL_SECONDS)
    return child.returncode is not None


@dataclass
class ProgressReader:
    """Reads the progress that a child reports, and ignores everything else."""

    progress: deque[tuple[Stage, float]] = field(default_factory=lambda: deque(maxlen=1))
    """The latest progress, until it is taken."""
    stages: list[tuple[Stage, int]] = field(default_factory=list)
    """Each stage and its start, in nanoseconds since 1970."""

    def listen(self, child: Forked) -> None:
        """Reads progress until the child's output ends."""
        while line := child.stdout.readline(LARGEST_LINE):
            try:
                news = json.loads(line)
                stage, progress = news["stage"], float(news["progress"])
            except (ValueError, TypeError, KeyError, RecursionError):
                continue
            if stage in STAGES and 0 <= progress <= 1:
                self.progress.append((stage, progress))
                if (not self.stages or self.stages[-1][0] != stage) and len(self.stages) < MOST_STAGES:
                    self.stages.append((stage, time.time_ns()))

    def trace(self, attributes: Mapping[str, str]) -> None:
        """Traces the stages; the last one ends now."""
        for (stage, begun), (_, ended) in pairwise([*self.stages, ("done", time.time_ns())]):
            traces.past(stage, attributes, begun, ended)


def _collect(outputs: int, kind: JobKind, status: int, limits: Limits) -> Finished | Failed | Divided:
    """Reads the outcome from the child's outputs, which are trusted only as far as they match their schema."""
    try:
        if status == 0:
            if result := _output(outputs, "result.json"):
                document = RESULTS[kind].model_validate_json(result)
                maps = _maps(outputs, document)
                return Finished(rfc8785.dumps(document.model_dump(mode="json")), maps)
            if kind == "audit" and (division := _output(outputs, "division.json")):
                return Divided(Division.model_validate_json(division))
            if problem := _output(outputs, "problem.json"):
                return _told(ProblemDetails.model_validate_json(problem))
    except (ValidationError, rfc8785.CanonicalizationError, _OtherMapsError) as fault:
        log.error("the child's result is not a valid document: %s", type(fault).__name__)
    killed = status == -signal.SIGKILL or status - DISK_STATUS in FULL | FAILING
    return Failed(_died(kind, status, limits), killed=killed)


def _maps(outputs: int, result: Result) -> bytes | None:
    """The file of maps that a report names, if it names one; raises `_OtherMapsError` where it is not what it says."""
    if not isinstance(result, Report) or result.maps is None:
        return None
    maps = read_file(outputs, MAPS, largest=LARGEST_MAPS)
    if maps is None or digest_of_bytes(maps) != result.maps.digest:
        raise _OtherMapsError
    return maps


def _told(problem: ProblemDetails) -> Failed:
    """The failure that a child describes; another machine may have room for it."""
    return Failed(problem, killed=problem.code in SCRATCH)


def _output(outputs: int, name: str) -> bytes | None:
    return read_file(outputs, name, largest=LARGEST_RESULT)


def _died(kind: JobKind, status: int, limits: Limits) -> ProblemDetails:
    what = CALLED[kind]
    if status - DISK_STATUS in ERRNOS:
        return disk_problem("scratch", status - DISK_STATUS)
    if status == -signal.SIGXCPU:
        return _out_of_time(limits.cpu_seconds, "CAVEAT_CPU_SECONDS")
    if -status in CRASHES:
        return ProblemDetails.of(
            "child-crashed",
            422,
            f"The child process of {what} crashed in a library ({_signal_name(-status)}).",
            "Check that other programs can open its files; exceeding CAVEAT_MEMORY_BYTES, or a failing disk, can also "
            "cause a crash.",
        )
    if status < 0:
        number = -status
        how = f"was killed by signal {number} ({_signal_name(number)})"
        remedy = "The usual cause is memory: audit fewer layers or examples, or give the worker more memory."
    else:
        how = f"ended with status {status} and left no result"
        remedy = "Report the job's id to the operator: the worker's log has the details."
    return ProblemDetails.of("child-died", 500, f"The child process of {what} {how}.", remedy)


def _stuck() -> ProblemDetails:
    return ProblemDetails.of(
        "forkserver-stuck",
        500,
        "The worker could not start a process for this job: its forkserver was stopped, is stuck in its imports, or "
        "gets no time on the processor.",
        "Try again when the machine is less busy. If that does not help, an operator looks whether the disk and the "
        "processor of the worker answer, and restarts it.",
    )


def _stopped() -> ProblemDetails:
    return ProblemDetails.of(
        "process-stopped",
        500,
        f"Something stopped the process of this job for more than {STOPPED_SECONDS:g} seconds (SIGSTOP), so it was "
        "ended.",
        "An operator looks for who stops processes of the worker (a debugger, a script); then submit the job again.",
    )


def _out_of_time(seconds: int, setting: str) -> ProblemDetails:
    kind = "processor time" if setting == "CAVEAT_CPU_SECONDS" else "time"
    return ProblemDetails.of(
        "out-of-time",
        422,
        f"The job took longer than its limit of {seconds} seconds of {kind}.",
        f"Request fewer layers, 'runs' or 'permutations', or raise {setting} on the worker.",
    )


def _too_many_threads(most: int) -> ProblemDetails:
    return ProblemDetails.of(
        "too-many-threads",
        422,
        f"The job started more than {most} threads.",
        "No model needs that many: check where its files come from, and report the job's id to the operator.",
    )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"


def _log_crash_reports(stderr: int, *, show_output: bool) -> None:
    """Logs the end of the child's standard error.

    Messages of exceptions and libraries may quote examples, so they are logged only if an operator asks for them; crash
    reports contain only types and places.
    """
    size = os.fstat(stderr).st_size
    tail = os.pread(stderr, KEPT_OF_STDERR, max(0, size - KEPT_OF_STDERR))
    withheld = max(0, size - KEPT_OF_STDERR)
    for line in tail.splitlines(keepends=True):
        try:
            fault = CrashReport.model_validate_json(line)
        except ValidationError:
            withheld += len(line)
        else:
            log.error("the child failed: %s at %s", fault.fault, ", ".join(fault.at))
    if show_output and tail.strip():
        log.warning("output of the child:\n%s", tail.decode(errors="replace").rstrip())
    elif withheld:
        log.info("the child wrote %d bytes that are not shown (CAVEAT_CHILD_OUTPUT)", withheld)
