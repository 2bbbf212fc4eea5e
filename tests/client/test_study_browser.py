"""Raters' forms in a real browser: filled by keyboard alone, accessible, and a page of paper for each task."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from caveat.cli import cli
from caveat.study.making import make_study
from caveat_reports.study.dealing import Design
from tests.browser import Browser, browser
from tests.client import rated
from tests.client.test_study_serving import kept, served
from tests.reports.test_console_pages import AXE

pytestmark = pytest.mark.slow

RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    report = rated.written(tmp_path / "report.json")
    make_study(report, Design(3, 7, truth={"cab": "image", "zebra": "caption"}), tmp_path / "study")
    return tmp_path / "study"


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Browser]:
    with browser(tmp_path / "profile") as found:
        yield found


def focus(page: Browser) -> str:
    """The name of the field that has the focus, or its words."""
    said: str = page.run("document.activeElement.name || document.activeElement.textContent.trim()")
    return said


def choose(page: Browser, name: str, number: int) -> None:
    """Goes on to a question by Tab, and to a number by the arrows."""
    page.press("Tab")
    assert focus(page) == name
    page.press(" ")
    for _ in range(number - 1):
        page.press("ArrowRight")
    assert page.run(f"document.querySelector('input[name={name}]:checked').value") == str(number)


def violations(page: Browser) -> list[str]:
    """What the accessibility checker finds."""
    assert AXE.exists(), "axe-core is missing: `make test-all` installs it."
    page.run(AXE.read_text() + "; 0")
    found = page.run(f"axe.run(document, {{runOnly: {json.dumps(RULES)}}})")
    return [f"{one['id']}: {one['help']}: {one['nodes'][0]['html']}" for one in found["violations"]]


def test_a_rater_fills_every_form_by_keyboard(study: Path, page: Browser) -> None:
    with served(study) as links:
        page.open(links[0])
        page.press("Tab")
        assert focus(page) == "Begin with task 1"
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
        assert page.complaints == []
    assert kept(study) == [
        ("1", str(number), str(number + 1), str(10 - number), str(1 + number % 5)) for number in range(1, 7)
    ]


def test_a_form_with_something_missing_says_where(study: Path, page: Browser) -> None:
    with served(study) as links:
        page.open(f"{links[0]}/1")
        choose(page, "image", 3)
        for _ in range(3):
            page.press("Tab")
        assert focus(page).startswith("Send")
        page.press("Enter")
        page.wait_for("Page.loadEventFired")
        assert page.run("document.title").startswith("Not sent yet")
        assert page.run("document.querySelectorAll('[role=alert] a').length") == 2
        assert page.run("document.querySelector('input[name=image]:checked').value") == "3"
        page.press("Tab")
        page.press("Enter")
        assert focus(page) == "concept", "the fault leads to its question"
        assert violations(page) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_every_page_is_accessible_and_fits(study: Path, page: Browser, width: int, scheme: str, tmp_path: Path) -> None:
    rows = (study / "ratings.csv").read_text().splitlines()
    filled = [rows[0], *(f"{row.removesuffix(',,,')},{4 + at % 3},{5 + at % 4},3" for at, row in enumerate(rows[1:]))]
    (study / "ratings.csv").write_text("\n".join([*filled, "9,9,,,,1,1,1", ""]))
    done = CliRunner().invoke(cli, ["study", "read", str(study), "--html", str(tmp_path / "found.html")])
    assert done.exit_code == 1, done.output
    page.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    with served(study) as links:
        for url in (
            links[0], f"{links[0]}/1", f"{links[0]}/9", (study / "forms" / "rater-1.html").as_uri(),
            (tmp_path / "found.html").as_uri(),
        ):  # fmt: skip
            page.open(url, width=width)
            assert violations(page) == [], url
            assert page.run("document.documentElement.scrollWidth") == width, url
    assert [one for one in page.complaints if "404" not in one] == []


def test_each_task_is_a_page_of_paper(study: Path, page: Browser) -> None:
    page.open((study / "forms" / "rater-1.html").as_uri())
    paper = {"paperWidth": 8.27, "paperHeight": 11.69, "preferCSSPageSize": True, "printBackground": True}
    content = base64.b64decode(page.ask("Page.printToPDF", **paper)["data"])
    assert len(re.findall(rb"/Type\s*/Page\b", content)) == 7, "a page of words, and one for each of six tasks"
