"""Real workers share their slots among tenants, whatever the order of messages, and also while the broker is silent."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis import Redis

from caveat_storage import job_records, job_state
from caveat_storage.job_records import Database
from tests.worker.live import MODEL, TABLE, Live, audit, digest, live, valkey

MANY = 40


def flood(there: Live, many: int = MANY) -> list[str]:
    """Queues and publishes audits of another tenant."""
    publisher, database = there.client.application.extensions["caveat"].publisher, database_of(there)
    sources = [digest(MODEL), digest(TABLE)]
    queued = [job_state.submit(database, "flood", "audit", audit(500), sources=sources).record.id for _ in range(many)]
    for job_id in queued:
        publisher.publish(job_id)
    return queued


def database_of(there: Live) -> Database:
    database: Database = there.client.application.extensions["caveat"].database
    return database


def ended(there: Live) -> int:
    return sum(
        many for (_, state), many in job_records.count_jobs(database_of(there)).items() if state in job_state.ENDED
    )


@contextmanager
def silent(port: int) -> Iterator[None]:
    """Stops a broker, which then accepts connections and answers nothing."""
    with Redis(port=port) as asked:
        pid = int(asked.info()["process_id"])
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_tiny_audit_passes_the_backlog_of_another_tenant(tmp_path: Path) -> None:
    with valkey(tmp_path / "valkey") as port, live(tmp_path, port) as there:
        flood(there)
        mine = there.submit(501)
        with there.worker():
            assert there.wait(mine)["state"] == "succeeded"
        assert ended(there) <= 4, "its message was the last of the list, and it had the second turn"


@pytest.mark.slow
def test_slots_go_on_while_the_broker_is_silent(tmp_path: Path) -> None:
    with valkey(tmp_path / "valkey") as port, live(tmp_path, port) as there:
        flood(there)
        with there.worker():
            while not ended(there):
                time.sleep(0.05)
            with silent(port):
                before = ended(there)
                mine = there.submit(501)
                assert there.wait(mine)["state"] == "succeeded"
                while ended(there) < before + 5:
                    time.sleep(0.05)
