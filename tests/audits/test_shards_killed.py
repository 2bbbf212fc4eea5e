"""Two real workers share an audit, one is killed in the middle of a shard, and the report is that of one worker."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from caveat_storage.job_records import Database, history
from caveat_storage.tables import jobs
from caveat_worker.jobs.limits import Limits
from caveat_worker.jobs.supervisor import Finished, supervise
from tests.audits.conftest import Bench
from tests.worker.live import Live, end, live, valkey

TOLD = {"CAVEAT_SHARD_BATCHES": "1", "CAVEAT_THREADS": "1", "CAVEAT_ATTEMPTS": "5"}


@pytest.mark.slow
def test_a_killed_worker_changes_not_a_byte(bench: Bench, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    bench.save("pool.npy", rng.normal(size=(1100, 4)))  # two batches
    bench.document["examples"]["pool"] = {"arrays": "pool.npy"}
    for concept in bench.document["concepts"].values():
        concept["against"] = "pool"
    audit, places = bench.settled()
    alone = supervise(
        "audit",
        audit.model_dump(mode="json"),
        lambda digest, file: (file.write(places[digest].read_bytes()), None)[1],
        limits=Limits(threads=1),
        on_progress=lambda *_: None,
        should_stop=lambda: False,
    )
    assert isinstance(alone, Finished), alone
    folder = tmp_path / "live"
    folder.mkdir()
    with valkey(tmp_path / "valkey") as port, live(folder, port) as there:
        for digest, place in places.items():
            assert there.client.put(f"/v1/blobs/{digest}", data=place.read_bytes()).status_code == 201
        database = there.client.application.extensions["caveat"].database
        with (
            there.worker("one", including="caveat_worker.jobs.tasks", **TOLD) as one,
            there.worker("two", including="caveat_worker.jobs.tasks", **TOLD),
        ):
            asked = audit.model_dump_json()  # in its own order, which is the report's
            job_id = there.client.post("/v1/audits", data=asked, content_type="application/json").json["id"]
            _until_it_runs_a_shard(there, database, "one@test", job_id)
            end(one)
            (killed,) = _run_by(database, "one@test", job_id)  # which it has until its lease ends
            record = there.wait(job_id, seconds=120)
        assert record["state"] == "succeeded", record["problem"]
        shards = record["shards"]["of"]
        assert record["shards"]["done"] == shards > 2
        assert there.client.get(f"/v1/audits/{job_id}/report").data == alone.result
        redone = {row.id: row.attempts for row in _shards(database, job_id)}
        assert redone.pop(killed) == 2
        assert set(redone.values()) == {1}
        happened = [event.what for event in history(database, "default", job_id)]
        assert (happened.count("shard"), happened.count("divide"), happened.count("join")) == (shards, 1, 1)


def _until_it_runs_a_shard(there: Live, database: Database, worker: str, job_id: str) -> None:
    """Until this worker runs a shard of the audit, after another is done."""
    deadline = time.monotonic() + 60
    while not ((there.get(job_id)["shards"] or {"done": 0})["done"] and _run_by(database, worker, job_id)):
        assert time.monotonic() < deadline, "the worker never ran a shard"
        time.sleep(0.02)


def _run_by(database: Database, worker: str, job_id: str) -> list[str]:
    """The shards of the audit that this worker runs now."""
    return [str(row.id) for row in _shards(database, job_id) if (row.state, row.lease_owner) == ("running", worker)]


def _shards(database: Database, job_id: str) -> Any:
    with database.reading() as connection:
        return connection.execute(select(jobs).where(jobs.c.parent_id == job_id)).all()
