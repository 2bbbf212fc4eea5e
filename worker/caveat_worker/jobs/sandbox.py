"""Confines the child process before it reads any data of a client.

Each protection is applied if the kernel provides it; `missing_protections()` names the others. Landlock has no
functions in the C library and is called by system call number: see landlock(7).
"""

from __future__ import annotations

import ctypes
import os
import resource
import struct
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

from caveat_worker.jobs import seccomp

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 1, 4, 38
CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWNET = 0x08000000, 0x10000000, 0x40000000
LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446
LANDLOCK_VERSION_ONLY, LANDLOCK_PATH_BENEATH, O_PATH = 1, 1, 0o10000000
EXECUTE, READ_FILE, READ_DIR = 1 << 0, 1 << 2, 1 << 3
RIGHTS_BY_ABI = {1: 13, 2: 14, 3: 15, 4: 15}  # how many rights over files each version of Landlock knows
RIGHTS_NEWEST = 16
ON_FILES = EXECUTE | 1 << 1 | READ_FILE | 1 << 14 | 1 << 15
BIND_TCP, CONNECT_TCP = 1 << 0, 1 << 1
ABSTRACT_UNIX_SOCKETS, SIGNALS = 1 << 0, 1 << 1
SIGNALS_FROM = 6  # version of Landlock
CAPABILITY_VERSION = 0x20080522
ADDRESS_SPACE_SLACK = 16 << 30
LARGEST_FILE = 64 << 30  # bytes; activations that do not fit in memory are kept in files
MOST_THREADS = 1024
"""Threads of a job beyond those of its setting; libraries start some for each core."""

_libc = ctypes.CDLL(None, use_errno=True)


def confine(
    folder: Path, *, code: Sequence[Path], memory_bytes: int, cpu_seconds: int, kept: Path | None = None
) -> list[str]:
    """Confines this process; returns the protections that could not be applied.

    It loses privileges, the network and access to files outside `folder`, starts no process, and its memory and
    processor time are limited. It can read `folder`, `code` and `kept` (arrays of earlier audits), and write only
    `outputs` and `tmp`. Call it before the process has threads, which would remain unconfined.
    """
    limits = _limit(memory_bytes, cpu_seconds)
    if sys.platform != "linux":
        return ["no_new_privs", "network", "landlock", "seccomp", *limits]
    _libc.prctl(PR_SET_PDEATHSIG, 9, 0, 0, 0)
    unconnected = _leave_the_network()
    privileges = _drop_privileges()
    abi = _close_the_files(folder, code, kept)
    _libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    filtered = seccomp.refuse()
    lacks = {
        "network": not (unconnected or filtered),
        "landlock": abi == 0,
        "signals": not (abi >= SIGNALS_FROM or filtered),
        "seccomp": not filtered,
    }
    return [*privileges, *(name for name, lacking in lacks.items() if lacking), *limits]


@cache
def missing_protections() -> tuple[str, ...]:
    """The protections that this machine lacks, tried in a separate process."""
    probe = [sys.executable, "-P", "-m", "caveat_worker.jobs.sandbox"]
    environment = {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(probe, env=environment, capture_output=True, text=True, check=False)  # noqa: S603 - ourselves
    return tuple(done.stdout.split()) if done.returncode == 0 else ("sandbox",)


def _limit(memory_bytes: int, cpu_seconds: int) -> list[str]:
    """Limits memory with RLIMIT_DATA: ONNX Runtime, OpenBLAS and CUDA reserve far more addresses than they use."""
    wanted = {
        "RLIMIT_CORE": 0,
        "RLIMIT_CPU": cpu_seconds,
        "RLIMIT_FSIZE": LARGEST_FILE,
        "RLIMIT_DATA": memory_bytes,
    }
    if not Path("/dev/nvidiactl").exists():
        wanted["RLIMIT_AS"] = memory_bytes + ADDRESS_SPACE_SLACK
    missing = []
    for name, most in wanted.items():
        try:
            limit = getattr(resource, name)
            soft, hard = resource.getrlimit(limit)
            most = min(most, *(one for one in (soft, hard) if one != resource.RLIM_INFINITY), most)
            resource.setrlimit(
                limit, (most, most + 5 if name == "RLIMIT_CPU" and hard == resource.RLIM_INFINITY else most)
            )
        except (AttributeError, OSError, ValueError):
            missing.append(name.lower())
    return missing


def _leave_the_network() -> bool:
    """Enters namespaces without an active interface and without shared memory of others; returns whether it could.

    Without privileges this needs a user namespace too, in which the limit of threads counts this job's alone: elsewhere
    it counts all of the user's, on the whole machine.
    """
    if _libc.unshare(CLONE_NEWNET | CLONE_NEWIPC) == 0:
        return True
    if _libc.unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWIPC) != 0:
        return False
    resource.setrlimit(resource.RLIMIT_NPROC, (MOST_THREADS, MOST_THREADS))
    return True


def _drop_privileges() -> list[str]:
    """Drops all capabilities, even those of root, and prevents gaining any by running another program."""
    kept_none = _libc.capset(struct.pack("=Ii", CAPABILITY_VERSION, 0), bytes(24)) == 0
    gains_none = _libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    return ["capabilities"] * (not kept_none) + ["no_new_privs"] * (not gains_none)


def _readable(code: Sequence[Path]) -> dict[Path, int]:
    """The files that Python and its libraries need, and none with data."""
    system = (
        "/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/etc/localtime", "/etc/nvidia",
        "/proc", "/sys/bus", "/sys/devices", "/dev/urandom",
    )  # fmt: skip
    devices = [Path("/dev/null"), *Path("/dev").glob("nvidia*")]
    read = EXECUTE | READ_FILE | READ_DIR
    listed = {Path(root): READ_DIR for root in sys.path if root}  # only the packages of a checkout can be read
    opened = dict.fromkeys([*map(Path, system), Path(sys.prefix), Path(sys.base_prefix), *code], read)
    return listed | opened | dict.fromkeys(devices, ON_FILES)


def _close_the_files(folder: Path, code: Sequence[Path], kept: Path | None) -> int:
    """Restricts files to reading what Python needs and writing outputs; returns the version of Landlock, 0 for none.

    From version 4 on, Landlock also forbids TCP; from version 6 on, signals to processes outside the job, and
    connections to abstract Unix sockets.
    """
    abi = _libc.syscall(LANDLOCK_CREATE_RULESET, None, 0, LANDLOCK_VERSION_ONLY)
    if abi < 1:
        return 0
    everything = (1 << RIGHTS_BY_ABI.get(abi, RIGHTS_NEWEST)) - 1
    rules = struct.pack("=Q", everything)
    rules += struct.pack("=Q", BIND_TCP | CONNECT_TCP) if abi >= 4 else b""
    rules += struct.pack("=Q", ABSTRACT_UNIX_SOCKETS | SIGNALS) if abi >= SIGNALS_FROM else b""
    ruleset = _libc.syscall(LANDLOCK_CREATE_RULESET, rules, len(rules), 0)
    if ruleset < 0:
        return 0
    own = {folder: READ_FILE | READ_DIR, folder / "outputs": everything, folder / "tmp": everything}
    own |= {} if kept is None else {kept: READ_FILE | READ_DIR}
    for place, rights in (_readable(code) | own).items():
        _allow(ruleset, place, rights & everything)
    restricted = _libc.syscall(LANDLOCK_RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)
    return int(abi) if restricted == 0 else 0


def _allow(ruleset: int, place: Path, rights: int) -> None:
    with suppress(OSError):
        beneath = os.open(place, O_PATH | os.O_CLOEXEC)
        allowed = rights if place.is_dir() else rights & ON_FILES
        rule = struct.pack("=Qi", allowed, beneath)
        _libc.syscall(LANDLOCK_ADD_RULE, ruleset, LANDLOCK_PATH_BENEATH, rule, 0)
        os.close(beneath)


if __name__ == "__main__":
    print(*confine(Path("/nonexistent"), code=[], memory_bytes=1 << 30, cpu_seconds=10))
