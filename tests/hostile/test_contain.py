"""Children that were taken over reach nothing, leave nothing and hold nothing: `make contain` runs 500 of them.

They run once on this kernel, and once on one that is made to lack seccomp(2): there a child can start processes, and
what it leaves has to be found and killed.
"""

from __future__ import annotations

import json
import os
import platform
import socket
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from caveat_worker.jobs import forkserver
from caveat_worker.jobs.limits import Limits
from caveat_worker.jobs.supervisor import End, Failed, Finished, supervise
from tests.worker import old_kernel
from tests.worker.hostile_children import ABSTRACT_SOCKET, KINDS, PATH_SOCKET, TARGET
from tests.worker.live import audit
from tests.worker.test_supervisor import PROTECTED, fetch

CHILDREN = 500
GONE_SECONDS, SLOT_SECONDS = 2.0, 5.0
"""Seconds after its job in which everything is gone, and after the limit in which the slot is free."""
LIMITS = Limits(memory_bytes=1 << 30, cpu_seconds=60, wall_seconds=2, threads=1)
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Outcome:
    """How one child ended, the seconds that its slot was held, and the seconds until nothing of it was left."""

    kind: str
    how: str
    held: float
    gone: float
    changed: bool
    """Whether it changed what is its supervisor's."""

    @property
    def contained(self) -> bool:
        return self.gone <= GONE_SECONDS and self.held <= LIMITS.wall_seconds + SLOT_SECONDS


@dataclass(frozen=True)
class Ground:
    """What the children attack: sockets and a file of their supervisor; its mark is in their environment."""

    mark: str
    target: Path

    def attack(self, kind: Callable[[], None], limits: Limits = LIMITS) -> Outcome:
        """Runs one child."""
        before = self._state()
        began = time.monotonic()
        end = supervise(
            "audit", audit(list(KINDS).index(kind)), fetch, limits=limits, pipeline="tests.worker.hostile_children",
            on_progress=lambda *_: None, should_stop=lambda: False,
        )  # fmt: skip
        held = time.monotonic() - began
        while (left := self._left()) and time.monotonic() - began - held < 4 * GONE_SECONDS:
            time.sleep(0.01)
        gone = time.monotonic() - began - held if left or time.monotonic() - began - held > 0.01 else 0.0
        return Outcome(kind.__name__, _how(end), held, gone, self._state() != before)

    def _state(self) -> object:
        seen = self.target.stat()
        return (self.target.read_text(), seen.st_mode, seen.st_mtime_ns, os.getpriority(os.PRIO_PROCESS, 0))

    def _left(self) -> list[int]:
        """The processes with the mark that are not the forkservers of this process."""
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                fields = (place / "stat").read_text().rpartition(")")[2].split()
                theirs = self.mark.encode() in (place / "environ").read_bytes()
                if theirs and fields[0] != "Z" and int(fields[1]) != os.getpid():
                    found.append(int(place.name))
        return found


@contextmanager
def ground() -> Iterator[Ground]:
    mark, target = f"contain-{uuid.uuid4()}", Path(TARGET.format(os.getpid()))
    with ExitStack() as stack:
        for address in (PATH_SOCKET.format(os.getpid()), ABSTRACT_SOCKET.format(os.getpid())):
            server = stack.enter_context(socket.socket(socket.AF_UNIX))
            server.bind(address)
            server.listen()
        stack.callback(Path(PATH_SOCKET.format(os.getpid())).unlink)
        target.write_text("ours")
        stack.callback(target.unlink)
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("CUDA_VISIBLE_DEVICES", mark)  # passed on to children
        forkserver.close()
        stack.callback(forkserver.close)
        found = Ground(mark, target)
        found.attack(next(iter(KINDS)), replace(LIMITS, wall_seconds=60))  # the first one waits for imports
        yield found


def _how(end: End) -> str:
    if isinstance(end, Failed):
        return end.problem.type.removeprefix("urn:caveat:problem:")
    assert isinstance(end, Finished), end
    (how,) = json.loads(end.result)["warnings"]
    return str(how)


@pytest.fixture(scope="module")
def here() -> Iterator[Ground]:
    with ground() as found:
        yield found


@PROTECTED
@pytest.mark.xdist_group("contain")
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_each_kind_of_attack_ends_in_its_error_and_leaves_nothing(here: Ground, kind: Callable[[], None]) -> None:
    if kind.__name__ == "call_as_32_bits" and platform.machine() != "x86_64":
        pytest.skip("only x86-64 has calls of 32 bits")
    outcome = here.attack(kind, replace(LIMITS, wall_seconds=1))
    assert outcome.how == KINDS[kind]
    assert outcome.contained, outcome
    assert not outcome.changed


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the simulated kernel is one of x86-64")
@pytest.mark.parametrize("forgets", [0, old_kernel.SECCOMP], ids=["this-kernel", "a-kernel-without-seccomp"])
def test_hundreds_of_hostile_children(forgets: int) -> None:
    command = [sys.executable, "-m", "tests.hostile.test_contain", str(CHILDREN // 2), str(forgets)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    print(ran.stdout)


def main(children: int, forgets: int) -> None:
    """Runs children of every kind in turn and prints what came of them; fails if one was not contained."""
    if forgets:
        old_kernel.forget(forgets)
    with ground() as found:
        outcomes = [found.attack(list(KINDS)[number % len(KINDS)]) for number in range(children)]
    where = "a kernel without seccomp" if forgets else "this kernel"
    print(f"{len(outcomes)} hostile children of {len(KINDS)} kinds on {where}")
    for (kind, how), count in sorted(Counter((one.kind, one.how) for one in outcomes).items()):
        print(f"  {count:3} {kind}: {how or 'it worked'}")
    alive = sum(one.gone > GONE_SECONDS for one in outcomes)
    late = sum(one.held > LIMITS.wall_seconds + SLOT_SECONDS for one in outcomes)
    last, slowest = max(outcomes, key=lambda one: one.gone), max(outcomes, key=lambda one: one.held)
    print(f"alive {GONE_SECONDS:.0f} s after the job: {alive}; longest {last.gone:.2f} s ({last.kind})")
    print(f"slots held beyond the limit of {LIMITS.wall_seconds} s by more than {SLOT_SECONDS:.0f} s: {late}; ", end="")
    print(f"longest slot {slowest.held:.2f} s ({slowest.kind})")
    assert alive == late == 0
    if not forgets:
        expected = {kind.__name__: how for kind, how in KINDS.items()}
        assert [one for one in outcomes if one.how != expected[one.kind] or one.changed] == []


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
