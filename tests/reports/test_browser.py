"""The page in a real browser: nothing is refused, nothing is fetched, and nothing sticks out at 400 pixels."""

from __future__ import annotations

import subprocess
from html import escape
from pathlib import Path

import pytest

from caveat_reports import html
from caveat_spec.report import Report
from tests.needed import program

QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
)

pytestmark = pytest.mark.slow


def browse(page: Path, *flags: str) -> tuple[str, list[str]]:
    """The page's document once it is loaded, and what the browser wrote to its console."""
    chromium = program("chromium", "chromium-browser", "google-chrome")
    done = subprocess.run(
        [chromium, *QUIET, f"--user-data-dir={page.parent / 'profile'}", *flags, "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def test_the_browser_has_nothing_to_complain_about(report: Report, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text(html.render(report), encoding="utf-8")
    document, console = browse(page)
    assert console == []
    assert 'id="verdict"' in document


def test_the_console_would_tell(watermark: Report, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    tampered = html.render(watermark).replace("color-scheme: light dark", "color-scheme: dark", 1)
    page.write_text(tampered, encoding="utf-8")
    _, console = browse(page)
    assert any("Content Security Policy" in line for line in console)


@pytest.mark.parametrize("width", [320, 400, 800, 1200])
def test_nothing_sticks_out(report: Report, width: int, tmp_path: Path) -> None:
    """Measured from a page around it, since the report's own policy runs no script."""
    page = tmp_path / "around.html"
    page.write_text(
        f'<meta charset="utf-8"><iframe width="{width}" height="900" srcdoc="{escape(html.render(report))}"></iframe>'
        "<script>onload = () => { const inside = document.querySelector('iframe').contentDocument;"
        "document.title = inside.documentElement.scrollWidth + ' ' + getComputedStyle(inside.body).margin; };</script>",
        encoding="utf-8",
    )
    document, _ = browse(page, "--hide-scrollbars")
    assert f"<title>{width} 0px</title>" in document
