"""The child process of a job: its permissions, its restrictions, and the problems when it fails."""

from __future__ import annotations

import errno
import io
import json
import os
import platform
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import pytest

from caveat_spec.disk_faults import DiskError, disk_problem
from caveat_spec.jobs import JobKind
from caveat_storage.blobs import Blobs, Writable
from caveat_worker.jobs import forkserver
from caveat_worker.jobs.cache import Cache
from caveat_worker.jobs.limits import Limits
from caveat_worker.jobs.sandbox import missing_protections
from caveat_worker.jobs.supervisor import End, Failed, Finished, Stopped, _collect, supervise
from tests.worker import old_kernel
from tests.worker import stub_pipeline as stub
from tests.worker.disks import can_mount, disk
from tests.worker.live import MODEL, TABLE, audit, digest

STORED = {digest(MODEL): MODEL, digest(TABLE): TABLE}
LIMITS = Limits(memory_bytes=1 << 30, cpu_seconds=60, wall_seconds=30, threads=1)
ROOT = Path(__file__).parents[2]
PROTECTED = pytest.mark.skipif(bool(missing_protections()), reason=f"no {missing_protections()} here")


def fetch(name: str, file: Writable) -> None:
    file.write(STORED[name])


def run(seed: int, *, limits: Limits = LIMITS, fetch: Callable[[str, Writable], None] = fetch, **also: Any) -> End:
    settled = {"on_progress": lambda *_: None, "should_stop": lambda: False} | also
    return supervise("audit", audit(seed), fetch, limits=limits, pipeline="tests.worker.stub_pipeline", **settled)


def warnings_of(end: End) -> list[str]:
    assert isinstance(end, Finished)
    found: list[str] = json.loads(end.result)["warnings"]
    return found


def code_of(end: End) -> str:
    assert isinstance(end, Failed)
    assert end.problem.remedy
    return end.problem.type.removeprefix("urn:caveat:problem:")


def test_a_result_is_canonical_and_the_same_each_time() -> None:
    first = run(stub.FINISH)
    assert isinstance(first, Finished)
    assert first == run(stub.FINISH)
    assert first.result.startswith(b'{"audit":{"about":null,"compare":{},"concepts":{},')
    assert warnings_of(first) == ["5 bytes"]


@pytest.mark.parametrize("swapped", [MODEL, TABLE])
def test_swapped_bytes_end_the_job_with_that_cause_and_leave_nothing_in_the_cache(
    tmp_path: Path, swapped: bytes
) -> None:
    blobs, cache = Blobs.at(str(tmp_path / "blobs")), Cache(tmp_path / "cache", 1 << 20)
    for data in STORED.values():
        blobs.put(io.BytesIO(data), digest(data))
    (place,) = (tmp_path / "blobs").glob(f"*/*/{digest(swapped).removeprefix('sha256:')}")
    place.write_bytes(b"s,d\n1,0\n")
    ways: dict[str, Any] = {"on_progress": lambda *_: None, "should_stop": lambda: False}
    end = supervise("audit", audit(stub.FINISH), blobs.copy, limits=LIMITS, sink=cache.namespace("t", "m"), **ways)
    assert code_of(end) == "corrupt-bytes"
    assert isinstance(end, Failed)
    assert digest(swapped) in end.problem.detail
    assert not end.killed  # another attempt would read the same bytes
    assert not list(cache.root.glob("*/*/*"))


def test_progress_is_passed_on_and_a_stop_is_heard_at_once() -> None:
    progress: list[tuple[str, float]] = []
    ended = run(stub.SLEEP, on_progress=lambda *news: progress.append(news), should_stop=lambda: bool(progress))
    assert ended == Stopped()
    assert progress[-1] in [("loading", 0.1), ("testing", 0.5)]


def test_nothing_is_left_of_a_child_that_was_stopped() -> None:
    seen: list[int] = []

    def seen_at_work() -> bool:
        seen.extend(jobs())
        return bool(seen)

    assert run(stub.SLEEP, should_stop=seen_at_work) == Stopped()
    assert jobs() == []


@pytest.mark.parametrize(
    ("seed", "code"),
    [
        (stub.REFUSE, "unknown-layer"),
        (stub.CRASH, "internal"),
        (stub.KILLED, "child-died"),
        (stub.FAULT, "child-crashed"),
        (stub.EAT_MEMORY, "out-of-memory"),
        (stub.LIE, "child-died"),
    ],
)
def test_a_bad_end_is_told_by_its_code(seed: int, code: str) -> None:
    ended = run(seed)
    assert code_of(ended) == code
    assert "Traceback" not in str(ended)
    assert "/" not in str(ended).replace("/layers/0", "")


@pytest.mark.parametrize(
    ("limits", "setting"),
    [
        (Limits(1 << 30, cpu_seconds=1, wall_seconds=20, threads=1), "CAVEAT_CPU_SECONDS"),
        (Limits(1 << 30, cpu_seconds=60, wall_seconds=1, threads=1), "CAVEAT_WALL_SECONDS"),
    ],
)
def test_a_child_that_takes_too_long_is_told_which_limit_it_met(limits: Limits, setting: str) -> None:
    ended = run(stub.SPIN, limits=limits)
    assert code_of(ended) == "out-of-time"
    assert setting in str(ended)


@PROTECTED
def test_a_child_reads_and_writes_only_its_own_and_has_an_empty_environment() -> None:
    read, written, environment = warnings_of(run(stub.SNOOP))
    assert (read, written) == ("PermissionError", "PermissionError")
    assert set(environment.split()) <= {
        "HOME", "JOBLIB_MULTIPROCESSING", "KMP_DUPLICATE_LIB_OK", "LC_ALL", "LD_LIBRARY_PATH", "NUMPY_MADVISE_HUGEPAGE",
        "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ORT_DISABLE_TELEMETRY", "PATH", "PYDANTIC_DISABLE_PLUGINS",
            "PYTHONPATH", "TMPDIR",
    }  # fmt: skip


@PROTECTED
def test_a_child_has_no_network() -> None:
    assert warnings_of(run(stub.CALL_OUT)) in (["PermissionError"], ["OSError"])


def test_a_stop_is_heard_while_bytes_are_fetched() -> None:
    written: list[bytes] = []

    def endless(name: str, file: Writable) -> None:
        while True:
            written.append(b"x" * file.write(b"x"))

    ended = supervise(
        "audit", audit(), endless, limits=LIMITS, on_progress=lambda *_: None, should_stop=lambda: len(written) > 9,
        pipeline="tests.worker.stub_pipeline",
    )  # fmt: skip
    assert ended == Stopped()


def test_bytes_that_are_gone_end_the_job_with_that_cause(tmp_path: Path) -> None:
    """They read "most often memory" after 108 seconds."""
    ways: dict[str, Any] = {"on_progress": lambda *_: None, "should_stop": lambda: False}
    end = supervise("audit", audit(), Blobs.at(str(tmp_path)).copy, limits=LIMITS, **ways)
    assert code_of(end) == "missing-bytes"
    assert isinstance(end, Failed)
    assert not end.killed


@pytest.fixture
def small_scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A scratch disk of a megabyte."""
    with disk(tmp_path / "scratch", size="1m"):
        monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
        yield


@pytest.mark.skipif(not can_mount(), reason="only root can make disks")
@pytest.mark.usefixtures("small_scratch")
def test_a_scratch_disk_that_is_full_is_told_by_its_name() -> None:
    with pytest.raises(DiskError) as raised:
        run(stub.FINISH, fetch=lambda name, file: file.write(bytes(2 << 20)) and None)
    assert raised.value.problem.code == "scratch-full"
    end = run(stub.FILL)
    assert code_of(end) == "scratch-full"
    assert isinstance(end, Failed)
    assert end.killed, "another worker may have room"


@pytest.mark.skipif(not can_mount(), reason="only root can make disks")
@pytest.mark.usefixtures("small_scratch")
def test_a_scratch_disk_that_is_full_from_the_start_is_not_left_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python takes /tmp for as long as it runs, if TMPDIR cannot be written when it looks for the first time."""
    with suppress(OSError):
        (tmp_path / "scratch" / "ballast").write_bytes(bytes(2 << 20))
    monkeypatch.setattr(tempfile, "tempdir", None)
    assert tempfile.gettempdir() != str(tmp_path / "scratch")
    with pytest.raises(DiskError) as raised:
        run(stub.FINISH)
    assert raised.value.problem.code == "scratch-full"


def test_a_file_beyond_the_limit_of_a_process_is_no_full_disk() -> None:
    """It read "the disk is full", and the job was started again to fail again."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    forkserver.close()
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(DiskError) as raised:
            run(stub.FINISH, fetch=lambda name, file: file.write(bytes(2 << 20)) and None)
        assert raised.value.problem.code == "file-too-large"
        assert run(stub.FILL) == Failed(disk_problem("scratch", errno.EFBIG))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        forkserver.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can put its privileges down")
def test_a_worker_without_privileges_has_the_same_sandbox() -> None:
    """Without capabilities the network is left through a user namespace, as for an ordinary user."""
    program = (
        "import ctypes, os\n"
        "libc = ctypes.CDLL(None)\n"
        "[libc.prctl(24, capability, 0, 0, 0) for capability in range(64)]\n"
        f"os.execv({sys.executable!r}, [{sys.executable!r}, '-m', 'caveat_worker.jobs.sandbox'])\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout.strip()) == (0, " ".join(missing_protections()))


def jobs(supervisor: int | None = None) -> list[tuple[int, int]]:
    """The job processes that a process supervises, by default this one, with the forkserver of each."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid=,comm="], capture_output=True, text=True, check=True).stdout
    processes = [
        (int(pid), int(parent), name) for pid, parent, name in (line.split(None, 2) for line in listed.splitlines())
    ]
    servers = {pid for pid, parent, _ in processes if parent == (supervisor or os.getpid())}
    return [(pid, parent) for pid, parent, name in processes if name == forkserver.NAME and parent in servers]


def test_a_report_says_what_its_sandbox_lacked() -> None:
    ended = run(stub.FINISH)
    assert isinstance(ended, Finished)
    assert json.loads(ended.result)["engine"]["sandbox_lacks"] == list(missing_protections())


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the simulated kernel is one of x86-64")
@pytest.mark.parametrize(
    ("number", "lacks"),
    [(old_kernel.SECCOMP, "seccomp"), pytest.param(old_kernel.LANDLOCK, "landlock", marks=pytest.mark.slow)],
)
def test_a_kernel_that_lacks_a_protection_is_told_of(number: int, lacks: str) -> None:
    program = (
        "import json\n"
        "from tests.worker import old_kernel\n"
        f"old_kernel.forget({number})\n"
        "from dataclasses import replace\n"
        "from tests.worker.test_supervisor import LIMITS, code_of, run\n"
        "from caveat_worker.jobs.sandbox import missing_protections\n"
        "strict = replace(LIMITS, require_sandbox=True)\n"
        "print(list(missing_protections()), json.loads(run(0).result)['engine']['sandbox_lacks'])\n"
        "print(code_of(run(0, limits=strict)))\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == f"['{lacks}'] ['{lacks}']\nno-sandbox"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the simulated kernel is one of x86-64")
def test_a_worker_that_requires_every_protection_does_not_serve_without_one() -> None:
    worker = [sys.executable, "-m", "celery", "-A", "caveat_worker.jobs.app", "worker"]
    program = (
        "import os\n"
        "from tests.worker import old_kernel\n"
        "old_kernel.forget(old_kernel.LANDLOCK)\n"
        f"os.execv({sys.executable!r}, {worker!r})\n"
    )
    environment = os.environ | {"CAVEAT_REQUIRE_SANDBOX": "true"}
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 78, ran.stderr
    assert "this worker does not serve: its sandbox lacks landlock." in ran.stderr
    assert "CAVEAT_REQUIRE_SANDBOX=false" in ran.stderr


@pytest.mark.parametrize("kind", get_args(JobKind))
def test_a_job_of_every_kind_may_lose_its_process(tmp_path: Path, kind: JobKind) -> None:
    outputs = os.open(tmp_path, os.O_DIRECTORY)
    try:
        end = _collect(outputs, kind, -signal.SIGKILL, LIMITS)
    finally:
        os.close(outputs)
    assert code_of(end) == "child-died"
