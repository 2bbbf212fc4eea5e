"""Measures an action in a process of its own: wall time, CPU time and peak memory.

Compared cases run in turns, so that a busy machine is as busy for one as for the other.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

from caveat_worker.jobs.environment import TUNED

Prepared = Callable[[], Mapping[str, Any] | None]
"""The part of a case that is measured; it may return figures of its own."""


@dataclass(frozen=True)
class Spent:
    """Seconds on the clock and of processors, and bytes of memory: at the peak, and before the measured part began.

    Only anonymous memory counts there; `resident` is the peak of all, mapped pages of files included.
    """

    wall: float
    cpu: float
    peak: int
    before: int
    resident: int
    figures: dict[str, Any] = field(default_factory=dict)
    """Figures that the case returned."""


@dataclass(frozen=True)
class Case:
    """A function that prepares something to be measured, `module:name`, and its arguments."""

    function: str
    arguments: Mapping[str, Any]
    most_data: int | None = None
    """The most bytes that the process may allocate (`RLIMIT_DATA`), as the sandbox limits its child."""


def installed(library: str) -> str:
    """The version of a library, or that it is not installed."""
    try:
        return version(library)
    except PackageNotFoundError:
        return "not installed"


def in_turns(cases: Mapping[str, Case], repeats: int) -> dict[str, Spent]:
    """The median of each figure over `repeats` rounds, in each of which every case runs once."""
    runs: dict[str, list[Spent]] = {name: [] for name in cases}
    for _ in range(repeats):
        for name, case in cases.items():
            runs[name].append(measured(case))
            print(f"  {name}: {runs[name][-1].wall:.1f} s, {runs[name][-1].cpu:.1f} CPU s", file=sys.stderr)
    return {name: middle(spent) for name, spent in runs.items()}


def middle(runs: list[Spent]) -> Spent:
    """The median of each figure."""
    wall, cpu = (median(getattr(run, name) for run in runs) for name in ("wall", "cpu"))
    memory = (int(median(getattr(run, name) for run in runs)) for name in ("peak", "before", "resident"))
    return Spent(wall, cpu, *memory, runs[-1].figures)


def measured(case: Case) -> Spent:
    """One case, once, in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.measure", json.dumps(asdict(case))],
        cwd=Path(__file__).parents[1],
        env={**os.environ, **TUNED},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return Spent(**json.loads(done.stdout.splitlines()[-1]))


def main(case: Case) -> Spent:
    """Prepares and measures a case in this process."""
    if case.most_data is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (case.most_data, case.most_data))
    module, _, name = case.function.partition(":")
    action: Prepared = getattr(import_module(module), name)(**case.arguments)
    before = held_bytes()
    with peak_memory() as most:
        wall, cpu = time.perf_counter(), time.process_time()
        own = action()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Spent(wall, cpu, most[0], before, resident_peak(), dict(own or {}))


@contextmanager
def peak_memory() -> Iterator[list[int]]:
    """The most bytes that this process holds, sampled a hundred times a second."""
    most, over = [held_bytes()], threading.Event()

    def sample() -> None:
        while not over.wait(0.01):
            most[0] = max(most[0], held_bytes())

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        yield most
    finally:
        over.set()
        sampler.join()


def held_bytes() -> int:
    """Anonymous memory of this process; elsewhere than on Linux, the most that it ever had."""
    return _status("RssAnon")


def resident_peak() -> int:
    """The most memory that this process ever had, by the kernel's own count."""
    return _status("VmHWM")


def _status(line: str) -> int:
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = next(each for each in status.read_text().splitlines() if each.startswith(line))
    return int(found.split()[1]) * 1024


if __name__ == "__main__":
    print(json.dumps(asdict(main(Case(**json.loads(sys.argv[1]))))))


def timed(spent: list[float], action: Callable[[], Any]) -> Any:
    """What an action returns; its CPU seconds are put behind the others."""
    started = time.process_time()
    found = action()
    spent.append(time.process_time() - started)
    return found
