"""Everything that can be killed is killed, at seeded moments: every audit ends once, as if nothing had happened."""

from __future__ import annotations

import random
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.worker.live import Live, end, live, postgresql, valkey
from vault.records import history

AUDITS = 24
SECONDS = 25
TOLD = {"CAVEAT_ATTEMPTS": "50", "CAVEAT_LEASE_SECONDS": "2"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_nothing_is_lost_and_nothing_is_done_twice(kind: str, tmp_path: Path) -> None:
    moments = random.Random(20)
    with ExitStack() as stack:
        url = stack.enter_context(postgresql()) if kind == "postgresql" else None
        with valkey(tmp_path / "valkey-0") as port:
            pass
        there = stack.enter_context(live(tmp_path, port, url))
        accepted = _disturbed(there, moments)
        with valkey(tmp_path / "valkey-last", port), there.worker("last", **TOLD):
            ended = [there.wait(job_id, seconds=90) for job_id in accepted]
    assert [record["state"] for record in ended] == ["succeeded"] * AUDITS
    by_seed: dict[int, set[str]] = {}
    for record in ended:
        by_seed.setdefault(record["audit"]["method"]["seed"], set()).add(record["report_digest"])
    assert all(len(digests) == 1 for digests in by_seed.values())
    attempts = [record["attempts"] for record in ended]
    assert max(attempts) > 1, "nothing was disturbed"
    if kind == "sqlite":
        database = there.client.application.extensions["caveat"].database
        for record in ended:
            happened = [event.what for event in history(database, "default", record["id"])]
            assert happened.count("succeed") == 1


def _disturbed(there: Live, moments: random.Random) -> list[str]:
    """Asks for audits while brokers and workers come and are killed; the ids of those that were accepted."""
    accepted: list[str] = []
    deadline = time.monotonic() + SECONDS
    turn = 0
    while time.monotonic() < deadline or len(accepted) < AUDITS:
        turn += 1
        with valkey(there.folder / f"valkey-{turn}", there.port), there.worker(f"w{turn}", **TOLD) as worker:
            for _ in range(moments.randint(1, 6)):
                if len(accepted) < AUDITS:
                    accepted.append(there.submit(moments.choice([0, 1000, 1500])))
            time.sleep(moments.uniform(0.5, 4))
            if moments.random() < 0.7:
                end(worker)
        if len(accepted) < AUDITS:
            accepted.append(there.submit())  # with nobody at the broker
    return accepted
