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

from caveat_worker.jobs import forkserver
from caveat_worker.jobs.supervisor import Failed, Finished, Stopped
from tests.worker import stub_pipeline as stub
from tests.worker.test_supervisor import LIMITS, ROOT, code_of, jobs, run

SUPERVISE = (
    "from tests.worker.test_supervisor import run; from tests.worker import stub_pipeline as stub; run(stub.SLEEP)"
)


@pytest.fixture(autouse=True)
def _fresh() -> None:
    forkserver.close()


def at_work() -> list[int]:
    """The forkserver of a job that is stopped as soon as it runs."""
    seen: list[int] = []

    def stop() -> bool:
        seen.extend(parent for _, parent in jobs())
        return bool(seen)

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


def test_a_forkserver_that_was_stopped_holds_a_slot_no_longer_than_the_limit() -> None:
    def stop() -> bool:
        for _, server in jobs():
            os.kill(server, signal.SIGSTOP)
        return False

    began = time.monotonic()
    ended = run(stub.SLEEP, limits=replace(LIMITS, wall_seconds=3), should_stop=stop)
    assert code_of(ended) == "out-of-time"
    assert time.monotonic() - began < stub.ASLEEP / 2
    assert _awaited(lambda: not jobs())
    assert isinstance(run(stub.FINISH), Finished)


def _awaited(found: Callable[[], Any], seconds: float = 20) -> Any:
    """Polls until there is a result, or the time is up."""
    deadline = time.monotonic() + seconds
    while not (there := found()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return there


def _runs(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False
