"""The forkserver: each job gets a process with one thread, one at a time, and nothing is left over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from caveat_worker.jobs import forkserver, supervisor
from caveat_worker.jobs.environment import threads_by_environment
from caveat_worker.jobs.limits import LimitSettings
from caveat_worker.jobs.processes import children, is_stopped, stopped_servers
from caveat_worker.jobs.supervisor import Failed, Finished, Stopped
from tests.worker import stub_pipeline as stub
from tests.worker.test_supervisor import LIMITS, ROOT, code_of, jobs, run

SUPERVISE = (
    "from tests.worker.test_supervisor import run; from tests.worker import stub_pipeline as stub; run(stub.SLEEP)"
)

POOL = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SUPERVISE!r}])"


@pytest.fixture(autouse=True)
def _fresh() -> None:
    forkserver.close()


def forkservers() -> list[int]:
    """Those of this process, which may be the parent of a running service too."""
    return [one for one in children(os.getpid()) if b"caveat_worker.jobs.forkserver" in _command(one)]


def _command(process: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_bytes()
    return b""


def at_work() -> list[int]:
    """The forkserver of a job that is stopped when it was seen to run."""
    seen: list[int] = []

    def stop() -> bool:
        """Not at first sight: the forkserver may not have said yet that it forked, and would be killed for that."""
        before = list(seen)
        seen[:] = [parent for _, parent in jobs()]
        return bool(before)

    assert run(stub.SLEEP, should_stop=stop) == Stopped()
    return seen


def test_one_forkserver_has_one_job_after_another() -> None:
    first, second = at_work(), at_work()
    assert first == second
    assert len(first) == 1


def test_a_forkserver_has_one_thread_so_that_none_is_lost_in_a_fork() -> None:
    """With one thread for linear algebra; OpenBLAS ends its threads before a fork and restarts them afterwards."""
    (server,) = at_work()
    assert os.listdir(f"/proc/{server}/task") == [str(server)]


def test_a_job_ends_with_its_forkserver_and_may_be_begun_again() -> None:
    def kill() -> bool:
        for _, server in jobs():
            os.kill(server, signal.SIGKILL)
        return False

    ended = run(stub.SLEEP, should_stop=kill)
    assert isinstance(ended, Failed)
    assert ended.killed
    assert jobs() == []
    assert isinstance(run(stub.FINISH), Finished)


def test_a_forkserver_that_was_killed_while_idle_is_replaced() -> None:
    (server,) = at_work()
    os.kill(server, signal.SIGKILL)
    assert isinstance(run(stub.FINISH), Finished)


@pytest.mark.parametrize("who", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_is_left_of_whoever_supervised_and_was_killed(who: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", SUPERVISE], cwd=ROOT) as supervisor:
        begun = _awaited(lambda: jobs(supervisor.pid))
        supervisor.send_signal(who)
    left = [pid for job_and_forkserver in begun for pid in job_and_forkserver]
    assert left
    assert _awaited(lambda: not any(map(_runs, left)))


@pytest.mark.slow
def test_a_forkserver_that_was_stopped_holds_a_slot_no_longer_than_the_limit() -> None:
    began = list[float]()

    def stop() -> bool:
        for _, server in jobs():
            began.append(time.monotonic())  # not before: a busy machine takes long to start a forkserver
            os.kill(server, signal.SIGSTOP)
        return False

    ended = run(stub.SLEEP, limits=replace(LIMITS, wall_seconds=3), should_stop=stop)
    assert code_of(ended) == "out-of-time"
    assert time.monotonic() - began[0] < stub.ASLEEP / 2
    assert _awaited(lambda: not jobs())
    assert isinstance(run(stub.FINISH), Finished)


@pytest.mark.slow
def test_a_forkserver_that_was_stopped_while_idle_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next job waited for it and renewed its lease for ever."""
    (server,) = at_work()
    os.kill(server, signal.SIGSTOP)
    monkeypatch.setattr(forkserver, "STILL_SECONDS", 3)
    assert isinstance(run(stub.FINISH), Finished)
    assert not _runs(server)


def test_a_forkserver_that_is_stuck_in_its_imports_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """It renewed the lease of its job without a deadline."""
    monkeypatch.setattr(forkserver, "STILL_SECONDS", 1)

    def stop() -> bool:
        for server in forkservers():
            os.kill(server, signal.SIGSTOP)
        return False

    end = run(stub.FINISH, should_stop=stop)
    assert code_of(end) == "forkserver-stuck"
    assert isinstance(end, Failed)
    assert end.killed


def test_a_job_is_stopped_before_its_process_is_there() -> None:
    assert run(stub.FINISH, should_stop=lambda: bool(forkservers())) == Stopped()


def test_a_job_whose_process_was_stopped_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "STOPPED_SECONDS", 1)

    def stop() -> bool:
        for job, _ in jobs():
            os.kill(job, signal.SIGSTOP)
        return False

    end = run(stub.SLEEP, should_stop=stop)
    assert code_of(end) == "process-stopped"
    assert _awaited(lambda: not jobs())


def test_a_stopped_forkserver_is_found_and_a_stopped_job_is_not() -> None:
    """Only its restart is sure to bring a worker's slot back, but no job may cause one by stopping itself."""
    with subprocess.Popen([sys.executable, "-c", POOL], cwd=ROOT, start_new_session=True) as main:
        ((job, server),) = _awaited(lambda: [one for pool in children(main.pid) for one in jobs(pool)], 120)
        os.kill(job, signal.SIGSTOP)
        assert _awaited(lambda: is_stopped(job))
        assert stopped_servers(main.pid) == []
        os.kill(server, signal.SIGSTOP)
        assert _awaited(lambda: stopped_servers(main.pid)) == [server]
        os.killpg(main.pid, signal.SIGKILL)
        os.kill(server, signal.SIGKILL)  # a stopped one does not see that its supervisor is gone
        assert _awaited(lambda: not _runs(server) and not _runs(job))


def _awaited(found: Callable[[], Any], seconds: float = 90) -> Any:
    """Polls until there is a result, or the time is up."""
    deadline = time.monotonic() + seconds
    while not (there := found()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return there


def _runs(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.parametrize(
    "settings", [{}, {"CAVEAT_THREADS": "3"}, {"caveat_concurrency": "2"}, {"CAVEAT_THREADS": "0"}]
)
def test_the_forkserver_that_starts_early_is_the_one_that_is_asked(
    settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its threads, read without pydantic, are those of the settings; otherwise it would start in vain."""
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert threads_by_environment() == LimitSettings().limits.threads


def test_an_audit_loads_nothing_that_draws_pictures() -> None:
    script = (
        "import sys\n"
        "from caveat_worker import computations\n"
        "computations.run\n"
        "heavy = {'pandas', 'sklearn', 'scipy.ndimage', 'scipy.fft', 'onnx.reference', 'unittest'} & set(sys.modules)\n"
        "computations.make_pictures, computations.inspect_model, computations.inspect_examples\n"
        "computations.plan_examples, computations.find_directions\n"
        "sys.exit(', '.join(heavy) or None)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
