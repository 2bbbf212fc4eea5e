"""The forms that the service shows to raters, in a real browser: by keyboard alone, on a telephone, accessible."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import httpx2
import pytest

from caveat_reports.canonical import canonical
from caveat_storage import blob_registry, job_state
from caveat_storage.job_records import Database
from tests.browser import Browser, browser
from tests.client import rated
from tests.client.test_study_browser import choose, focus, violations
from tests.worker.live import MODEL, TABLE, audit, digest, serving

pytestmark = pytest.mark.slow


@contextmanager
def served(folder: Path) -> Iterator[tuple[str, str, list[str]]]:
    """A service with a study of two raters: its URL, the study's id, and the raters' links."""
    with serving(folder) as (url, _):
        for data in (MODEL, TABLE):
            httpx2.put(f"{url}/v1/blobs/{digest(data)}", content=data).raise_for_status()
        job = httpx2.post(f"{url}/v1/audits", json=audit()).json()["id"]
        database, report = Database(f"sqlite:///{folder / 'caveat.db'}"), canonical(rated.report())
        lease = job_state.claim(database, job, worker="celery@host", lasts=timedelta(hours=1))
        assert lease is not None
        blob_registry.opened(str(folder / "blobs"), database).put(io.BytesIO(report), digest(report))
        assert job_state.succeed(database, lease, {"outcome": None}, digest(report))
        database.close()
        made = httpx2.post(f"{url}/v1/studies", json={"audit": job, "raters": 2, "seed": 7}).json()
        yield url, made["study"]["id"], [f"{url}{one['path']}" for one in made["links"]]


def looked_at(page: Browser, path: Path) -> None:
    """Keeps a picture of the page, for people who look."""
    path.write_bytes(base64.b64decode(page.ask("Page.captureScreenshot", captureBeyondViewport=True)["data"]))


def test_a_rater_answers_by_keyboard_and_every_page_fits(tmp_path: Path) -> None:
    with served(tmp_path) as (url, study, links), browser(tmp_path / "profile") as page:
        for width in (390, 1280):
            for path in (links[0], f"{links[0]}/1", f"{links[0]}/7", f"{url}/v1/studies/{study}/forms/1"):
                page.open(path, width=width)
                assert violations(page) == [], path
                assert page.run("document.documentElement.scrollWidth") == width, path
            page.open(f"{links[0]}/1", width=width)
            looked_at(page, tmp_path / f"task-{width}.png")
        assert [one for one in page.complaints if "404" not in one] == []
        page.open(links[0])
        page.press("Tab")
        page.press("Enter")
        page.wait_for("Page.loadEventFired")
        for number in range(1, 7):
            assert page.run("document.querySelector('h1').textContent").startswith(f"Task {number} of 6")
            choose(page, "image", number + 1)
            choose(page, "concept", 10 - number)
            choose(page, "confidence", 1 + number % 5)
            page.press("Tab")
            assert focus(page).startswith("Send")
            page.press("Enter")
            page.wait_for("Page.loadEventFired")
        assert page.run("document.querySelector('h1').textContent") == "Thank you"
        assert page.run("document.cookie") == ""
        kept = httpx2.get(f"{url}/v1/studies/{study}/ratings").json()["ratings"]
    assert [(one["task"], one["image"], one["concept"], one["confidence"]) for one in kept] == [
        (number, number + 1, 10 - number, 1 + number % 5) for number in range(1, 7)
    ]
