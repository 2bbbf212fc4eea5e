"""How long the console's pages take with 10,000 audits: `python -m bench.console`.

The audits are rows of a real database, 200 of them with reports, and the pages are asked for through the application in
this process: what is measured is the work of the service, not of a network.
"""

from __future__ import annotations

import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from werkzeug.test import TestResponse

from caveat_reports.canonical import canonical
from caveat_storage.job_records import Database, new_id, now
from caveat_storage.tables import jobs
from tests.api import api
from tests.api_spec import handmade
from tests.worker.live import audit, digest

AUDITS = 10_000
REPORTS = 200
REQUESTS = 100
PROMISED = 200.0
"""Milliseconds within which 95 of 100 answers have to come."""


def main() -> int:
    """Prints a line for each page; fails if one is too slow."""
    with tempfile.TemporaryDirectory() as folder, api(Path(folder)) as app:
        context = app.extensions["caveat"]
        report = canonical(handmade.report())
        context.blobs.put(io.BytesIO(report), digest(report))
        newest = fill(context.database, digest(report))
        browser = app.test_client()
        slow = False
        for path in (
            "/",
            "/?state=succeeded",
            f"/?page_token={newest[-1]}",
            f"/audits/{newest[-1]}",
            f"/audits/{newest[-1]}/report",
            f"/audits/{newest[-1]}/history",
            f"/compare?before={newest[0]}&now={newest[-1]}",
            "/models",
            "/access",
        ):
            taken = [timed(browser.get, path) for _ in range(REQUESTS)]
            wall, processor = (sorted(1000 * one[clock] for one in taken) for clock in (0, 1))
            p95 = int(REQUESTS * 0.95) - 1
            slow |= wall[p95] > PROMISED
            shown = path.replace(newest[-1], "ID").replace(newest[0], "ID")
            print(
                f"{shown:32} median {statistics.median(wall):6.1f} ms   p95 {wall[p95]:6.1f} ms   "
                f"of the processor: {statistics.median(processor):6.1f} and {processor[p95]:6.1f} ms"
            )
        return int(slow)


def fill(database: Database, report: str) -> list[str]:
    """Writes the audits; returns the ids of those with reports, the oldest first."""
    rows = []
    for number in range(AUDITS):
        done = number >= AUDITS - REPORTS
        rows.append(
            {
                "id": new_id(),
                "tenant": "default",
                "kind": "audit",
                "payload": audit() | {"about": {"title": f"model {number % 7}"}},
                "state": "succeeded" if done else ("failed", "cancelled")[number % 2],
                "stage": "done",
                "progress": 1.0,
                "attempts": 1,
                "result": {"outcome": "fail"} if done else None,
                "report_digest": report if done else None,
                "cancel_requested": False,
                "release_requested": False,
                "available_at": now(),
                "created_at": now(),
                "updated_at": now(),
            }
        )
    with database.writing() as connection:
        connection.execute(jobs.insert(), rows)
    return sorted(row["id"] for row in rows if row["report_digest"])


def timed(get: Callable[[str], TestResponse], path: str) -> tuple[float, float]:
    """Seconds that a page takes, and seconds of the processor."""
    began = time.perf_counter(), time.thread_time()
    answered = get(path)
    assert answered.status_code == 200, answered.text
    return time.perf_counter() - began[0], time.thread_time() - began[1]


if __name__ == "__main__":
    sys.exit(main())
