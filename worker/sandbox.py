"""What the child process gives up before it looks at a single byte that somebody sent.

Each protection is taken where the kernel has it; `missing_protections()` names those that it has not. Landlock is
called by number, since the C library has no names for it: see landlock(7).
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
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 1, 4, 38
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446
LANDLOCK_VERSION_ONLY, LANDLOCK_PATH_BENEATH, O_PATH = 1, 1, 0o10000000
EXECUTE, READ_FILE, READ_DIR = 1 << 0, 1 << 2, 1 << 3
RIGHTS_BY_ABI = {1: 13, 2: 14, 3: 15, 4: 15}  # how many rights over files each version of Landlock knows
RIGHTS_NEWEST = 16
ON_FILES = EXECUTE | 1 << 1 | READ_FILE | 1 << 14 | 1 << 15
BIND_TCP, CONNECT_TCP = 1 << 0, 1 << 1
CAPABILITY_VERSION = 0x20080522
ADDRESS_SPACE_SLACK = 16 << 30
LARGEST_FILE = 64 << 30  # bytes; activations that memory does not hold are kept in files

_libc = ctypes.CDLL(None, use_errno=True)


def confine(
    folder: Path, *, code: Sequence[Path], memory_bytes: int, cpu_seconds: int, kept: Path | None = None
) -> list[str]:
    """Gives up privileges, memory, time, the network and the files outside `folder`; names what it could not give up.

    In `folder` all is readable, only `outputs` and `tmp` may be written; `code` may be imported and what is `kept` of
    earlier audits read. A process does this before it has threads, which would stay as they are.
    """
    limits = _limit(memory_bytes, cpu_seconds)
    if sys.platform != "linux":
        return ["no_new_privs", "network", "landlock", *limits]
    _libc.prctl(PR_SET_PDEATHSIG, 9, 0, 0, 0)
    network = _leave_the_network()
    privileges = _drop_privileges()
    files = _close_the_files(folder, code, kept)
    _libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    return [*privileges, *network, *files, *limits]


def missing_protections() -> list[str]:
    """Which protections this machine lacks, tried in a process of its own."""
    probe = [sys.executable, "-P", "-m", "worker.sandbox"]
    environment = {"PYTHONPATH": str(Path(__file__).parents[1])}
    answer = subprocess.run(probe, env=environment, capture_output=True, text=True, check=False)  # noqa: S603 - ourselves
    return answer.stdout.split() if answer.returncode == 0 else ["sandbox"]


def _limit(memory_bytes: int, cpu_seconds: int) -> list[str]:
    """RLIMIT_DATA counts what is allocated; ONNX Runtime, OpenBLAS and CUDA reserve far more addresses."""
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
            hard = resource.getrlimit(limit)[1]
            most = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(
                limit, (most, most + 5 if name == "RLIMIT_CPU" and hard == resource.RLIM_INFINITY else most)
            )
        except (AttributeError, OSError, ValueError):
            missing.append(name.lower())
    return missing


def _leave_the_network() -> list[str]:
    """A network namespace of its own has no interface that is up; without privileges it needs a user namespace too."""
    if _libc.unshare(CLONE_NEWNET) == 0 or _libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0:
        return []
    return ["network"]


def _drop_privileges() -> list[str]:
    """No capability is left, not even to root, and none can be gained by running another program."""
    kept_none = _libc.capset(struct.pack("=Ii", CAPABILITY_VERSION, 0), bytes(24)) == 0
    gains_none = _libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    return ["capabilities"] * (not kept_none) + ["no_new_privs"] * (not gains_none)


def _readable(code: Sequence[Path]) -> dict[Path, int]:
    """Everything that this process may import or load, and nothing that anybody keeps data in."""
    system = (
        "/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/etc/localtime", "/etc/nvidia",
        "/proc", "/sys/bus", "/sys/devices", "/dev/urandom",
    )  # fmt: skip
    devices = [Path("/dev/null"), *Path("/dev").glob("nvidia*")]
    read = EXECUTE | READ_FILE | READ_DIR
    listed = {Path(root): READ_DIR for root in sys.path if root}  # of a checkout, only the packages are read
    opened = dict.fromkeys([*map(Path, system), Path(sys.prefix), Path(sys.base_prefix), *code], read)
    return listed | opened | dict.fromkeys(devices, ON_FILES)


def _close_the_files(folder: Path, code: Sequence[Path], kept: Path | None) -> list[str]:
    """Landlock: reads what Python needs, writes its own outputs and (from version 4) opens no TCP connection."""
    abi = _libc.syscall(LANDLOCK_CREATE_RULESET, None, 0, LANDLOCK_VERSION_ONLY)
    if abi < 1:
        return ["landlock"]
    everything = (1 << RIGHTS_BY_ABI.get(abi, RIGHTS_NEWEST)) - 1
    rules = struct.pack("=QQ", everything, BIND_TCP | CONNECT_TCP) if abi >= 4 else struct.pack("=Q", everything)
    ruleset = _libc.syscall(LANDLOCK_CREATE_RULESET, rules, len(rules), 0)
    if ruleset < 0:
        return ["landlock"]
    own = {folder: READ_FILE | READ_DIR, folder / "outputs": everything, folder / "tmp": everything}
    own |= {} if kept is None else {kept: READ_FILE | READ_DIR}
    for place, rights in (_readable(code) | own).items():
        _allow(ruleset, place, rights & everything)
    restricted = _libc.syscall(LANDLOCK_RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)
    return [] if restricted == 0 else ["landlock"]


def _allow(ruleset: int, place: Path, rights: int) -> None:
    with suppress(OSError):
        beneath = os.open(place, O_PATH | os.O_CLOEXEC)
        allowed = rights if place.is_dir() else rights & ON_FILES
        rule = struct.pack("=Qi", allowed, beneath)
        _libc.syscall(LANDLOCK_ADD_RULE, ruleset, LANDLOCK_PATH_BENEATH, rule, 0)
        os.close(beneath)


if __name__ == "__main__":
    print(*confine(Path("/nonexistent"), code=[], memory_bytes=1 << 30, cpu_seconds=10))
