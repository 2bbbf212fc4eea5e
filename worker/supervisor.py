"""One fresh, confined child process a job, on a laptop and in a cluster alike: forked, watched, ended."""

from __future__ import annotations

import json
import logging
import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, Protocol, get_args

import rfc8785
from pydantic import ValidationError

from api_spec.artifacts import Stage
from api_spec.jobs import REQUESTS, RESULTS, Division, JobKind, sources
from api_spec.problem import Problem
from telemetry import traces
from vault.blobs import Writable
from worker import forkserver
from worker.child import Complaint
from worker.forkserver import Forked

log = logging.getLogger(__name__)

POLL_SECONDS = 0.1
KEPT_OF_STDERR = 8_000  # characters
LARGEST_LINE = 4_096  # bytes of one line of progress
MOST_STAGES = 100  # that one child may go through
LARGEST_RESULT = 256 << 20  # bytes
ROOT = Path(__file__).parents[1]
STAGES = frozenset(get_args(Stage))
CRASHES = frozenset({signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE})
"""How a process ends whose own code, or a library's, went wrong: nobody sends these."""
PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")

TUNED = {"NUMPY_MADVISE_HUGEPAGE": "0"}
"""numpy would ask for huge pages, and the kernel make room for them by moving others: half of its time in an audit."""


@dataclass(frozen=True)
class Limits:
    """What one child process may use."""

    memory_bytes: int = 8 << 30
    cpu_seconds: int = 4 * 3600
    wall_seconds: int = 2 * 3600
    threads: int = 2
    gpu_bytes: int = 0
    """0 for all that there is."""


@dataclass(frozen=True)
class Finished:
    """The job is done; `result` is canonical JSON (RFC 8785) of a Report, Inspection or ExampleSummary."""

    result: bytes


@dataclass(frozen=True)
class Failed:
    """The job cannot be done, and why; `killed` if that may have been the machine's doing, and not the job's."""

    problem: Problem
    killed: bool = False


@dataclass(frozen=True)
class Stopped:
    """The job was stopped because `should_stop` said so."""


@dataclass(frozen=True)
class Divided:
    """The job is too large for one worker, and this is how to cut it into shards."""

    division: Division


End = Finished | Failed | Stopped | Divided


class Keeper(Protocol):
    """Who keeps the arrays that a child computed."""

    @property
    def folder(self) -> Path | None:
        """What the child may read of what was kept before."""
        ...

    def take_in(self, outputs: int) -> None:
        """Keeps what an ended child left in `cache/` of its outputs, a folder that is open as `outputs`."""
        ...


class _InterruptedError(Exception):
    """`should_stop` said so while bytes were fetched."""


@dataclass(frozen=True)
class Guarded:
    """A file that takes bytes for as long as nobody says stop: fetching may take minutes."""

    file: BinaryIO
    should_stop: Callable[[], bool]

    def write(self, data: bytes, /) -> int:
        """Writes, unless the job has to stop."""
        if self.should_stop():
            raise _InterruptedError
        return self.file.write(data)


def supervise(
    kind: JobKind,
    payload: dict[str, Any],
    fetch: Callable[[str, Writable], None],
    *,
    limits: Limits,
    on_progress: Callable[[Stage, float], None],
    should_stop: Callable[[], bool],
    keeper: Keeper | None = None,
    pieces: Callable[[Path], None] | None = None,
    shard_batches: int = 0,
    attributes: Mapping[str, str] | None = None,
    show_output: bool = False,
    pipeline: str = "worker.pipeline",
) -> End:
    """Runs one job in a fresh child process and returns how it ended.

    `fetch(digest, file)` writes the bytes of `digest` to `file`. `on_progress` and `should_stop` are called from this
    thread, several times a second, `should_stop` also with each write; when it says yes, the child is gone within a
    second. The child finds what was kept before by `keeper`, which keeps what it leaves if it ends well.
    `pieces(folder)` lays out what shards of the audit left; an audit with more than `shard_batches` batches, if that is
    not 0, ends as `Divided`.

    The child has no network: that it ran, and each of its stages, is traced from here, with `attributes`. What it
    writes on standard error is logged with `show_output` only, except for its own words about a fault of ours.
    """
    with tempfile.TemporaryDirectory(prefix="caveat-") as name, ExitStack() as open_files:
        folder = Path(name)
        try:
            with traces.span("fetch", attributes or {}):
                _lay_out(folder, kind, payload, fetch, should_stop, limits, keeper, pipeline, shard_batches)
                if pieces is not None:
                    (folder / "pieces").mkdir()
                    pieces(folder / "pieces")
        except _InterruptedError:
            return Stopped()
        outputs = os.open(folder / "outputs", os.O_DIRECTORY)
        open_files.callback(os.close, outputs)
        stderr = open_files.enter_context(tempfile.TemporaryFile())
        with traces.span("child", attributes or {}):
            child = open_files.enter_context(forkserver.forked(_environment(limits), folder, stderr.fileno()))
            told = Told()
            listener = threading.Thread(target=told.listen, args=(child,), daemon=True)
            listener.start()
            try:
                cut_short = _watch(child, limits, told, on_progress, should_stop)
            finally:
                _kill(child)
                listener.join(1)
                told.trace(attributes or {})
                _log_complaints(stderr.fileno(), show_output=show_output)
        end = cut_short or _collect(outputs, kind, child.wait(), limits)
        if keeper is not None and isinstance(end, Finished):
            keeper.take_in(outputs)
        return end


def _lay_out(
    folder: Path,
    kind: JobKind,
    payload: dict[str, Any],
    fetch: Callable[[str, Writable], None],
    should_stop: Callable[[], bool],
    limits: Limits,
    keeper: Keeper | None,
    pipeline: str,
    shard_batches: int,
) -> None:
    """The child's folder: `job.json`, `inputs/` that may be read, `outputs/` that may be written, a place to work."""
    for part in ("inputs", "outputs", "tmp"):
        (folder / part).mkdir()
    request = REQUESTS[kind].model_validate(payload)
    for digest in set(sources(request).values()):
        place = folder / "inputs" / digest.partition(":")[2]
        with place.open("wb") as file:
            fetch(digest, Guarded(file, should_stop))
        place.chmod(0o400)
    kept = str(keeper.folder) if keeper is not None and keeper.folder is not None else None
    job = {
        "kind": kind, "payload": payload, "limits": asdict(limits), "kept": kept, "shard_batches": shard_batches,
        "pipeline": pipeline,
    }  # fmt: skip
    (folder / "job.json").write_text(json.dumps(job))


def make_ready(limits: Limits) -> None:
    """Sees to it that the first job with these limits begins as soon as later ones; does not wait for that."""
    forkserver.ready(_environment(limits))


def _environment(limits: Limits) -> dict[str, str]:
    """What a child may know of the worker's environment, and what its libraries are told."""
    threads = str(limits.threads)
    passed_on = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    return {
        **passed_on,
        **TUNED,
        "PYTHONPATH": os.pathsep.join([str(ROOT), *_installed_elsewhere()]),
        "HOME": "/nonexistent",
        "LC_ALL": "C.UTF-8",
        "JOBLIB_MULTIPROCESSING": "0",
        "OMP_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
    }


def _installed_elsewhere() -> list[str]:
    """Where packages are that a Python without a home does not find, such as those installed with `--user`."""
    ours = (Path(sys.prefix), Path(sys.base_prefix))
    return [
        place
        for place in sys.path
        if Path(place).name in ("site-packages", "dist-packages") and not any(map(Path(place).is_relative_to, ours))
    ]


def _watch(
    child: Forked,
    limits: Limits,
    told: Told,
    on_progress: Callable[[Stage, float], None],
    should_stop: Callable[[], bool],
) -> Failed | Stopped | None:
    """Waits for the child and passes its progress on; None once it has ended by itself."""
    deadline = time.monotonic() + limits.wall_seconds
    while not _ended(child):
        if told.progress:
            on_progress(*told.progress.popleft())
        if should_stop():
            return Stopped()
        if time.monotonic() > deadline:
            return Failed(_out_of_time(limits.wall_seconds, "CAVEAT_WALL_SECONDS"))
    return None


def _ended(child: Forked) -> bool:
    """Whether the child has ended, after waiting a moment for it."""
    with suppress(subprocess.TimeoutExpired):
        child.wait(POLL_SECONDS)
    return child.returncode is not None


@dataclass
class Told:
    """What a child says of its progress; whatever else it says is dropped."""

    progress: deque[tuple[Stage, float]] = field(default_factory=lambda: deque(maxlen=1))
    """The newest, which alone counts, until it is taken."""
    stages: list[tuple[Stage, int]] = field(default_factory=list)
    """Each stage and when it began, in nanoseconds since 1970."""

    def listen(self, child: Forked) -> None:
        """Keeps what is said until the child says no more."""
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
        """Traces the stages, the last one until now."""
        for (stage, begun), (_, ended) in pairwise([*self.stages, ("done", time.time_ns())]):
            traces.past(stage, attributes, begun, ended)


def _kill(child: Forked) -> None:
    """Ends the child and whatever it started."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _collect(outputs: int, kind: JobKind, status: int, limits: Limits) -> Finished | Failed | Divided:
    """What the child left behind, which is believed only as far as it fits its schema."""
    try:
        if status == 0 and (result := _left(outputs, "result.json")):
            document = RESULTS[kind].model_validate_json(result)
            return Finished(rfc8785.dumps(document.model_dump(mode="json")))
        if status == 0 and kind == "audit" and (division := _left(outputs, "division.json")):
            return Divided(Division.model_validate_json(division))
        if status == 0 and (problem := _left(outputs, "problem.json")):
            return Failed(Problem.model_validate_json(problem))
    except (ValidationError, rfc8785.CanonicalizationError) as fault:
        log.error("the child's result is not a document of its kind: %s", type(fault).__name__)
    return Failed(_died(kind, status, limits), killed=status == -signal.SIGKILL)


def _left(outputs: int, name: str) -> bytes | None:
    """A file among the outputs, if it is there, a file (no link to somewhere else), and of a size to be read."""
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=outputs)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        about = os.fstat(descriptor)
        return file.read() if stat.S_ISREG(about.st_mode) and about.st_size <= LARGEST_RESULT else None


def _died(kind: JobKind, status: int, limits: Limits) -> Problem:
    what = {
        "audit": "this audit",
        "model": "this model",
        "examples": "these examples",
        "shard": "a part of this audit",
    }[kind]
    if status == -signal.SIGXCPU:
        return _out_of_time(limits.cpu_seconds, "CAVEAT_CPU_SECONDS")
    if -status in CRASHES:
        return Problem.of(
            "child-crashed",
            422,
            f"The child process of {what} crashed inside a library ({_signal_name(-status)}).",
            "Check that its files open elsewhere; a crash also comes of more memory than CAVEAT_MEMORY_BYTES allows.",
        )
    if status < 0:
        number = -status
        how = f"was killed by signal {number} ({_signal_name(number)})"
        remedy = "Most often memory ran out: audit fewer layers or examples, or give the worker more memory."
    else:
        how = f"ended with status {status} and left no result"
        remedy = "Tell the operator the job's id: the worker's log has the details."
    return Problem.of("child-died", 500, f"The child process of {what} {how}.", remedy)


def _out_of_time(seconds: int, setting: str) -> Problem:
    kind = "processor time" if setting == "CAVEAT_CPU_SECONDS" else "time"
    return Problem.of(
        "out-of-time",
        422,
        f"The job took longer than the {seconds} seconds of {kind} that it may take.",
        f"Ask for fewer layers, 'runs' or 'null_sets', or raise {setting} on the worker.",
    )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"


def _log_complaints(stderr: int, *, show_output: bool) -> None:
    """The end of what was written on the child's standard error, for the worker's log.

    Messages of exceptions and of libraries may quote an example, so they are shown where an operator asks for them; a
    child's own line about a fault of ours has names and places only.
    """
    size = os.fstat(stderr).st_size
    tail = os.pread(stderr, KEPT_OF_STDERR, max(0, size - KEPT_OF_STDERR))
    withheld = max(0, size - KEPT_OF_STDERR)
    for line in tail.splitlines(keepends=True):
        try:
            fault = Complaint.model_validate_json(line)
        except ValidationError:
            withheld += len(line)
        else:
            log.error("the child failed: %s at %s", fault.fault, ", ".join(fault.at))
    if show_output and tail.strip():
        log.warning("the child said:\n%s", tail.decode(errors="replace").rstrip())
    elif withheld:
        log.info("the child said %d bytes that are not shown (CAVEAT_CHILD_OUTPUT)", withheld)
