"""Every fault by its true name: disks, clocks, processes, bytes and networks that fail, on each database.

`make faults` prints what each ended with. The faults are real: small file systems that are full, read-only or have lost
their blocks; signals; a proxy that is cut. Only the clocks are simulated (`skewed`), and the audits (`stub_pipeline`).
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
import sqlalchemy

from caveat_storage.job_records import Database, Event, history
from caveat_storage.job_state import ENDED, STEPS
from tests.worker import stub_pipeline as stub
from tests.worker.disks import can_mount, cut_off, disk, full, read_only
from tests.worker.live import (
    MODEL,
    TABLE,
    audit,
    digest,
    end,
    environment,
    postgresql,
    start_api,
    start_worker,
    unused_port,
    valkey,
)  # fmt: skip
from tests.worker.partition import Partition, partition
from tests.worker.test_supervisor import jobs

MOST_SECONDS = 60.0
LAST = {step for step, (_, after) in STEPS.items() if after in ENDED}


@dataclass
class Place:
    """An installation whose disks and networks can fail."""

    folder: Path
    kind: str
    database_url: str
    real_database_url: str
    broker: Partition
    network: Partition | None
    skew: Path
    settings: dict[str, str]
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    accepted: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.settings['CAVEAT_PORT']}"

    def start(self, name: str = "worker") -> None:
        """Starts a worker and waits for its heartbeat."""
        heartbeat = self.heartbeat(name)
        heartbeat.unlink(missing_ok=True)
        settings = self.settings | {"CAVEAT_HEARTBEAT_FILE": str(heartbeat)}
        self.processes[name] = start_worker(
            self.folder, name, settings, including="tests.worker.stub_tasks,tests.worker.skewed"
        )
        until(heartbeat.exists, 120)

    def heartbeat(self, name: str = "worker") -> Path:
        return self.folder / f"heartbeat-{name}"

    def ask(self, method: str, path: str, **also: Any) -> httpx2.Response:
        return httpx2.request(method, self.url + path, timeout=MOST_SECONDS, **also)

    def submit(self, seed: int) -> str:
        answer = self.ask("POST", "/v1/audits", json=audit(seed))
        assert answer.status_code == 202, answer.text
        self.accepted.append(str(answer.json()["id"]))
        return self.accepted[-1]

    def record(self, job: str) -> dict[str, Any]:
        with suppress(httpx2.TransportError):
            answer = self.ask("GET", f"/v1/audits/{job}")
            if answer.status_code == 200:
                found: dict[str, Any] = answer.json()
                return found
        return {"state": "unknown"}

    def ended(self, job: str) -> dict[str, Any]:
        until(lambda: self.record(job)["state"] in ENDED, 2 * MOST_SECONDS)
        return self.record(job)

    def causes(self, job: str) -> set[str]:
        """Why a job was started again, or failed."""
        problems = [one.data.get("problem") for one in self.history(job)]
        return {str(problem).rpartition(":")[2] for problem in problems if problem}

    def history(self, job: str) -> list[Event]:
        """The steps of a job."""
        database = Database(self.real_database_url)
        try:
            return history(database, "default", job)
        finally:
            database.close()

    def place(self, data: bytes) -> Path:
        name = digest(data).removeprefix("sha256:")
        return self.folder / "blobs" / "sha256" / name[:2] / name

    def log(self, name: str = "worker") -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")


def until(reached: Callable[[], Any], seconds: float) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := reached()):
        assert time.monotonic() < deadline, "this was not reached in time"
        time.sleep(0.1)
    return found


# What each fault does and what it has to end with: (answer or state, cause).
Outcome = tuple[str, str]
Fault = Callable[[Place], Outcome]
FAULTS: dict[str, Fault] = {}
ONLY: dict[str, str] = {}


def fault(name: str, *, only: str = "") -> Callable[[Fault], Fault]:
    def register(run: Fault) -> Fault:
        FAULTS[name] = run
        ONLY[name] = only
        return run

    return register


def _told(answer: httpx2.Response) -> Outcome:
    problem = answer.json()
    assert problem["remedy"]
    return str(answer.status_code), problem["type"].rpartition(":")[2]


def _failed(there: Place, seed: int = stub.FINISH) -> Outcome:
    record = there.ended(there.submit(seed))
    assert record["problem"] is not None, record
    assert record["problem"]["remedy"]
    return record["state"], record["problem"]["type"].rpartition(":")[2]


def _upload(there: Place) -> httpx2.Response:
    data = os.urandom(200_000)
    return there.ask("PUT", f"/v1/blobs/{digest(data)}", content=data)


def _upload_during(there: Place, broken: AbstractContextManager[object]) -> Outcome:
    with broken:
        told = _told(_upload(there))
        ready = there.ask("GET", "/readyz")
        assert (ready.status_code, ready.json()["problems"]) == (503, [told[1]])
    assert _upload(there).status_code == 201
    return told


@fault("blobs: disk full at an upload")
def _(there: Place) -> Outcome:
    return _upload_during(there, full(there.folder / "blobs"))


@fault("blobs: disk read-only at an upload")
def _(there: Place) -> Outcome:
    return _upload_during(there, read_only(there.folder / "blobs"))


@fault("blobs: disk full when a report is stored")
def _(there: Place) -> Outcome:
    job = there.submit(2000)
    until(lambda: there.record(job)["state"] == "running", MOST_SECONDS)
    with full(there.folder / "blobs"):
        record = there.ended(job)
    return record["state"], record["problem"]["type"].rpartition(":")[2]


@fault("blobs: I/O error when a model is read")
def _(there: Place) -> Outcome:
    with cut_off(there.place(MODEL).parent):
        return _failed(there)


@fault("blobs: bytes missing")
def _(there: Place) -> Outcome:
    there.place(TABLE).unlink()
    told = _failed(there)
    assert there.ask("PUT", f"/v1/blobs/{digest(TABLE)}", content=TABLE).status_code == 200
    return told


@fault("blobs: bytes changed")
def _(there: Place) -> Outcome:
    there.place(TABLE).write_bytes(b"s,d\n1,1\n")
    told = _failed(there)
    assert there.ask("PUT", f"/v1/blobs/{digest(TABLE)}", content=TABLE).status_code == 200
    return told


@fault("scratch: disk full before a job")
def _(there: Place) -> Outcome:
    with full(there.folder / "scratch"):
        return _failed(there)


@fault("scratch: disk full during a job")
def _(there: Place) -> Outcome:
    ballast = there.folder / "scratch" / "ballast"
    ballast.write_bytes(bytes(63 << 20))
    try:
        return _failed(there, stub.FILL)
    finally:
        ballast.unlink()


@fault("scratch: disk read-only")
def _(there: Place) -> Outcome:
    with read_only(there.folder / "scratch"):
        return _failed(there)


def _cached(there: Place, broken: AbstractContextManager[object], name: str) -> Outcome:
    before = len(there.log())
    with broken:
        record = there.ended(there.submit(stub.CACHE))
    until(lambda: name in there.log()[before:], MOST_SECONDS)
    return record["state"], f"{name} (log)"


@fault("cache: disk full")
def _(there: Place) -> Outcome:
    return _cached(there, full(there.folder / "cache"), "No space left on device")


@fault("cache: disk read-only")
def _(there: Place) -> Outcome:
    return _cached(there, read_only(there.folder / "cache"), "Read-only file system")


def _in_vain(there: Place) -> Outcome:
    """Submits audits until one is refused: pages that the database has already may still take some."""
    for _ in range(400):
        answer = there.ask("POST", "/v1/audits", json=audit(stub.FINISH))
        if answer.status_code != 202:
            return _told(answer)
        there.accepted.append(str(answer.json()["id"]))
    raise AssertionError("nothing was refused")


@fault("database: disk full")
def _(there: Place) -> Outcome:
    with full(there.folder / "database"):
        return _in_vain(there)


@fault("database: read-only after a failover", only="postgresql")
def _(there: Place) -> Outcome:
    _execute(there, "ALTER DATABASE postgres SET default_transaction_read_only = on")
    try:
        _hang_up(there)
        return _in_vain(there)
    finally:
        _execute(there, "SET default_transaction_read_only = off", "ALTER DATABASE postgres RESET ALL")
        _hang_up(there)


def _execute(there: Place, *statements: str) -> None:
    engine = sqlalchemy.create_engine(there.real_database_url, poolclass=sqlalchemy.NullPool)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def _hang_up(there: Place) -> None:
    _execute(
        there, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname <> ''"
    )


@fault("database: locked by somebody", only="sqlite")
def _(there: Place) -> Outcome:
    engine = sqlalchemy.create_engine(there.real_database_url, poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        told = _told(there.ask("POST", "/v1/audits", json=audit()))
        connection.rollback()
    return told


@fault("database: silent network", only="postgresql")
def _(there: Place) -> Outcome:
    job = there.submit(1500)
    assert there.network is not None
    there.network.become("silent")
    try:
        ready = there.ask("GET", "/readyz")
        assert (ready.status_code, ready.json()["problems"]) == (503, ["database-away"])
        assert there.ask("GET", "/healthz").status_code == 200
        told = _told(there.ask("POST", "/v1/audits", json=audit()))
    finally:
        there.network.become("open")
    assert there.ended(job)["state"] == "succeeded"
    return told


@fault("clock: a worker is 60 seconds ahead")
def _(there: Place) -> Outcome:
    return _skewed(there, 60)


@fault("clock: a worker is 60 seconds behind")
def _(there: Place) -> Outcome:
    return _skewed(there, -60)


def _skewed(there: Place, seconds: float) -> Outcome:
    """On PostgreSQL a clock that differs changes nothing; SQLite's clock is that of its machine, which jumps."""
    job = there.submit(3000)
    until(lambda: there.record(job)["state"] == "running", MOST_SECONDS)
    there.skew.write_text(str(seconds))
    try:
        record = there.ended(job)
    finally:
        there.skew.write_text("0")
    if there.kind == "postgresql":
        assert record["attempts"] == 1
    return record["state"], f"{record['attempts']} attempt" if there.kind == "postgresql" else "any attempt"


@fault("process: a job killed")
def _(there: Place) -> Outcome:
    return _failed(there, stub.KILLED)


def _signalled(there: Place, found: Callable[[], int], how: int, seed: int) -> Outcome:
    job = there.submit(seed)
    os.kill(until(found, MOST_SECONDS), how)
    record = there.ended(job)
    return record["state"], ", ".join(sorted(there.causes(job))) or "none"


def _jobs(there: Place) -> list[tuple[int, int]]:
    pool = Path(f"/proc/{there.processes['worker'].pid}/task").glob("*/children")
    return [one for task in pool for pid in task.read_text().split() for one in jobs(int(pid))]


@fault("process: a job stopped")
def _(there: Place) -> Outcome:
    return _signalled(there, lambda: _jobs(there)[0][0] if _jobs(there) else 0, signal.SIGSTOP, 4000)


@fault("process: the forkserver of a job stopped")
def _(there: Place) -> Outcome:
    before = there.heartbeat()
    job = there.submit(2000)
    os.kill(until(lambda: _jobs(there)[0][1] if _jobs(there) else 0, MOST_SECONDS), signal.SIGSTOP)
    until(lambda: "no heartbeat" in there.log(), MOST_SECONDS)
    stale = before.stat().st_mtime
    time.sleep(2)
    assert before.stat().st_mtime == stale, "the heartbeat is red"
    record = there.ended(job)
    until(lambda: before.stat().st_mtime > stale, MOST_SECONDS)
    return record["state"], ", ".join(sorted(there.causes(job)))


@fault("process: a worker killed")
def _(there: Place) -> Outcome:
    job = there.submit(4000)
    until(lambda: there.record(job)["state"] == "running", MOST_SECONDS)
    end(there.processes["worker"])
    there.start()
    record = there.ended(job)
    return record["state"], f"{record['attempts']} attempts"


@fault("broker: silent network")
def _(there: Place) -> Outcome:
    return _without_broker(there, "silent")


@fault("broker: connections refused")
def _(there: Place) -> Outcome:
    return _without_broker(there, "refusing")


def _without_broker(there: Place, how: Any) -> Outcome:
    there.broker.become(how)
    try:
        job = there.submit(stub.FINISH)
        assert there.ask("GET", "/readyz").json()["broker"] == "down"
    finally:
        there.broker.become("open")
    return there.ended(job)["state"], "broker down (readyz)"


EXPECTED: dict[str, Outcome] = {
    "blobs: disk full at an upload": ("507", "blobs-full"),
    "blobs: disk read-only at an upload": ("503", "blobs-failing"),
    "blobs: disk full when a report is stored": ("failed", "blobs-full"),
    "blobs: I/O error when a model is read": ("failed", "blobs-failing"),
    "blobs: bytes missing": ("failed", "missing-bytes"),
    "blobs: bytes changed": ("failed", "corrupt-bytes"),
    "scratch: disk full before a job": ("failed", "scratch-full"),
    "scratch: disk full during a job": ("failed", "scratch-full"),
    "scratch: disk read-only": ("failed", "scratch-failing"),
    "cache: disk full": ("succeeded", "No space left on device (log)"),
    "cache: disk read-only": ("succeeded", "Read-only file system (log)"),
    "database: disk full": ("507", "database-full"),
    "database: read-only after a failover": ("503", "database-failing"),
    "database: locked by somebody": ("503", "database-away"),
    "database: silent network": ("503", "database-away"),
    "clock: a worker is 60 seconds ahead": ("succeeded", "1 attempt"),
    "clock: a worker is 60 seconds behind": ("succeeded", "1 attempt"),
    "process: a job killed": ("failed", "child-died"),
    "process: a job stopped": ("succeeded", "process-stopped"),
    "process: the forkserver of a job stopped": ("succeeded", "process-stopped"),
    "process: a worker killed": ("succeeded", "2 attempts"),
    "broker: silent network": ("succeeded", "broker down (readyz)"),
    "broker: connections refused": ("succeeded", "broker down (readyz)"),
}


@contextmanager
def installation(folder: Path, kind: str) -> Iterator[Place]:
    """An API and a worker over disks of their own, a database and a broker behind networks that can be cut."""
    with ExitStack() as stack:
        for part in ("blobs", "scratch", "cache"):
            stack.enter_context(disk(folder / part))
        on_disk = stack.enter_context(disk(folder / "database", size="120m"))
        real = f"sqlite:///{on_disk / 'caveat.db'}"
        url, network = real, None
        if kind == "postgresql":
            real = stack.enter_context(postgresql(on_disk))
            socket_folder = sqlalchemy.engine.make_url(real).query["host"]
            network = stack.enter_context(partition(Path(str(socket_folder)) / ".s.PGSQL.5432"))
            url = f"postgresql+psycopg://postgres:@127.0.0.1:{network.port}/postgres"
        (folder / "valkey").mkdir()
        broker = stack.enter_context(partition(stack.enter_context(valkey(folder / "valkey"))))
        skew = folder / "skew"
        skew.write_text("0")
        settings = environment(folder, broker.port, url) | {
            "CAVEAT_PORT": str(unused_port()), "TMPDIR": str(folder / "scratch"), "SKEW_FILE": str(skew),
            "CAVEAT_CACHE_BYTES": str(1 << 20), "CAVEAT_CACHE_FOLDER": str(folder / "cache" / "own"),
        }  # fmt: skip
        there = Place(folder, kind, url, real, broker, network, skew, settings)
        there.processes["api"] = start_api(folder, settings)
        stack.callback(lambda: [end(process) for process in there.processes.values()])
        until(lambda: _answers(there), 120)
        for data in (MODEL, TABLE):
            assert there.ask("PUT", f"/v1/blobs/{digest(data)}", content=data).status_code == 201
        there.start()
        yield there


def _answers(there: Place) -> bool:
    with suppress(httpx2.TransportError):
        return httpx2.get(f"{there.url}/healthz").is_success
    return False


def on(kind: str) -> list[str]:
    """The faults that a database of a kind can have."""
    return [name for name in FAULTS if ONLY[name] in ("", kind)]


@pytest.fixture(scope="class")
def there(request: pytest.FixtureRequest) -> Iterator[Place]:
    """One installation for all faults on a database, which has to be well again after each.

    Its folder is not pytest's: PostgreSQL runs as another user, and every pytest that starts shuts its own to all.
    """
    with tempfile.TemporaryDirectory(prefix="faults-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        with installation(Path(folder), request.cls.kind) as place:
            yield place


pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not can_mount(), reason="only root can make disks that fail"),
]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every fault that the database of a class can have."""
    if "name" in metafunc.fixturenames:
        metafunc.parametrize("name", on(metafunc.cls.kind))


class Faults:
    """What holds of every fault, on a database of the `kind`."""

    kind: str

    def test_a_fault_ends_in_time_with_its_cause_and_every_audit_ends_once(self, there: Place, name: str) -> None:
        began, first = time.monotonic(), len(there.accepted)
        outcome = FAULTS[name](there)
        took = time.monotonic() - began
        _calm(there)
        accepted = there.accepted[first:]
        ends = [_ends(there, job) for job in accepted]
        print(f"\n  {there.kind:<11}{name:<44}{outcome[0]:<10} {outcome[1]:<34}{took:5.1f} s, {len(accepted)} audits")
        jumps = there.kind == "sqlite" and name.startswith("clock")
        assert outcome == (("succeeded", "any attempt") if jumps else EXPECTED[name])
        assert took <= MOST_SECONDS
        assert ends == [1] * len(accepted), "none is lost, and none ended twice"


@pytest.mark.xdist_group("faults on SQLite")
class TestOnSQLite(Faults):
    kind = "sqlite"


@pytest.mark.xdist_group("faults on PostgreSQL")
class TestOnPostgreSQL(Faults):
    kind = "postgresql"


def _ends(there: Place, job: str) -> int:
    """How often an audit ended."""
    assert there.ended(job)["state"] in ENDED
    return sum(one.what in LAST for one in there.history(job))


def _calm(there: Place) -> None:
    """Waits until an audit succeeds again, as before the fault."""
    if there.processes["worker"].poll() is not None:
        there.start()
    job = until(lambda: _accepted(there), 2 * MOST_SECONDS)
    assert there.ended(job)["state"] == "succeeded"


def _accepted(there: Place) -> str:
    with suppress(httpx2.TransportError):
        answer = there.ask("POST", "/v1/audits", json=audit(stub.FINISH))
        if answer.status_code == 202:
            there.accepted.append(str(answer.json()["id"]))
            return there.accepted[-1]
    return ""
