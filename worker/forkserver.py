"""A process that has imported what jobs need, and forks one for each: it begins in milliseconds, not after a second.

`Forkserver` starts `python -m worker.forkserver` and asks it for processes. It has an environment of its own, which is
why it is not that of `multiprocessing`; it never sees a byte that somebody sent; and each process that it forks has one
thread, as confinement asks for.
"""

from __future__ import annotations

import atexit
import gc
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import traceback
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import BinaryIO, NoReturn

from worker import child

PRELOADED = ("worker.sharding", "worker.readers.arrays", "worker.readers.images")
"""What most jobs import; not pandas, whose libraries start threads, which a fork would lose."""
NAME = "caveat-job"
"""What the process of a job is called, in `ps -o comm` too."""
NUMBER = struct.Struct("=q")
LONGEST_PATH = 4096  # bytes
PATIENCE_SECONDS = 10
"""How long a forkserver may take to end: it may be importing still."""


class Forked:
    """A process of a job, as far as it is like `subprocess.Popen`: it is the forkserver's child, who tells its end."""

    def __init__(self, pid: int, stdout: BinaryIO, told: socket.socket) -> None:
        self.pid, self.stdout = pid, stdout
        self.returncode: int | None = None
        self._told = told

    def wait(self, timeout: float | None = None) -> int:
        """The exit status, the negative number of a signal; raises `subprocess.TimeoutExpired`."""
        if self.returncode is None:
            if not select.select([self._told], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(NAME, timeout or 0)
            status = _number(self._told)
            self.returncode = -signal.SIGKILL if status is None else status  # it ends with its forkserver
        return self.returncode


class Forkserver:
    """Forks one process at a time, with the environment that it was given."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - ourselves
                [sys.executable, "-B", "-P", "-m", "worker.forkserver", str(theirs.fileno())],
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    def fork(self, folder: Path, stderr: int) -> Forked:
        """A process that does the job in `folder`; raises `ConnectionError` if the forkserver is no more."""
        read, write = os.pipe()
        with ExitStack() as undo:
            stdout = undo.enter_context(os.fdopen(read, "rb"))
            with os.fdopen(write, "wb"):
                socket.send_fds(self._socket, [os.fsencode(folder)], [write, stderr])
                pid = _number(self._socket)
            if pid is None:
                raise ConnectionError("the forkserver has ended")
            undo.pop_all()
        return Forked(pid, stdout, self._socket)

    def close(self) -> None:
        """Ends it, and with it what it forked."""
        self._socket.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(PATIENCE_SECONDS)
        self._process.kill()
        self._process.wait()


_idle: defaultdict[frozenset[tuple[str, str]], list[Forkserver]] = defaultdict(list)


@atexit.register
def close() -> None:
    """Ends the forkservers that wait for another job."""
    for server in chain.from_iterable(_idle.values()):
        server.close()
    _idle.clear()


def ready(environment: Mapping[str, str]) -> None:
    """Starts a forkserver for the next job, and does not wait for it."""
    _idle[frozenset(environment.items())].append(Forkserver(environment))


@contextmanager
def forked(environment: Mapping[str, str], folder: Path, stderr: int) -> Iterator[Forked]:
    """A process that does the job in `folder`, by a forkserver that does nothing else meanwhile, and the next one then.

    Whoever asks sees to the process's end. Raises `ConnectionError` if no forkserver lives.
    """
    idle = _idle[frozenset(environment.items())]
    server, child = _fork(idle, environment, folder, stderr)
    try:
        with child.stdout:
            yield child
    except BaseException:
        server.close()
        raise
    idle.append(server)


def _fork(
    idle: list[Forkserver], environment: Mapping[str, str], folder: Path, stderr: int
) -> tuple[Forkserver, Forked]:
    """A process by one of those that wait, of which some may have been killed, or by a new one."""
    while True:
        try:
            server, fresh = idle.pop(), False
        except IndexError:
            server, fresh = Forkserver(environment), True
        try:
            return server, server.fork(folder, stderr)
        except ConnectionError:
            server.close()
            if fresh:
                raise


def main(asked: socket.socket) -> None:
    """Forks for as long as somebody may ask."""
    for module in PRELOADED:
        import_module(module)
    gc.freeze()  # what was imported stays, and its pages stay shared
    woken, wake = socket.socketpair()
    woken.setblocking(False)
    wake.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake.fileno())
    server = os.getpid()
    while True:
        folder, files, *_ = socket.recv_fds(asked, LONGEST_PATH, 2)
        if not folder:
            return
        pid = os.fork()
        if pid == 0:
            for ours in (asked, woken, wake):
                ours.close()
            _do(Path(os.fsdecode(folder)), files, server)
        for file in files:
            os.close(file)
        with suppress(OSError):  # it has done so itself, or ended
            os.setpgid(pid, pid)
        asked.sendall(NUMBER.pack(pid))
        asked.sendall(NUMBER.pack(_ended(pid, woken, asked)))


def _do(folder: Path, files: list[int], server: int) -> NoReturn:
    """The job, in a process of its own that ends with it."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setpgid(0, 0)
        for number, file in enumerate(files, start=1):
            os.dup2(file, number)
            os.close(file)
        with suppress(OSError):
            Path("/proc/self/comm").write_text(NAME)
        os.chdir(folder / "tmp")
        os.environ.update(HOME=str(folder / "tmp"), TMPDIR=str(folder / "tmp"))
        tempfile.tempdir = None
        child.main(folder, server)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:  # whatever happens: this is no forkserver
        with suppress(Exception):
            sys.stdout.flush()
        os._exit(status)


def _ended(pid: int, woken: socket.socket, asked: socket.socket) -> int:
    """How a process ended, which it does at once when nobody is there any more to ask."""
    while True:
        heard, _, _ = select.select([woken, asked], [], [])
        if asked in heard:  # nobody speaks while a job runs
            os.killpg(pid, signal.SIGKILL)
            sys.exit()
        woken.recv(64)
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)


def _number(told: socket.socket) -> int | None:
    """The next number that the forkserver tells; None if it is gone."""
    with suppress(ConnectionError):
        if len(told_bytes := told.recv(NUMBER.size, socket.MSG_WAITALL)) == NUMBER.size:
            return int(NUMBER.unpack(told_bytes)[0])
    return None


if __name__ == "__main__":
    with suppress(ConnectionError):  # whoever asked is gone
        main(socket.socket(fileno=int(sys.argv[1])))
