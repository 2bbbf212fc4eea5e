"""Server-sent events of a job, from the client's last event until the job ends."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

from flask import Response

from caveat_service import long_request_slots
from caveat_storage import job_records
from caveat_storage.job_records import Database, Event

LOOK_SECONDS = 0.5
LONGEST_STREAM = 300.0  # seconds; the client then reconnects with Last-Event-ID
QUIET_SECONDS = 15.0  # seconds of silence after which a comment keeps the connection open
LAST = {"succeed", "fail", "cancel", "stop", "give_up"}


def stream(database: Database, tenant: str, job_id: str, *, after: int) -> Response:
    """Streams the events of a job; answers 204, so that a client does not reconnect, if it has seen the last one."""
    if any(event.what in LAST and event.seq <= after for event in job_records.history(database, tenant, job_id)):
        return Response(status=204)
    place = long_request_slots.require()
    response = Response(_events(database, tenant, job_id, after), content_type="text/event-stream")
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Accel-Buffering"] = "no"
    response.call_on_close(place.give_back)
    return response


def _events(database: Database, tenant: str, job_id: str, seen: int) -> Iterator[str]:
    end = time.monotonic() + LONGEST_STREAM
    spoke = time.monotonic()
    yield "retry: 1000\n\n"
    while time.monotonic() < end:
        for event in job_records.history(database, tenant, job_id, after=seen):
            seen, spoke = event.seq, time.monotonic()
            yield _written(event)
            if event.what in LAST:
                return
        if time.monotonic() - spoke > QUIET_SECONDS:
            spoke = time.monotonic()
            yield ": keep-alive\n\n"
        time.sleep(LOOK_SECONDS)


def _written(event: Event) -> str:
    data = json.dumps({"at": event.at.isoformat(), **event.data})
    return f"id: {event.seq}\nevent: {event.what}\ndata: {data}\n\n"
