"""The life of a job, model-checked: workers whose clocks disagree take a million steps, and no invariant breaks.

Each step is the storage's own code on SQLite. The outcome of a step is kept by the step and the state of the job, with
times relative to the clock of the database, since nothing else matters; every thousandth is tried again.
`docs/operations.md` lists the invariants.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from unittest import mock

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from caveat_spec.artifacts import Queue
from caveat_spec.problem import ProblemDetails
from caveat_storage import job_records, job_state
from caveat_storage.job_records import Database
from caveat_storage.job_state import ENDED, STEPS, EndedError, Lease, seal
from caveat_storage.tables import jobs, metadata

ATTEMPTS = 2
SECOND = timedelta(seconds=1)
LASTS, BACKOFF, QUIET, UNSERVED = 40 * SECOND, 20 * SECOND, 20 * SECOND, 40 * SECOND
OLDEST = -80
"""All times that are further in the past are alike: no limit above is larger."""
CLOCKS = {"slow": -60 * SECOND, "right": 0 * SECOND, "fast": 60 * SECOND}
"""Worker → how far its clock is ahead of the database's."""
QUEUES: tuple[tuple[Queue, ...], ...] = (("default",), ("default", "gpu"))
PROBLEM = ProblemDetails.of("x", 422, "It is wrong.", "Mend it.")
MOMENT = job_records.now()
TIMES = ("lease_until", "available_at", "rung_at", "updated_at")
RULES_IN_A_LIFE, STEPS_IN_A_LIFE = 10, 150
"""Most rules take one step, and one takes a walk of them; the second number is about what came of it."""
LIVES_AT_LEAST = 20
"""The first lives that Hypothesis tries are the simplest."""

Value = str | int | float | None


class Job(NamedTuple):
    """A job in the database; times are seconds from now by the database's clock."""

    queue: str
    state: str
    attempts: int
    cancel_requested: int
    release_requested: int
    lease_owner: str | None
    lease_token: str | None
    lease_until: int | None
    available_at: int
    rung_at: int | None
    updated_at: int
    stage: str
    progress: float
    result: str | None
    problem: str | None

    @property
    def held(self) -> bool:
        """Whether a lease lasts, by the clock of the database."""
        return self.state == "running" and self.lease_until is not None and self.lease_until >= 0


class Held(NamedTuple):
    """A lease that a worker believes to hold; `current` if it is the last one that was given."""

    current: bool
    worker: str
    attempt: int


class Action(NamedTuple):
    """What is done, by the worker whose clock counts."""

    what: str
    by: str
    lease: Held | None = None
    queues: tuple[Queue, ...] = QUEUES[1]


@dataclass(frozen=True)
class Outcome:
    """What a step returned, the events that it recorded, and the job after it."""

    answer: Any
    events: tuple[str, ...]
    job: Job


@dataclass
class Storage:
    """Takes steps of one job with the code of the storage, each pair of job and step once."""

    database: Database
    connection: Any
    known: dict[tuple[Job, Action], Outcome] = field(default_factory=dict)
    new: Job | None = None
    taken: int = 0

    def take(self, job: Job, step: Action) -> Outcome:
        """The outcome of a step."""
        found = self.known.get((job, step))
        if found is None:
            found = self.known[job, step] = self.run(job, step)
        self.taken += 1
        if self.taken % 1000 == 0:
            assert self.run(job, step) == found, "the outcome depends on more than the job and the step"
        return found

    def run(self, job: Job, step: Action) -> Outcome:
        """Takes the step on the database."""
        self._write(job)
        before = self._newest()
        with _clocks(CLOCKS[step.by]):
            answer = DO[step.what](self.database, step)
        recorded = self.connection.execute("SELECT what FROM events WHERE seq > ? ORDER BY seq", [before]).fetchall()
        return Outcome(answer, tuple(what for (what,) in recorded), self._read())

    def submitted(self) -> Job:
        """A new job."""
        if self.new is None:
            self.connection.execute("DELETE FROM jobs")
            with _clocks(CLOCKS["fast"]), mock.patch.object(job_state, "new_id", return_value=ID):
                job_state.submit(self.database, "t", "audit", {}, queue="gpu")
            self.new = self._read()
        return self.new

    def _write(self, job: Job) -> None:
        values = {name: _at(value) if name in TIMES else value for name, value in job._asdict().items()}
        said = ", ".join(f"{name} = :{name}" for name in values)
        self.connection.execute(f"UPDATE jobs SET {said}", values)

    def _read(self) -> Job:
        row = self.connection.execute(f"SELECT {', '.join(Job._fields)} FROM jobs").fetchone()
        named = dict(zip(Job._fields, row, strict=True))
        token = None if named["lease_token"] is None else CURRENT
        return Job(**named | {name: _from(named[name]) for name in TIMES} | {"lease_token": token})

    def _newest(self) -> int:
        return int(self.connection.execute("SELECT coalesce(max(seq), 0) FROM events").fetchone()[0])


ID = "0" * 26
TOKEN = "the current token"
CURRENT = seal(TOKEN)


def _at(seconds: int | None) -> str | None:
    """A relative time as SQLAlchemy writes it."""
    return None if seconds is None else (MOMENT + seconds * SECOND).strftime("%Y-%m-%d %H:%M:%S.%f")


def _from(written: str | None) -> int | None:
    if written is None:
        return None
    then = datetime.strptime(written, "%Y-%m-%d %H:%M:%S.%f").replace(tzinfo=MOMENT.tzinfo)
    return round((then - MOMENT).total_seconds())


@contextmanager
def _clocks(ahead: timedelta) -> Iterator[None]:
    """The clock of the database, and that of the machine where the code runs."""
    with (
        mock.patch.object(job_state, "clock", return_value=MOMENT),
        mock.patch.object(job_records, "clock", return_value=MOMENT),
        mock.patch.object(job_records, "now", return_value=MOMENT + ahead),
        mock.patch.object(job_state, "new_id", return_value=TOKEN),
    ):
        yield


def _lease(step: Action) -> Lease:
    assert step.lease is not None
    token = TOKEN if step.lease.current else "an earlier token"
    return Lease(ID, "t", "audit", "default", {}, token, LASTS, step.lease.attempt, step.lease.worker, None)


def _claim(database: Database, step: Action) -> int | None:
    lease = job_state.claim(database, ID, worker=step.by, lasts=LASTS, queues=step.queues)
    return None if lease is None else lease.attempt


def _cancel(database: Database, step: Action) -> str:
    try:
        record = job_state.cancel(database, "t", "audit", ID)
    except EndedError as ended:
        return str(ended)
    return str(record and record.state)


def _reap(database: Database, step: Action) -> tuple[list[str], list[str], list[str]]:
    expired = job_state.expire(database, attempts=ATTEMPTS, backoff=BACKOFF)
    moved = job_state.reroute(database, after=UNSERVED)
    queues: tuple[Queue, ...] = ("default", "gpu")
    heard = [one for queue in queues for one in job_state.unclaimed(database, published_before=QUIET, queue=queue)]
    return expired, moved, heard


DO: dict[str, Any] = {
    "claim": _claim,
    "cancel": _cancel,
    "reap": _reap,
    "ask back": lambda database, step: job_state.ask_to_release(database, step.by),
    "renew": lambda database, step: job_state.heartbeat(database, _lease(step)),
    "advance": lambda database, step: job_state.advance(database, _lease(step), "testing", 0.5),
    "succeed": lambda database, step: job_state.succeed(database, _lease(step), {"outcome": "pass"}),
    "fail": lambda database, step: job_state.fail(database, _lease(step), PROBLEM),
    "stop": lambda database, step: job_state.stop(database, _lease(step)),
    "release": lambda database, step: job_state.release(database, _lease(step)),
    "retry": lambda database, step: job_state.retry(
        database, _lease(step), PROBLEM, attempts=ATTEMPTS, backoff=BACKOFF
    ),
}
WALK = 50
OF_THE_HOLDER = ("renew", "advance", "succeed", "fail", "stop", "release", "retry")
WORKERS = st.sampled_from(sorted(CLOCKS))
MOVES: list[tuple[str, dict[str, Any]]] = [
    *[("wait", {"seconds": seconds}) for seconds in (20, 60)] * 3,
    *[("claim", {"by": by, "queues": queues}) for by in CLOCKS for queues in QUEUES],
    *[("act", {"which": which, "what": what}) for which in (0, 0, 1, 2) for what in OF_THE_HOLDER],
    *[(name, {"by": by}) for by in CLOCKS for name in ("reap", "ask_back")],
    ("cancel", {}),
    *[("submit_another", {})] * 4,
]


class Life(RuleBasedStateMachine):
    """A job, the leases that workers believe to hold, and the invariants of every step."""

    storage: Storage
    taken = 0
    """Steps, over all lives."""

    @initialize()
    def submit(self) -> None:
        self.job, self.leases = self.storage.submitted(), list[Held]()
        self.events = ["submit"]

    @precondition(lambda self: self.job.state in ENDED)
    @rule()
    def submit_another(self) -> None:
        self.submit()

    @rule(seconds=st.sampled_from([20, 60]))
    def wait(self, seconds: int) -> None:
        Life.taken += 1
        later = {name: then for name in TIMES if (then := getattr(self.job, name)) is not None}
        self.job = self.job._replace(**{name: max(then - seconds, OLDEST) for name, then in later.items()})

    @rule(by=WORKERS, queues=st.sampled_from(QUEUES))
    def claim(self, by: str, queues: tuple[Queue, ...]) -> None:
        before = self.job
        attempt = self.take(Action("claim", by, queues=queues))
        may = before.state == "queued" and before.available_at <= 0 and before.queue in queues
        assert (attempt is not None) == may, "a job is claimed if and only if it waits, in a queue that is served"
        if attempt is not None:
            self.leases = [lease._replace(current=False) for lease in self.leases][-3:]
            self.leases.append(Held(True, by, attempt))
            assert self.job.lease_until == LASTS.total_seconds(), "a lease lasts by the clock of the database"

    @precondition(lambda self: self.leases)
    @rule(which=st.integers(0, 3), what=st.sampled_from(OF_THE_HOLDER))
    def act(self, which: int, what: str) -> None:
        """A worker acts on a lease that it believes to hold, be it this one or an earlier one."""
        lease, before = self.leases[-1 - which % len(self.leases)], self.job
        holds = lease.current and before.state == "running" and before.lease_token is not None
        answer = self.take(Action(what, lease.worker, lease), holds=holds)
        if what == "renew":
            wanted = "cancel" if before.cancel_requested else "release" if before.release_requested else "go_on"
            assert answer == (wanted if holds else "lost"), (
                "the holder learns what it has to do, and others that they lost"
            )
        else:
            assert answer == holds, "only the holder of the lease takes a step"

    @rule()
    def cancel(self) -> None:
        before = self.job
        answer = self.take(Action("cancel", "right"))
        assert answer == ("cancelled" if before.state == "queued" else before.state)
        assert self.job.cancel_requested or before.state in ENDED

    @rule(by=WORKERS)
    def reap(self, by: str) -> None:
        before = self.job
        expired, _, heard = self.take(Action("reap", by))
        lost = before.state == "running" and not before.held
        assert bool(expired) == lost, "exactly the leases that ended by the clock of the database are taken back"
        waits = self.job.state == "queued" and self.job.available_at <= 0
        quiet = before.rung_at is None or before.rung_at < -QUIET.total_seconds() or before.queue != self.job.queue
        assert bool(heard) == (waits and (quiet or bool(expired))), "a job that may start is published"

    @rule(by=WORKERS)
    def ask_back(self, by: str) -> None:
        self.take(Action("ask back", by))

    @rule(moves=st.binary(min_size=WALK, max_size=2 * WALK))
    def walk(self, moves: bytes) -> None:
        """Many of the other steps, one a byte, which costs Hypothesis one choice."""
        for move in moves:
            name, arguments = MOVES[move % len(MOVES)]
            ready = {"act": bool(self.leases), "submit_another": self.job.state in ENDED}
            if ready.get(name, True):
                getattr(self, name)(**arguments)

    def take(self, step: Action, *, holds: bool = False) -> Any:
        """Takes a step and checks what holds for all of them."""
        Life.taken += 1
        before, outcome = self.job, self.storage.take(self.job, step)
        self.job = after = outcome.job
        for what in outcome.events:
            required, _ = STEPS[what]  # type: ignore[index]
            assert required == self.state_of_events(), f"{what} in state {self.state_of_events()}"
            self.events.append(what)
        assert after.state == self.state_of_events(), "the state is the sum of the events"
        assert 0 <= after.attempts <= ATTEMPTS, "attempts are bounded"
        assert after.cancel_requested >= before.cancel_requested, "no request to cancel is forgotten"
        if before.state in ENDED:
            assert (after, outcome.events) == (before, ()), "what has ended stays as it is"
        if before.held and not holds:
            kept = ("state", "lease_owner", "lease_token", "lease_until", "attempts", "stage", "result", "problem")
            assert all(getattr(after, name) == getattr(before, name) for name in kept), (
                "a lease that lasts is respected"
            )
        assert (after.lease_token is None) == (after.state != "running"), "who runs a job has a lease"
        assert (after.result is not None) == (after.state == "succeeded")
        return outcome.answer

    def state_of_events(self) -> str:
        return STEPS[self.events[-1]][1]  # type: ignore[index]


@pytest.fixture(scope="module")
def storage() -> Iterator[Storage]:
    database = Database("sqlite://")  # in memory, with one connection for the thread
    with database.writing() as connection:
        metadata.create_all(connection)
        raw = connection.connection.driver_connection
    yield Storage(database, raw)
    database.close()


def live(storage: Storage, steps: int, phases: Collection[Phase] = tuple(Phase)) -> int:
    """Lives until so many steps were taken; returns their number."""
    Life.storage, Life.taken, began, used = storage, 0, time.perf_counter(), time.process_time()
    lives = settings(
        max_examples=max(LIVES_AT_LEAST, steps // STEPS_IN_A_LIFE), stateful_step_count=RULES_IN_A_LIFE, deadline=None,
        database=None, phases=phases, suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    while Life.taken < steps:
        run_state_machine_as_test(Life, settings=lives)
    took, busy = time.perf_counter() - began, time.process_time() - used
    print(f"\n{Life.taken:,} steps of {len(storage.known):,} kinds in {took:.0f} s ({busy:.0f} s of processor time)")
    return Life.taken


def test_no_invariant_breaks_in_a_short_run(storage: Storage) -> None:
    assert live(storage, 1_500) >= 1_500


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_no_invariant_breaks_in_a_million_steps(storage: Storage) -> None:
    assert live(storage, 1_000_000) >= 1_000_000


@pytest.mark.parametrize("broken", ["a clock of its own", "a lease that anybody ends", "an end without its event"])
def test_a_broken_life_is_found(storage: Storage, broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The invariants can fail: each of these was a fault, or would be one."""
    if broken == "a clock of its own":  # as before: each machine went by its own
        monkeypatch.setitem(DO, "reap", lambda database, step: _with_its_own_clock(database, step))
    elif broken == "a lease that anybody ends":
        monkeypatch.setattr(job_state, "show", lambda connection, lease: jobs.c.lease_token.is_not(None))
    else:
        monkeypatch.setattr(job_state, "note", lambda *_: None)
    with pytest.raises(AssertionError):
        live(Storage(storage.database, storage.connection), 3_000, [Phase.generate])


def _with_its_own_clock(database: Database, step: Action) -> Any:
    with mock.patch.object(job_state, "clock", return_value=job_records.now()):
        return _reap(database, step)
