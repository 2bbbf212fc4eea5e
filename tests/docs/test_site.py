"""The documentation builds as a site, strictly and without a network, and no link in it leads nowhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
from PIL import Image

from caveat.view import read
from examples.loans.build import FOLDER, build
from tests.client.first_audits import a_table_with_a_protected_column, pairs_of_pictures, two_files_of_texts
from tests.docs.blocks import run
from tests.needed import program
from tests.reports.test_browser import QUIET

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("site")]

ROOT = Path(__file__).parents[2]
GALLERY = ROOT / "docs" / "gallery"
FIRST_AUDIT = ROOT / "docs" / "how-to" / "first-audit.md"
SAME = 8.0
"""Mean difference of two pictures' shades, of 255, up to which they show the same; fonts differ between machines."""


class Links(HTMLParser):
    """The places that a page links to or loads, and the ids that others may link to."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.ids: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.ids.add(found.get("id") or "")
        self.targets += [value for name in ("href", "src") if (value := found.get(name))]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-d", folder / "trees"]
    done = subprocess.run(
        [*command, "-c", ROOT / "docs" / "site", ROOT, folder / "html"],
        capture_output=True,
        text=True,
        env={**os.environ, "http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder / "html"


def broken(site: Path) -> Iterator[str]:
    """Every link of a page that leads to no file, or to no heading of it."""
    pages = {page: Links(page) for page in site.rglob("*.html")}
    for page, links in pages.items():
        for target in links.targets:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            there = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            known = pages[there].ids if there in pages else set()
            if not there.exists() or (there in pages and parts.fragment and unquote(parts.fragment) not in known):
                yield f"{page.relative_to(site)}: {target}"


def test_every_page_is_in_the_site_and_every_link_leads_somewhere(site: Path) -> None:
    written = {path.relative_to(site).with_suffix("").as_posix() for path in site.rglob("*.html")}
    sources = {path.relative_to(ROOT).with_suffix("").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert sources - written == set()
    assert list(broken(site)) == []


def test_the_check_of_links_would_tell(site: Path) -> None:
    page = site / "docs" / "index.html"
    text = page.read_text(encoding="utf-8")
    try:
        page.write_text(text + '<a href="nowhere.html">x</a><a href="glossary.html#nothing">y</a>', encoding="utf-8")
        assert [one.partition(": ")[2] for one in broken(site)] == ["nowhere.html", "glossary.html#nothing"]
    finally:
        page.write_text(text, encoding="utf-8")


def test_a_page_of_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    text = (site / "docs" / "index.html").read_text(encoding="utf-8")
    assert re.findall(r"<(?:script|img|link)[^>]+(?:src|href)=\"(?:https?:)?//[^\"]+\"", text) == []


@pytest.mark.parametrize(
    ("number", "build_folder"),
    [(0, pairs_of_pictures), (1, a_table_with_a_protected_column), (2, two_files_of_texts)],
    ids=["pictures", "table", "texts"],
)
def test_the_first_audits_run_as_they_stand(number: int, build_folder: object, tmp_path: Path) -> None:
    """`first-audit.md`, with a model and examples of each kind."""
    build_folder(tmp_path)  # type: ignore[operator]
    block = re.findall(r"^```sh\n(.*?)^```", FIRST_AUDIT.read_text(), re.DOTALL | re.MULTILINE)[number]
    said = run(block, tmp_path)
    assert "the gate is closed: 2" not in said
    assert "the gate is closed: 3" not in said
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reports of the example with loans, a model card, and pages of the console that `caveat view` shows."""
    folder = tmp_path_factory.mktemp("gallery")
    build(folder / FOLDER)
    shutil.copytree(ROOT / "examples" / "loans", folder / "examples" / "loans")
    run(
        "caveat gate examples/loans/with-race.yaml --html report.html --json with-race.json || true\n"
        "caveat gate examples/loans/without-race.yaml --json without-race.json || true\n"
        "caveat annex with-race.json --kind model-card --html card.html",
        folder,
    )
    with chdir(folder):
        files = read([Path("without-race.json"), Path("with-race.json")])
    for name, address in {"list": "/", "audit": "/audits/1", "compared": "/compare?now=1&before=2"}.items():
        page = files.page(address)
        assert page is not None, address
        (folder / f"{name}.html").write_text(page, encoding="utf-8")
    return folder


def shown(page: Path, into: Path, width: int, height: int) -> Path:
    """A picture of a page in a browser, in a frame, because a window is at least 500 pixels wide."""
    chromium = program("chromium", "chromium-browser", "google-chrome")
    around = into.with_suffix(".html")
    frame = f'<iframe width="{width}" height="{height}" srcdoc="{escape(page.read_text(encoding="utf-8"))}"></iframe>'
    style = "<style>body { margin: 0 } iframe { border: 0; display: block }</style>"
    around.write_text(f'<!doctype html><meta charset="utf-8">{style}{frame}', encoding="utf-8")
    flags = ("--hide-scrollbars", f"--user-data-dir={into.parent / 'profile'}", f"--window-size={width},{height}")
    command = [chromium, *QUIET, *flags, f"--screenshot={into}", around.as_uri()]
    subprocess.run(command, capture_output=True, timeout=120, check=True)
    with Image.open(into) as picture:
        wanted = picture.crop((0, 0, width, height))
    wanted.convert("P", palette=Image.Palette.ADAPTIVE, colors=64).save(into, optimize=True)
    return into


@pytest.mark.parametrize(
    ("name", "page", "width", "height"),
    [
        ("report", "report.html", 1280, 900),
        ("report-narrow", "report.html", 390, 844),
        ("console", "list.html", 1280, 640),
        ("console-narrow", "audit.html", 390, 844),
        ("compared", "compared.html", 1280, 900),
        ("annex", "card.html", 1280, 900),
    ],
)
def test_the_gallery_shows_what_an_audit_gives(
    name: str, page: str, width: int, height: int, pages: Path, tmp_path: Path
) -> None:
    made = shown(pages / page, tmp_path / f"{name}.png", width, height)
    kept = GALLERY / made.name
    if os.environ.get("REGENERATE_GOLDENS"):
        kept.parent.mkdir(exist_ok=True)
        kept.write_bytes(made.read_bytes())
    with Image.open(kept) as before, Image.open(made) as now:
        assert before.size == now.size
        shades = [np.asarray(picture.convert("L"), dtype=float) for picture in (before, now)]
    assert shades[1].std() > 5, "an empty page"
    assert np.abs(shades[0] - shades[1]).mean() < SAME
