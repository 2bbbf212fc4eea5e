"""One tenant floods and drips while issuer and broker are silent; another one notices nothing: `make neighbours`."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from threading import Event, Thread
from typing import Any

import httpx2
import pytest

from caveat_storage import job_state, keys
from caveat_storage.job_records import Database, new_id, now
from caveat_storage.tables import events, jobs
from tests.service.test_slow_clients import JSON, Service, dripping
from tests.worker.live import MODEL, TABLE, audit, digest, environment, live, postgresql, serving, valkey
from tests.worker.test_fair_workers import silent

QUEUED, CONNECTIONS, SLOTS = 10_000, 64, 2
SECONDS = 90
LONG = 2_000
"""Seed of an audit of two seconds; that of the other tenant's tiny one is less than a thousand."""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_another_tenant_notices_nothing(tmp_path: Path) -> None:
    with ExitStack() as stack:
        port = stack.enter_context(valkey(tmp_path / "valkey"))
        url = stack.enter_context(postgresql())
        there = stack.enter_context(live(tmp_path, port, url))
        issuer = stack.enter_context(socket.socket())
        issuer.bind(("127.0.0.1", 0))
        issuer.listen(1000)
        settings = environment(tmp_path, port, url) | {
            "CAVEAT_AUTH": "keys", "CAVEAT_OIDC_AUDIENCE": "caveat",
            "CAVEAT_OIDC_ISSUER": f"http://127.0.0.1:{issuer.getsockname()[1]}",
        }  # fmt: skip
        api, _ = stack.enter_context(serving(tmp_path, **settings))
        database = Database(url)
        stack.callback(database.close)
        service = Service(api, *(keys.issue(database, one, "ci", ["submit", "read"]) for one in ("mallory", "bob")))
        for data in (MODEL, TABLE):
            assert service.request("PUT", f"/v1/blobs/{digest(data)}", content=data).is_success
        _flood(database)
        publisher = there.client.application.extensions["caveat"].publisher
        for _ in range(2 * SLOTS):
            publisher.publish(new_id())
        stack.enter_context(there.worker(CAVEAT_CONCURRENCY=str(SLOTS), CAVEAT_WALL_SECONDS="600"))
        _until_busy(database)
        stack.enter_context(silent(port))
        stack.enter_context(dripping(service, CONNECTIONS, JSON))
        stack.enter_context(_strangers(api))
        began = now()
        probes, errors = _watched(service)
        ended = now()
        told = _events(database)
    waits, busy = _waits(told, began), _busy(told, began, ended)
    print(f"\n{QUEUED} jobs, {CONNECTIONS} slow connections, silent issuer and broker, {SECONDS} s, {SLOTS} slots")
    starts = f"p50 {_at(waits, 0.5):.2f} s, p99 {_at(waits, 0.99):.2f} s"
    print(f"  {len(waits)} tiny audits, from a free slot to the start: {starts}")
    print(f"  probes: {len(probes)}; p50 {_at(probes, 0.5) * 1000:.0f} ms, p99 {_at(probes, 0.99) * 1000:.0f} ms")
    print(f"  errors of the other tenant: {len(errors)}; slots busy: {busy:.1%}")
    assert errors == []
    assert len(waits) >= 5
    assert _at(waits, 0.99) <= 5
    assert _at(probes, 0.99) <= 1
    assert busy >= 0.95


def _flood(database: Database) -> None:
    moment = now()
    row = {
        "tenant": "mallory", "kind": "audit", "payload": audit(LONG), "state": "queued", "stage": "queued",
        "progress": 0.0, "attempts": 0, "cancel_requested": False, "release_requested": False,
        "available_at": moment, "published_at": moment, "created_at": moment, "updated_at": moment,
    }  # fmt: skip
    with database.writing() as connection:
        connection.execute(jobs.insert(), [row | {"id": new_id()} for _ in range(QUEUED)])


def _until_busy(database: Database) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with database.reading() as connection:
            if sum(job_state.fair_queue.running(connection)["mallory"].values()) == SLOTS:
                return
        time.sleep(0.1)
    raise AssertionError("the worker did not use all its slots")


class _strangers:
    """Twenty strangers with rubbish tokens."""

    def __init__(self, api: str) -> None:
        self._api, self._over = api, Event()
        self._threads = [Thread(target=self._knock) for _ in range(20)]

    def _knock(self) -> None:
        head = {"Authorization": "Bearer eyJhbGciOiJFUzI1NiIsImtpZCI6IngifQ.eyJzdWIiOiJ4In0.eA"}
        while not self._over.wait(1):
            try:
                httpx2.get(f"{self._api}/v1/audits", headers=head, timeout=30)
            except httpx2.TransportError:
                continue

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


def _watched(service: Service) -> tuple[list[float], list[str]]:
    """What the other tenant and the probes see: seconds of the probes, and errors."""
    over, errors, probes = Event(), list[str](), list[float]()

    def probe() -> None:
        while not over.wait(0.2):
            for path in ("/healthz", "/readyz"):
                began = time.monotonic()
                if httpx2.get(service.url + path, timeout=30).status_code != 200:
                    errors.append(path)
                probes.append(time.monotonic() - began)

    prober = Thread(target=probe)
    prober.start()
    deadline, number = time.monotonic() + SECONDS, 0
    while time.monotonic() < deadline:
        number += 1
        answer = service.request("POST", "/v1/audits", json=audit(500 + number % 400))
        if answer.status_code != 202:
            errors.append(f"POST {answer.status_code}")
            continue
        while time.monotonic() < deadline:
            record = service.request("GET", answer.headers["Location"])
            if not record.is_success or record.json()["state"] == "failed":
                errors.append(f"GET {record.status_code} {record.text[:200]}")
                break
            if record.json()["state"] == "succeeded":
                break
            time.sleep(0.2)
    over.set()
    prober.join()
    return probes, errors


def _events(database: Database) -> list[Any]:
    with database.reading() as connection:
        return list(connection.execute(events.select().order_by(events.c.at)))


def _waits(told: list[Any], began: datetime) -> list[float]:
    """Seconds between the first slot that became free after a tiny audit was submitted and the start of that audit."""
    ends = [event.at for event in told if event.what in ("succeed", "fail")]
    mine = [event for event in told if event.tenant == "bob" and event.at >= began]
    started = {event.job_id: event.at for event in mine if event.what == "claim"}
    waits = []
    for event in mine:
        if event.what == "submit" and event.job_id in started:
            free = min((end for end in ends if end >= event.at), default=event.at)
            waits.append(max((started[event.job_id] - free).total_seconds(), 0.0))
    return waits


def _busy(told: list[Any], began: datetime, ended: datetime) -> float:
    """The part of the time in which the slots ran a job."""
    starts = {event.job_id: event.at for event in told if event.what == "claim"}
    ends = {event.job_id: event.at for event in told if event.what in ("succeed", "fail")}
    ran = sum(
        max((min(ends.get(job, ended), ended) - max(start, began)).total_seconds(), 0.0)
        for job, start in starts.items()
    )
    return ran / (SLOTS * (ended - began).total_seconds())


def _at(values: list[float], share: float) -> float:
    return sorted(values)[min(int(share * len(values)), len(values) - 1)]
