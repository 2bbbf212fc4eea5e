"""Two real workers share an audit, one is killed in the middle of a shard, and the report is that of one worker."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from caveat_storage.job_records import Database, history
from tests.audits.conftest import Bench
from tests.audits.queued import alone, shards_of, stored, submitted
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
    plain = alone(audit, places)
    folder = tmp_path / "live"
    folder.mkdir()
    with valkey(tmp_path / "valkey") as port, live(folder, port) as there:
        stored(there, places)
        database = there.client.application.extensions["caveat"].database
        with (
            there.worker("one", including="caveat_worker.jobs.tasks", **TOLD) as one,
            there.worker("two", including="caveat_worker.jobs.tasks", **TOLD),
        ):
            job_id = submitted(there, audit)
            _until_it_runs_a_shard(there, database, "one@test", job_id)
            end(one)
            (killed,) = _run_by(database, "one@test", job_id)  # which it has until its lease ends
            record = there.wait(job_id, seconds=120)
        assert record["state"] == "succeeded", record["problem"]
        shards = record["shards"]["of"]
        assert record["shards"]["done"] == shards > 2
        assert there.client.get(f"/v1/audits/{job_id}/report").data == plain.result
        redone = {row.id: row.attempts for row in shards_of(database, job_id)}
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
    return [str(row.id) for row in shards_of(database, job_id) if (row.state, row.lease_owner) == ("running", worker)]
