"""The guarantees of the state machine hold for any order of actions by clients, workers, the reaper and the clock."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, invariant, rule

from caveat_spec.artifacts import Queue
from caveat_spec.jobs import QUEUES
from caveat_spec.problem import ProblemDetails
from caveat_storage import job_records, job_state
from caveat_storage.job_records import Record
from caveat_storage.job_state import ENDED, STEPS, EndedError, Lease
from tests.storage.machine import OverDatabase

ATTEMPTS = 2
LASTS = timedelta(seconds=30)
PROBLEM = ProblemDetails.of("x", 422, "It is wrong.", "Mend it.")


class Lives(OverDatabase):
    """Jobs, the leases that workers believe to hold, and an adjustable clock."""

    jobs = Bundle("jobs")
    leases = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.moment = job_records.now()
        self.ended: dict[str, Record] = {}
        self.real_clock, job_state.clock = job_state.clock, lambda connection: self.moment

    def teardown(self) -> None:
        job_state.clock = self.real_clock
        super().teardown()

    @rule(target=jobs, queue=st.sampled_from(QUEUES))
    def submit(self, queue: Queue) -> str:
        return job_state.submit(self.database, "t", "model", {}, queue=queue).record.id

    @rule(target=leases, job=jobs, queues=st.sets(st.sampled_from(QUEUES), min_size=1))
    def claim(self, job: str, queues: set[Queue]) -> Lease | None:
        before = self.get(job)
        lease = job_state.claim(self.database, job, worker="w", lasts=LASTS, queues=queues)
        assert lease is None or (before.state == "queued" and lease.queue == before.queue in queues)
        return lease

    @rule(lease=leases)
    def heartbeat(self, lease: Lease | None) -> None:
        if lease is not None:
            order = job_state.heartbeat(self.database, lease)
            assert (order == "lost") == (not self.holds(lease))

    @rule(lease=leases, end=st.sampled_from(["succeed", "fail", "stop", "release", "retry", "advance"]))
    def finish(self, lease: Lease | None, end: str) -> None:
        if lease is None:
            return
        held = self.holds(lease)
        done = {
            "succeed": lambda: job_state.succeed(self.database, lease, {}),
            "fail": lambda: job_state.fail(self.database, lease, PROBLEM),
            "stop": lambda: job_state.stop(self.database, lease),
            "release": lambda: job_state.release(self.database, lease),
            "retry": lambda: job_state.retry(
                self.database, lease, PROBLEM, attempts=ATTEMPTS, backoff=timedelta(seconds=5)
            ),
            "advance": lambda: job_state.advance(self.database, lease, "testing", 0.5),
        }[end]()
        assert done == held

    @rule(job=jobs)
    def cancel(self, job: str) -> None:
        try:
            job_state.cancel(self.database, "t", "model", job)
        except EndedError:
            assert self.get(job).state in ("succeeded", "failed")

    @rule(seconds=st.sampled_from([1, 20, 40]))
    def wait(self, seconds: int) -> None:
        self.moment += timedelta(seconds=seconds)

    @rule()
    def reap(self) -> None:
        job_state.expire(self.database, attempts=ATTEMPTS, backoff=timedelta(seconds=5))
        for job in job_state.reroute(self.database, after=timedelta(seconds=30)):
            assert self.get(job).queue == "default"
        for queue in QUEUES:
            for job in job_state.unclaimed(self.database, published_before=timedelta(seconds=5), queue=queue):
                assert self.get(job).queue == queue

    @rule()
    def leave(self) -> None:
        job_state.ask_to_release(self.database, "w")

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
            for event in job_records.history(self.database, "t", record.id):
                before, after = STEPS[event.what]  # type: ignore[index]
                assert state == before, f"{event.what} in state {state}"
                state = after
            assert state == record.state

    def get(self, job: str) -> Record:
        record = job_records.get(self.database, "t", "model", job)
        assert record is not None
        return record

    def all(self) -> list[Record]:
        return job_records.page(self.database, "t", "model", limit=1000)

    def holds(self, lease: Lease) -> bool:
        with self.database.reading() as connection:
            row = connection.execute(job_state.jobs.select().where(job_state.jobs.c.id == lease.job_id)).one()
        return bool(row.lease_token == job_state.seal(lease.token) and row.state == "running")


Lives.TestCase.settings = settings(
    max_examples=15, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestLives = Lives.TestCase
