"""Processes that something has stopped (SIGSTOP, a debugger): they neither end nor do anything until they continue."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

STOPPED = frozenset("Tt")


def is_stopped(pid: int) -> bool:
    """Whether a process is stopped; False where there is no `/proc`."""
    with suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in STOPPED
    return False


def signs_of_life(pid: int) -> int:
    """A number that changes while a process does anything: its page faults, and its ticks and time on a processor.

    On a busy machine a process may get less than a tick (10 ms) for seconds; the kernel counts its time in nanoseconds.
    """
    signs = 0
    with suppress(OSError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        signs += sum(int(fields[position]) for position in (7, 9, 11, 12))
    with suppress(OSError, IndexError):  # not every kernel has it
        signs += int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])
    return signs


def children(pid: int) -> list[int]:
    """The children of a process, of all its threads."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found += map(int, task.read_text().split())
    return found


def stopped_servers(worker: int) -> list[int]:
    """The stopped ones among a worker's processes: those that take jobs, and their forkservers.

    The processes of jobs, which are the children of forkservers, do not count: a job may stop itself.
    """
    pool = children(worker)
    return [pid for pid in (*pool, *(server for one in pool for server in children(one))) if is_stopped(pid)]
