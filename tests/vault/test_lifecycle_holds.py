"""Whatever clients, workers, the reaper and the clock do, in any order, the life of a job keeps its promises."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, invariant, rule

from api_spec.artifacts import Queue
from api_spec.jobs import QUEUES
from api_spec.problem import Problem
from tests.vault.machine import OverDatabase
from vault import lifecycle, records
from vault.lifecycle import ENDED, STEPS, EndedError, Lease
from vault.records import Record

ATTEMPTS = 2
LASTS = timedelta(seconds=30)
PROBLEM = Problem.of("x", 422, "It is wrong.", "Mend it.")


class Lives(OverDatabase):
    """Jobs, the leases that workers believe to hold, and a clock that can be moved."""

    jobs = Bundle("jobs")
    leases = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.moment = records.now()
        self.ended: dict[str, Record] = {}
        self.real_now, lifecycle.now = lifecycle.now, lambda: self.moment

    def teardown(self) -> None:
        lifecycle.now = self.real_now
        super().teardown()

    @rule(target=jobs, queue=st.sampled_from(QUEUES))
    def submit(self, queue: Queue) -> str:
        return lifecycle.submit(self.database, "t", "model", {}, queue=queue).record.id

    @rule(target=leases, job=jobs, queues=st.sets(st.sampled_from(QUEUES), min_size=1))
    def claim(self, job: str, queues: set[Queue]) -> Lease | None:
        before = self.get(job)
        lease = lifecycle.claim(self.database, job, worker="w", lasts=LASTS, queues=queues)
        assert lease is None or (before.state == "queued" and lease.queue == before.queue in queues)
        return lease

    @rule(lease=leases)
    def heartbeat(self, lease: Lease | None) -> None:
        if lease is not None:
            order = lifecycle.heartbeat(self.database, lease)
            assert (order == "lost") == (not self.holds(lease))

    @rule(lease=leases, end=st.sampled_from(["succeed", "fail", "stop", "release", "retry", "advance"]))
    def finish(self, lease: Lease | None, end: str) -> None:
        if lease is None:
            return
        held = self.holds(lease)
        done = {
            "succeed": lambda: lifecycle.succeed(self.database, lease, {}),
            "fail": lambda: lifecycle.fail(self.database, lease, PROBLEM),
            "stop": lambda: lifecycle.stop(self.database, lease),
            "release": lambda: lifecycle.release(self.database, lease),
            "retry": lambda: lifecycle.retry(
                self.database, lease, PROBLEM, attempts=ATTEMPTS, backoff=timedelta(seconds=5)
            ),
            "advance": lambda: lifecycle.advance(self.database, lease, "fitting", 0.5),
        }[end]()
        assert done == held

    @rule(job=jobs)
    def cancel(self, job: str) -> None:
        try:
            lifecycle.cancel(self.database, "t", "model", job)
        except EndedError:
            assert self.get(job).state in ("succeeded", "failed")

    @rule(seconds=st.sampled_from([1, 20, 40]))
    def wait(self, seconds: int) -> None:
        self.moment += timedelta(seconds=seconds)

    @rule()
    def reap(self) -> None:
        lifecycle.expire(self.database, attempts=ATTEMPTS, backoff=timedelta(seconds=5))
        for job in lifecycle.reroute(self.database, after=timedelta(seconds=30)):
            assert self.get(job).queue == "default"
        for queue in QUEUES:
            for job in lifecycle.unclaimed(self.database, rung_before=timedelta(seconds=5), queue=queue):
                assert self.get(job).queue == queue

    @rule()
    def leave(self) -> None:
        lifecycle.ask_to_release(self.database, "w")

    @invariant()
    def what_has_ended_stays_as_it_is(self) -> None:
        for record in self.all():
            if record.state in ENDED:
                assert self.ended.setdefault(record.id, record) == record
            else:
                assert record.id not in self.ended

    @invariant()
    def attempts_are_bounded(self) -> None:
        assert all(0 <= record.attempts <= ATTEMPTS for record in self.all())

    @invariant()
    def every_state_is_the_sum_of_its_events(self) -> None:
        for record in self.all():
            state = None
            for event in records.history(self.database, "t", record.id):
                before, after = STEPS[event.what]  # type: ignore[index]
                assert state == before, f"{event.what} in state {state}"
                state = after
            assert state == record.state

    def get(self, job: str) -> Record:
        record = records.get(self.database, "t", "model", job)
        assert record is not None
        return record

    def all(self) -> list[Record]:
        return records.page(self.database, "t", "model", limit=1000)

    def holds(self, lease: Lease) -> bool:
        with self.database.reading() as connection:
            row = connection.execute(lifecycle.jobs.select().where(lifecycle.jobs.c.id == lease.job_id)).one()
        return bool(row.lease_token == lease.token and row.state == "running")


Lives.TestCase.settings = settings(
    max_examples=15, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestLives = Lives.TestCase
