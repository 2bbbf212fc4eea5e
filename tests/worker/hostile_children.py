"""A pipeline that a model has taken over: the seed of the audit decides what it tries against everything else."""

from __future__ import annotations

import _thread
import ctypes
import errno
import fcntl
import mmap
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from caveat_spec.artifacts import Stage
from caveat_spec.audit import Audit
from caveat_spec.report import Report
from tests.worker.stub_pipeline import report

ASLEEP = 60
"""Seconds for which what is left would live on."""
BOMBS = 64
"""Processes that a fork bomb starts at the most: not every kernel stops it."""
PATH_SOCKET, ABSTRACT_SOCKET, TARGET = (
    "/tmp/caveat-contain-{}.sock",
    "\0caveat-contain-{}",
    "/tmp/caveat-contain-{}.txt",
)
"""What the supervisor with this process id has: sockets that listen, and a file of its own."""

_libc = ctypes.CDLL(None, use_errno=True)


def supervisor() -> int:
    """The process id of the supervisor: the parent of the forkserver."""
    return int(Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2].split()[1])


def hold_output() -> None:
    """A child of 2026 that did `fork` and `setsid` held a worker's slot for 104 seconds."""
    for _ in range(3):
        if os.fork() == 0:
            os.setsid()
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(ASLEEP)
            os._exit(0)


def fork_twice() -> None:
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(ASLEEP)
        os._exit(0)


def spawn() -> None:
    os.posix_spawn("/bin/sleep", ["sleep", str(ASLEEP)], os.environ)


def fork_bomb() -> None:
    started = mmap.mmap(-1, 8)
    while (counted := int.from_bytes(started[:8], "little")) < BOMBS:
        started[:8] = (counted + 1).to_bytes(8, "little")
        if os.fork() == 0:
            os.setsid()
    time.sleep(ASLEEP)


def thread_bomb() -> None:
    threading.stack_size(1 << 16)
    while True:
        with suppress(RuntimeError):
            _thread.start_new_thread(time.sleep, (ASLEEP,))


def ignore_signals() -> None:
    for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)
    _spin()


def leave_the_group() -> None:
    """Leaves the group that the supervisor kills, and keeps the death of its parent from being told."""
    refused = [_tried(lambda: os.setpgid(0, os.getppid())), _tried(lambda: _call(_libc.prctl, 1, 0, 0, 0, 0))]
    if not all(refused):
        _spin()
    raise OSError(", ".join(refused))


def flood_output() -> None:
    while True:
        os.write(1, b'{"stage": "testing", "progress": 0.5}\n' * 1000 + b"x" * 4000)


def crash_half_way() -> None:
    os.close(1)
    os.close(2)
    os.kill(os.getpid(), signal.SIGSTOP)


def stop_the_supervisor() -> None:
    """Also with SIGURG, which means nothing: a supervisor that is stopped could not say so."""
    os.kill(supervisor(), signal.SIGURG)


def stop_the_forkserver() -> None:
    os.kill(os.getppid(), signal.SIGSTOP)


def signal_through_a_pipe() -> None:
    ours, theirs = os.pipe()
    fcntl.fcntl(ours, fcntl.F_SETOWN, supervisor())
    fcntl.fcntl(ours, fcntl.F_SETFL, os.O_ASYNC)
    os.write(theirs, b"x")


def limit_the_supervisor() -> None:
    resource.prlimit(supervisor(), resource.RLIMIT_CORE, (0, 0))


def slow_the_supervisor() -> None:
    os.setpriority(os.PRIO_PROCESS, supervisor(), 19)


def read_the_environment() -> None:
    Path(f"/proc/{supervisor()}/environ").read_bytes()


def trace_the_supervisor() -> None:
    _call(_libc.ptrace, 0x4206, supervisor(), 0, 0)  # PTRACE_SEIZE


def connect_to_a_path() -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(PATH_SOCKET.format(supervisor()))


def connect_to_a_name() -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(ABSTRACT_SOCKET.format(supervisor()))


def send_from_a_pair() -> None:
    ours, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    ours.sendto(b"x", PATH_SOCKET.format(supervisor()))


def connect_to_the_network() -> None:
    socket.create_connection(("127.0.0.1", 1), 1)


def send_to_the_network() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(b"x", ("192.0.2.1", 53))


def enter_a_user_namespace() -> None:
    _call(_libc.unshare, 0x10000000)


def use_io_uring() -> None:
    _call(_libc.syscall, 425, 8, ctypes.create_string_buffer(120))


def share_memory() -> None:
    _call(_libc.shmget, 0, 1 << 20, 0o1600)


def keep_a_key() -> None:
    _call(_libc.syscall, 248, b"user", b"caveat-contain", b"x", 1, -4)


def run_from_memory() -> None:
    program = os.memfd_create("program")
    os.write(program, Path("/bin/sleep").read_bytes())
    os.execve(program, ["sleep", str(ASLEEP)], os.environ)


def run_a_program() -> None:
    os.execv("/bin/sleep", ["sleep", str(ASLEEP)])


def write_outside() -> None:
    Path(TARGET.format(supervisor())).write_text("taken over")


def write_to_shared_memory() -> None:
    Path("/dev/shm/caveat-contain").write_text("x")


def open_a_file_to_all() -> None:
    os.chmod(TARGET.format(supervisor()), 0o777)


def touch_a_file() -> None:
    os.utime(TARGET.format(supervisor()), (0, 0))


def call_as_32_bits() -> None:
    """getpid(2) of i386, whose numbers are others: a filter that looks at numbers alone would be deceived."""
    code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")
    ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()


KINDS: dict[Callable[[], None], str] = {
    hold_output: "PermissionError", fork_twice: "PermissionError", spawn: "PermissionError",
    fork_bomb: "PermissionError", thread_bomb: "too-many-threads", ignore_signals: "out-of-time",
    leave_the_group: "PermissionError, PermissionError", flood_output: "out-of-time", crash_half_way: "out-of-time",
    stop_the_supervisor: "PermissionError", stop_the_forkserver: "PermissionError",
    signal_through_a_pipe: "PermissionError", limit_the_supervisor: "PermissionError",
    slow_the_supervisor: "PermissionError", read_the_environment: "PermissionError",
    trace_the_supervisor: "PermissionError", connect_to_a_path: "PermissionError",
    connect_to_a_name: "PermissionError", send_from_a_pair: "PermissionError",
    connect_to_the_network: "PermissionError", send_to_the_network: "PermissionError",
    enter_a_user_namespace: "PermissionError", use_io_uring: "OSError", share_memory: "PermissionError",
    keep_a_key: "PermissionError", run_from_memory: "PermissionError", run_a_program: "PermissionError",
    write_outside: "PermissionError", write_to_shared_memory: "PermissionError",
    open_a_file_to_all: "PermissionError", touch_a_file: "PermissionError", call_as_32_bits: "child-died",
}  # fmt: skip
"""Everything that is tried, and the error or the problem in which it ends."""


def run(
    audit: Audit, blob: Callable[[str], Path], progress: Callable[[Stage, float], None], *, threads: int, store: object
) -> Report:
    progress("loading", 0.1)
    return report(audit, [_tried(list(KINDS)[audit.method.seed])])


def _tried(attack: Callable[[], object]) -> str:
    """The name of the error in which an attack ends; empty if there is none."""
    try:
        attack()
    except OSError as fault:
        return str(fault) if fault.errno is None else type(fault).__name__
    return ""


def _call(function: Callable[..., int], *arguments: object) -> None:
    if function(*arguments) < 0:
        number = ctypes.get_errno()
        raise OSError(number, errno.errorcode[number])


def _spin() -> None:
    while True:
        pass
