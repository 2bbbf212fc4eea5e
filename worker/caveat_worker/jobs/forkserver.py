"""Forks a process for each job from one that has imported everything, so a job starts in milliseconds.

`Forkserver` starts `python -m caveat_worker.jobs.forkserver` and asks it for processes. Unlike the fork server of
`multiprocessing` it has an environment of its own. It never reads data of clients, and every process that it forks has
a single thread, as confinement requires.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import NoReturn

from caveat_worker.jobs.processes import children, is_stopped, signs_of_life

PRELOADED = (
    "caveat_worker.jobs.child",
    "caveat_worker.sharding",
    "caveat_worker.readers.arrays",
    "caveat_worker.readers.images",
)
"""Modules that most jobs import, beside those of methods; not pandas, whose libraries start threads, which a fork
would lose."""
NAME = "caveat-job"
"""Name of a job's process, also in `ps -o comm`."""
NUMBER = struct.Struct("=q")
LONGEST_PATH = 4096  # bytes
LOOK_SECONDS = 0.2
STILL_SECONDS = 15.0
"""Seconds after which a forkserver that does nothing at all, although it shall fork, is stopped or stuck."""
START_SECONDS = 300.0
"""Seconds that a forkserver has to fork, however much it does; at first it imports everything."""
END_SECONDS = 4.0
"""Seconds after which a forkserver that does nothing, although a process of its own was killed, is stopped."""
LEFTOVER_SECONDS = 2.0
"""Seconds for which a forkserver kills what a job left."""
PR_SET_CHILD_SUBREAPER = 36
EXIT_SECONDS = 10
"""Seconds that a forkserver has to end; it may still be importing."""


class StuckError(Exception):
    """The forkserver does not fork."""


class GivenUpError(Exception):
    """The process is no longer wanted."""


class _Patience:
    """Waits for a process as long as it does something; a machine with much else to do is slow, but not still."""

    def __init__(self, pid: int, still_seconds: float | None = None) -> None:
        self._pid, self._began, self._still = pid, time.monotonic(), still_seconds or STILL_SECONDS
        self._changed, self._life = self._began, signs_of_life(pid)

    def look(self) -> None:
        """Raises `StuckError` if the process has been still, or busy for nothing, for too long."""
        moment, life = time.monotonic(), signs_of_life(self._pid)
        if life != self._life:
            self._changed, self._life = moment, life
        if moment - self._changed > self._still or moment - self._began > START_SECONDS:
            raise StuckError


class Forked:
    """A job's process with the needed part of `subprocess.Popen`; the forkserver, its parent, reports its end."""

    def __init__(self, pid: int, output: socket.socket, channel: socket.socket, server: int) -> None:
        self.pid, self.stdout = pid, output.makefile("rb")
        self.returncode: int | None = None
        self._output, self._channel, self._server = output, channel, server

    def kill(self) -> None:
        """Kills the process and all that it started, together with a forkserver that does not report that in time."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        if self.returncode is None:  # it may have left its group
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        waits = _Patience(self._server, END_SECONDS)
        try:
            while not self._has_ended():
                waits.look()
        except StuckError:  # something has stopped it
            with suppress(ProcessLookupError):
                os.kill(self._server, signal.SIGKILL)
            self.returncode = -signal.SIGKILL

    def is_stopped(self) -> bool:
        """Whether the process, or the forkserver that would report its end, is stopped."""
        return is_stopped(self.pid) or is_stopped(self._server)

    def hang_up(self) -> None:
        """Ends the output, whoever may still hold its other end."""
        with suppress(OSError):
            self._output.shutdown(socket.SHUT_RDWR)
        self.stdout.close()
        self._output.close()

    def _has_ended(self) -> bool:
        with suppress(subprocess.TimeoutExpired):
            self.wait(LOOK_SECONDS)
        return self.returncode is not None

    def threads(self) -> int:
        """The number of its threads, 0 once it has ended or where there is no /proc."""
        with suppress(OSError):
            return os.stat(f"/proc/{self.pid}/task").st_nlink - 2
        return 0

    def wait(self, timeout: float | None = None) -> int:
        """Returns the exit status, negative for a signal; raises `subprocess.TimeoutExpired`."""
        if self.returncode is None:
            if not select.select([self._channel], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(NAME, timeout or 0)
            status = _number(self._channel)
            self.returncode = -signal.SIGKILL if status is None else status  # the process ends with its forkserver
        return self.returncode


class Forkserver:
    """Forks one process at a time, with the environment that it was given."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - ourselves
                [sys.executable, "-B", "-P", "-m", "caveat_worker.jobs.forkserver", str(theirs.fileno())],
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    def fork(self, folder: Path, stderr: int, should_stop: Callable[[], bool]) -> Forked:
        """Forks a process that runs the job in `folder`.

        It may still be importing; `should_stop` is called again and again until it has forked.

        Raises:
            ConnectionError: the forkserver has ended.
            StuckError: it does nothing, or does not come to an end; it has to be killed.
            GivenUpError: `should_stop` returned true.
        """
        waits = _Patience(self._process.pid)
        output, theirs = socket.socketpair()  # reading from it can be ended, unlike from a pipe
        with ExitStack() as undo:
            undo.enter_context(output)
            with theirs:
                socket.send_fds(self._socket, [os.fsencode(folder)], [theirs.fileno(), stderr])
                while not select.select([self._socket], [], [], LOOK_SECONDS)[0]:
                    if should_stop():
                        raise GivenUpError
                    waits.look()
                pid = _number(self._socket)
            if pid is None:
                raise ConnectionError("the forkserver has ended")
            undo.pop_all()
        return Forked(pid, output, self._socket, self._process.pid)

    def kill(self) -> None:
        """Ends a forkserver that does not react, and the process that it may have forked meanwhile."""
        self._process.kill()
        self.close()

    def close(self) -> None:
        """Ends the forkserver and the process that it forked."""
        self._socket.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(EXIT_SECONDS)
        self._process.kill()
        self._process.wait()


_idle: defaultdict[frozenset[tuple[str, str]], list[Forkserver]] = defaultdict(list)


@atexit.register
def close() -> None:
    """Ends the idle forkservers, which have nothing to put in order."""
    for server in chain.from_iterable(_idle.values()):
        server.kill()
    _idle.clear()


def ready(environment: Mapping[str, str]) -> None:
    """Starts a forkserver for the next job without waiting for it."""
    _idle[frozenset(environment.items())].append(Forkserver(environment))


@contextmanager
def forked(
    environment: Mapping[str, str], folder: Path, stderr: int, should_stop: Callable[[], bool]
) -> Iterator[Forked]:
    """Yields a process that runs the job in `folder`, from an idle forkserver that then serves the next job.

    `should_stop` is called again and again until the process is there, which takes seconds if its forkserver is new.
    The caller has to wait for the end of the process.

    Raises:
        ConnectionError: no forkserver can be started.
        StuckError: a new one does not fork.
        GivenUpError: `should_stop` returned true before there was a process.
    """
    idle = _idle[frozenset(environment.items())]
    server, child = _fork(idle, environment, lambda server: server.fork(folder, stderr, should_stop))
    try:
        yield child
    except BaseException:
        server.close()
        raise
    finally:
        child.hang_up()
    idle.append(server)


def _fork(
    idle: list[Forkserver], environment: Mapping[str, str], fork: Callable[[Forkserver], Forked]
) -> tuple[Forkserver, Forked]:
    """Forks a process from an idle forkserver, skipping those that were killed or stopped, or from a new one."""
    while True:
        try:
            server, fresh = idle.pop(), False
        except IndexError:
            server, fresh = Forkserver(environment), True
        try:
            return server, fork(server)
        except (ConnectionError, StuckError):
            server.kill()
            if fresh:
                raise
        except GivenUpError:
            server.kill()
            raise


def main(asked: socket.socket) -> None:
    """Serves requests until the connection closes."""
    from caveat_spec.methods import METHODS  # not above: who starts a forkserver imports it meanwhile

    gc.disable()  # hardly anything that an import makes is ever garbage, and looking for it takes a tenth of the time
    for module in (*PRELOADED, *(entry.module for entry in METHODS)):
        import_module(module)
    gc.freeze()  # exempts imported objects from collection, so their pages stay shared
    gc.enable()
    if sys.platform == "linux":  # processes that a job leaves become ours
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
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
        with suppress(OSError):  # the child has done so itself, or has ended
            os.setpgid(pid, pid)
        asked.sendall(NUMBER.pack(pid))
        asked.sendall(NUMBER.pack(_ended(pid, woken, asked)))


def _do(folder: Path, files: list[int], server: int) -> NoReturn:
    """Runs the job in the forked process, and ends the process."""
    from caveat_worker.jobs import child

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
    except BaseException as fault:
        status = child.exit_status(fault)
        with suppress(OSError):
            traceback.print_exc()
    finally:  # never return into the forkserver's loop
        with suppress(Exception):
            sys.stdout.flush()
        os._exit(status)


def _ended(pid: int, woken: socket.socket, asked: socket.socket) -> int:
    """Waits for a process and returns its exit status; kills it if the connection to the supervisor closes."""
    while True:
        heard, _, _ = select.select([woken, asked], [], [])
        if asked in heard:  # no request arrives while a job runs, so the connection was closed
            os.killpg(pid, signal.SIGKILL)
            _kill_leftovers()
            sys.exit()
        woken.recv(64)
        status = _reaped().get(pid)
        if status is not None:
            _kill_leftovers()
            return os.waitstatus_to_exitcode(status)


def _reaped() -> dict[int, int]:
    """The children that have ended, and how."""
    ended: dict[int, int] = {}
    with suppress(ChildProcessError):
        while (one := os.waitpid(-1, os.WNOHANG))[0]:
            ended[one[0]] = one[1]
    return ended


def _kill_leftovers() -> None:
    """Kills what a job started, again and again: it may fork meanwhile, and whoever loses its parent becomes ours."""
    deadline = time.monotonic() + LEFTOVER_SECONDS
    while (left := list(_descendants(os.getpid()))) and time.monotonic() < deadline:
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        _reaped()
        time.sleep(0.005)


def _descendants(pid: int) -> Iterator[int]:
    """The processes that a process started, and those that they started."""
    waiting = [pid]
    while waiting:
        found = children(waiting.pop())
        yield from found
        waiting += found


def _number(channel: socket.socket) -> int | None:
    """Receives the next number from the forkserver; None if it has ended."""
    with suppress(ConnectionError):
        if len(received := channel.recv(NUMBER.size, socket.MSG_WAITALL)) == NUMBER.size:
            return int(NUMBER.unpack(received)[0])
    return None


if __name__ == "__main__":
    with suppress(ConnectionError):  # the supervisor has ended
        main(socket.socket(fileno=int(sys.argv[1])))
