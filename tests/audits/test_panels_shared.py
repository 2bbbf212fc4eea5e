"""Two real workers share the panels of an audit's explanations, and report and maps are those of one worker."""

from __future__ import annotations

from pathlib import Path

import pytest

from caveat_storage.job_records import history
from tests.audits.conftest import Bench
from tests.audits.queued import alone, shards_of, stored, submitted
from tests.audits.test_explain import glyphs, show, words
from tests.worker.live import live, valkey

__all__ = ["glyphs", "words"]
"""Fixtures that another module has."""

TOLD = {"CAVEAT_SHARD_BATCHES": "1", "CAVEAT_THREADS": "1"}


@pytest.mark.slow
def test_panels_through_the_broker_give_the_bytes_of_one_worker(glyphs: Bench, tmp_path: Path) -> None:
    show(glyphs, "gradient_x_input", {"smoothgrad": {"samples": 256}}, {"layer": "bright", "atoms": "positions"})
    glyphs.document["keep"] = "maps"
    audit, places = glyphs.settled()
    plain = alone(audit, places)
    assert plain.maps is not None
    folder = tmp_path / "live"
    folder.mkdir()
    with valkey(tmp_path / "valkey") as port, live(folder, port) as there:
        stored(there, places)
        database = there.client.application.extensions["caveat"].database
        with (
            there.worker("one", including="caveat_worker.jobs.tasks", **TOLD),
            there.worker("two", including="caveat_worker.jobs.tasks", **TOLD),
        ):
            job_id = submitted(there, audit)
            record = there.wait(job_id, seconds=120)
        assert record["state"] == "succeeded", record["problem"]
        parts = [row.payload["panels"] for row in shards_of(database, job_id)]
        smooth = {
            panel for part in parts for one in part if one["element"] == 1 for panel in range(one["start"], one["stop"])
        }
        assert (smooth, record["shards"]) == ({0, 1, 2, 3}, {"done": len(parts), "of": len(parts)})
        assert len(parts) > 2
        assert there.client.get(f"/v1/audits/{job_id}/report").data == plain.result
        assert there.client.get(f"/v1/audits/{job_id}/maps").data == plain.maps
        happened = [event.what for event in history(database, "default", job_id)]
        assert (happened.count("divide"), happened.count("shard"), happened.count("join")) == (1, len(parts), 1)
