"""Two hundred clients at a time over PostgreSQL: answers or 429, nothing lost; `make load` prints how fast."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.audits.conftest import Bench, bench, small_files  # noqa: F401 - fixtures
from tests.worker.live import digest, environment, live, postgresql, serving, valkey

CLIENTS = 200
SECONDS = 120
AUDITS = 3
"""How many a client asks for; it cancels all, but for one in four clients, who want their last."""
CLIENT_TIMEOUT = 60  # seconds that a client waits for an answer


@dataclass
class Outcome:
    """What the clients saw."""

    seconds: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)
    """Audit → `wanted` or `cancelled`."""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_hundred_clients(tmp_path: Path, bench: Bench) -> None:  # noqa: F811
    audit, places = bench.settled()
    with ExitStack() as stack:
        port = stack.enter_context(valkey(tmp_path / "valkey"))
        database = stack.enter_context(postgresql())
        settings = environment(tmp_path, port, database)
        there = stack.enter_context(live(tmp_path, port, database))
        for name, place in places.items():
            there.client.put(f"/v1/blobs/{name}", data=place.read_bytes())
        url, _ = stack.enter_context(serving(tmp_path, **settings))
        stack.enter_context(
            there.worker(including="caveat_worker.jobs.tasks", CAVEAT_ATTEMPTS="5", CAVEAT_LEASE_SECONDS="30")
        )
        seen = Outcome()
        asyncio.run(_all(url, audit.model_dump(mode="json"), seen))
        took = sorted(seen.seconds)
        shares = ", ".join(
            f"{share:.0%} {took[int(share * len(took)) - 1] * 1000:.0f} ms" for share in (0.5, 0.95, 0.99)
        )
        print(f"\n{CLIENTS} clients, {SECONDS} s: {len(took)} answers, {len(took) / SECONDS:.0f} a second; {shares}")
        print(f"  statuses: {dict(sorted(seen.statuses.items()))}; errors: {len(seen.errors)}")
        ended = {job: there.wait(job, seconds=900)["state"] for job in seen.kept}
        print(f"  audits: {dict(Counter((wish, ended[job]) for job, wish in seen.kept.items()))}")
    assert seen.errors == []
    assert len(seen.kept) == CLIENTS * AUDITS
    assert all(ended[job] == "succeeded" for job, wish in seen.kept.items() if wish == "wanted")
    assert all(ended[job] in ("cancelled", "succeeded") for job, wish in seen.kept.items() if wish == "cancelled")


async def _all(url: str, audit: dict[str, Any], seen: Outcome) -> None:
    limits = httpx2.Limits(max_connections=CLIENTS, max_keepalive_connections=CLIENTS)
    until = time.monotonic() + SECONDS
    async with httpx2.AsyncClient(base_url=url, timeout=CLIENT_TIMEOUT, limits=limits) as client:
        await asyncio.gather(*(_one(client, number, audit, seen, until) for number in range(CLIENTS)))


async def _one(client: httpx2.AsyncClient, number: int, audit: dict[str, Any], seen: Outcome, until: float) -> None:
    """Asks for a few audits, and between them for whatever a client asks for."""
    moments = random.Random(number)
    mine: list[str] = []
    begins = sorted(moments.uniform(0, SECONDS * 0.8) for _ in range(AUDITS))
    began = time.monotonic()
    while time.monotonic() < until or len(mine) < AUDITS:
        if len(mine) < AUDITS and time.monotonic() - began > begins[len(mine)]:
            headers = {"Idempotency-Key": f"{number}-{len(mine)}"}
            asked = await _ask(client, seen, {202}, "POST", "/v1/audits", json=audit, headers=headers)
            if asked is None:
                continue
            mine.append(asked["id"])
            seen.kept[mine[-1]] = "wanted"
            again = await _ask(client, seen, {200, 202}, "POST", "/v1/audits", json=audit, headers=headers)
            if again is not None and again["id"] != mine[-1]:
                seen.errors.append(f"a replay made another audit of {mine[-1]}")
            if len(mine) < AUDITS or number % 4:
                await _ask(client, seen, {202, 409}, "POST", f"/v1/audits/{mine[-1]}:cancel")
                seen.kept[mine[-1]] = "cancelled"
        data = moments.randbytes(1000)
        match moments.randrange(6):
            case 0:
                await _ask(client, seen, {200, 201}, "PUT", f"/v1/blobs/{digest(data)}", content=data)
            case 1:
                await _ask(client, seen, {200}, "GET", "/v1/audits?limit=5")
            case 2:
                await _ask(client, seen, {200}, "GET", "/healthz")
            case 3 if mine:
                await _ask(client, seen, {200, 409}, "GET", f"/v1/audits/{moments.choice(mine)}/report")
            case _ if mine:
                await _ask(client, seen, {200}, "GET", f"/v1/audits/{moments.choice(mine)}")
        await asyncio.sleep(moments.uniform(0, 0.5))


async def _ask(
    client: httpx2.AsyncClient, seen: Outcome, may: set[int], method: str, path: str, **request: Any
) -> dict[str, Any] | None:
    began = time.monotonic()
    try:
        answer = await client.request(method, path, **request)
    except httpx2.HTTPError as fault:
        seen.errors.append(f"{method} {path}: {type(fault).__name__}")
        return None
    seen.seconds.append(time.monotonic() - began)
    seen.statuses[answer.status_code] += 1
    if answer.status_code == 429:
        await asyncio.sleep(1)
        return None
    if answer.status_code not in may:
        seen.errors.append(f"{method} {path}: {answer.status_code} {answer.text[:200]}")
        return None
    document: dict[str, Any] = answer.json()
    return document
