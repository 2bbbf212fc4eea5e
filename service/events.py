"""Server-sent events: what happens to a job, from wherever the client has come to, until it ends."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

from flask import Response

from service import patience
from service.state import behind
from vault import records
from vault.records import Database, Event

LOOK_SECONDS = 0.5
LONGEST_STREAM = 300.0  # seconds; the client comes back by itself, with Last-Event-ID
QUIET_SECONDS = 15.0  # after which a comment keeps the connection open
LAST = {"succeed", "fail", "cancel", "stop", "give_up"}


def stream(database: Database, tenant: str, job_id: str, *, after: int) -> Response:
    """The events of a job as a response that goes on; 204, which stops a client's coming back, once all were seen."""
    if any(event.what in LAST and event.seq <= after for event in records.history(database, tenant, job_id)):
        return Response(status=204)
    patience.insist()
    response = Response(_events(database, tenant, job_id, after), content_type="text/event-stream")
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Accel-Buffering"] = "no"
    response.call_on_close(behind().places.release)
    return response


def _events(database: Database, tenant: str, job_id: str, seen: int) -> Iterator[str]:
    end = time.monotonic() + LONGEST_STREAM
    spoke = time.monotonic()
    yield "retry: 1000\n\n"
    while time.monotonic() < end:
        for event in records.history(database, tenant, job_id, after=seen):
            seen, spoke = event.seq, time.monotonic()
            yield _written(event)
            if event.what in LAST:
                return
        if time.monotonic() - spoke > QUIET_SECONDS:
            spoke = time.monotonic()
            yield ": still here\n\n"
        time.sleep(LOOK_SECONDS)


def _written(event: Event) -> str:
    data = json.dumps({"at": event.at.isoformat(), **event.data})
    return f"id: {event.seq}\nevent: {event.what}\ndata: {data}\n\n"
