"""The service under load: an API over PostgreSQL and Valkey, workers as they are deployed, and clients over HTTP."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx2
import numpy as np

from bench.audits import Question
from caveat_storage.job_records import migrate
from tests.worker.live import postgresql, unused_port, valkey

ROOT = Path(__file__).parents[1]
ENDED = {"succeeded", "failed", "cancelled"}


@dataclass(frozen=True)
class Service:
    """An API that answers at `url`, and the environment of its workers."""

    folder: Path
    url: str
    environment: dict[str, str]

    @contextmanager
    def workers(self, count: int, *, a_core_each: bool = False, **settings: str) -> Iterator[None]:
        """Runs `count` worker processes, each with one job at a time, and yields when they are ready.

        With `a_core_each` each is limited to one core, as a pod's CPU limit does.
        """
        with ExitStack() as stack:
            beats = [self.folder / f"heartbeat{number}" for number in range(count)]
            for number, beat in enumerate(beats):
                beat.unlink(missing_ok=True)
                variables = {**self.environment, **settings, "CAVEAT_HEARTBEAT_FILE": str(beat)}
                command = ["celery", "-A", "caveat_worker.jobs.app", "worker", "-n", f"bench{number}@%h"]
                command += ["--without-gossip", "--without-mingle"]
                process = stack.enter_context(running(command, variables, self.folder / f"worker{number}.log"))
                if a_core_each:
                    os.sched_setaffinity(process.pid, {sorted(os.sched_getaffinity(0))[number]})  # and its children
            until(lambda: all(beat.exists() for beat in beats))
            yield

    def upload(self, question: Question) -> dict[str, Any]:
        """Uploads an audit's files; returns the audit with their digests."""
        audit = question.audit()
        with httpx2.Client(base_url=self.url, timeout=60) as client:
            for digest in set(audit.sources().values()):
                data = question.blob(digest).read_bytes()
                client.put(f"/v1/blobs/{digest}", content=data).raise_for_status()
        document: dict[str, Any] = audit.model_dump(mode="json")
        return document

    def submit(self, audit: dict[str, Any]) -> str:
        with httpx2.Client(base_url=self.url, timeout=60) as client:
            return str(client.post("/v1/audits", json=audit).raise_for_status().json()["id"])

    def report(self, job: str) -> bytes:
        """The stored bytes of an audit's report."""
        with httpx2.Client(base_url=self.url, timeout=60) as client:
            return client.get(f"/v1/audits/{job}/report").raise_for_status().content

    def ended(self, jobs: Sequence[str], every: float = 0.02) -> list[dict[str, Any]]:
        """The records of jobs once all have ended, polled every `every` seconds: polling takes CPU time too."""
        left, records = list(jobs), {}
        with httpx2.Client(base_url=self.url, timeout=60) as client:
            while left:
                record = client.get(f"/v1/audits/{left[0]}").raise_for_status().json()
                if record["state"] in ENDED:
                    records[left.pop(0)] = record
                else:
                    time.sleep(every)
        assert all(record["state"] == "succeeded" for record in records.values()), records
        return [records[job] for job in jobs]


@contextmanager
def service() -> Iterator[Service]:
    """An API with two processes over a fresh PostgreSQL and Valkey."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="caveat-bench-")))
        (folder / "valkey").mkdir()
        database = stack.enter_context(postgresql())
        broker = stack.enter_context(valkey(folder / "valkey"))
        migrate(database)
        port = unused_port()
        environment = {
            "CAVEAT_DATABASE_URL": database,
            "CAVEAT_BLOBS_URL": str(folder / "blobs"),
            "CAVEAT_BROKER_URL": f"redis://127.0.0.1:{broker}/0",
            "CAVEAT_CACHE_FOLDER": str(folder / "cache"),
            "CAVEAT_PORT": str(port),
            "CAVEAT_PROCESSES": "2",
        }
        stack.enter_context(running(["caveat_service"], environment, folder / "api.log"))
        url = f"http://127.0.0.1:{port}"
        until(lambda: _answers(url))
        yield Service(folder, url, environment)


def submissions(at: Service, audit: dict[str, Any], count: int, clients: int) -> dict[str, float]:
    """Rate a second, and milliseconds at the median and the 99th percentile, of POSTs by `clients` at a time."""
    waits: list[float] = []

    def client(number: int) -> None:
        with httpx2.Client(base_url=at.url, timeout=60) as session:
            for _ in range(count // clients):
                started = time.perf_counter()
                session.post("/v1/audits", json=audit).raise_for_status()
                waits.append(time.perf_counter() - started)

    with ThreadPoolExecutor(clients) as executor:
        list(executor.map(client, range(clients)))
        waits.clear()  # the first round opened connections
        started = time.perf_counter()
        list(executor.map(client, range(clients)))
        spent = time.perf_counter() - started
    middle, late = np.quantile(waits, [0.5, 0.99])
    return {"rate": len(waits) / spent, "p50": 1000 * float(middle), "p99": 1000 * float(late)}


def there_and_back(at: Service, audit: dict[str, Any], times: int) -> dict[str, float]:
    """Median seconds from POST to report."""
    spent = []
    for seed in range(times):
        begun = time.perf_counter()
        at.ended([at.submit(audit | {"method": audit["method"] | {"seed": seed}})])
        spent.append(time.perf_counter() - begun)
    return {"wall": float(np.median(spent))}


def one_audit(at: Service, audit: dict[str, Any]) -> tuple[float, dict[str, Any], bytes]:
    """Seconds from POST to report by the record, the record and the report of one audit.

    The client asks seldom: each answer takes time of the cores on which the workers run.
    """
    (record,) = at.ended([at.submit(audit)], every=2.0)
    created, updated = (datetime.fromisoformat(record[moment]) for moment in ("created_at", "updated_at"))
    return (updated - created).total_seconds(), record, at.report(record["id"])


def an_hour(at: Service, audits: Sequence[dict[str, Any]]) -> float:
    """Audits an hour, from the first POST to the last report."""
    begun = time.perf_counter()
    at.ended([at.submit(audit) for audit in audits], every=0.25)
    return 3600 * len(audits) / (time.perf_counter() - begun)


@contextmanager
def running(module: Sequence[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`python -m` with these variables, ended by SIGKILL to its whole group."""
    with log.open("ab") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", *module],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def until(holds: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "the service did not come up"
        time.sleep(0.05)


def _answers(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/readyz", timeout=2).is_success
    except httpx2.HTTPError:
        return False
