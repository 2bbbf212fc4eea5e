"""The console's pages and the annexes in a real browser: accessible, within the screen, and nothing refused."""

from __future__ import annotations

import json
import os
import re
from datetime import UTC, datetime
from html import escape, unescape
from pathlib import Path

import html5lib
import pytest

from caveat_reports import console
from caveat_reports.annexes import fill
from caveat_reports.annexes import html as annex_page
from caveat_reports.annexes.form import Material
from caveat_reports.canonical import digest
from caveat_reports.console import Listing, ShownAudit, Viewer
from caveat_spec.artifacts import State
from caveat_spec.problem import ProblemDetails
from caveat_spec.report import Report
from caveat_spec.results import Estimate
from caveat_spec.studies import StudyRecord
from tests.contract.test_generated_clients import CACHE
from tests.reports.test_annexes import SEX, comparison, of, single
from tests.reports.test_browser import browse

AXE = CACHE / "node" / "node_modules" / "axe-core" / "axe.min.js"
VIEWER = Viewer("credit-risk", signed_in=True, admin=True, token="t" * 43)
NAMES = [
    "audits",
    "empty",
    "audit",
    "running",
    "failed",
    "history",
    "comparison",
    "listing",
    "studies",
    "study",
    "study-analysed",
    "study-failed",
    "sign-in",
    "fault",
    "annex",
]


def shown(number: int, report: Report, **more: object) -> ShownAudit:
    said = {
        "id": f"{number:026d}", "title": "The mortgage model that reads race", "model": report.audit.model,
        "state": "succeeded", "outcome": report.verdict.outcome, "at": datetime(2026, 3, number, 9, 30, tzinfo=UTC),
    }  # fmt: skip
    return ShownAudit(**{**said, **more})  # type: ignore[arg-type]


def moved(report: Report, by: float) -> Report:
    """A version whose metrics are others."""

    def other(one: Estimate) -> Estimate:
        return Estimate(value=one.value * by, interval=(one.interval[0] * by, one.interval[1] * by))

    comparisons = [
        one.model_copy(update={"metrics": {name: other(metric) for name, metric in one.metrics.items()}})
        for one in report.comparisons
    ]
    audit = report.audit.model_copy(update={"model": digest(report) if by != 1 else report.audit.model})
    return report.model_copy(update={"comparisons": comparisons, "audit": audit})


ANALYSES: dict[str, State | None] = {"open": None, "queued": "queued", "analysed": "succeeded", "failed": "failed"}


def study(state: str) -> StudyRecord:
    """A study that is open, or closed with an analysis in some state."""
    moment = datetime(2026, 3, 1, 9, 30, tzinfo=UTC)
    failed = ProblemDetails.of("job-failed", 500, "The worker was ended four times.", "Ask an operator for its log.")
    return StudyRecord(
        id=f"{list(ANALYSES).index(state):026d}", audit="a" * 26,
        state="open" if state == "open" else "closed", study="sha256:" + "1" * 64,
        report="sha256:" + "2" * 64, model="sha256:" + "3" * 64, concept="a_caption_below_the_picture",
        classes=["school_bus", "zebra", "cucumber"], maps=["gradient_x_input", "saliency"], seed=7, raters=50,
        tasks=300, answered=41, taken=233, created_at=moment, closed_at=None if state == "open" else moment,
        analysis=ANALYSES[state],
        problem=failed if state == "failed" else None,
    )  # fmt: skip


@pytest.fixture(scope="session")
def pages(watermark: Report) -> dict[str, str]:
    versions = [moved(watermark, by) for by in (0.9, 1.0, 0.97)]
    running = shown(9, watermark, state="running", stage="collecting", progress=0.4, outcome=None, id="r" * 26)
    failed = shown(
        10, watermark, state="failed", outcome=None, id="f" * 26,
        problem="The model has no layer that can be audited. Name a tensor of `caveat layers model.onnx`.",
    )  # fmt: skip
    done = [shown(number, report) for number, report in enumerate(versions, 1)]
    told = [(one, console.measured(report)) for one, report in zip(done, versions, strict=True)]
    sets = [("credit_history", "succeeded", watermark.audit.model, "2026-03-01 10:00")] * 3
    asked = {name: study(name) for name in ANALYSES}
    return {
        "audits": console.audits(VIEWER, [running, failed, *done], more="/?page_token=x"),
        "empty": console.audits(VIEWER, []),
        "audit": console.audit(VIEWER, done[0], versions[0]),
        "running": console.audit(VIEWER, running, None),
        "failed": console.audit(VIEWER, failed, None),
        "history": console.history(VIEWER, done[0], told),
        "comparison": console.comparison(VIEWER, (done[2], versions[2]), (done[0], versions[0])),
        "listing": console.listing(
            VIEWER,
            [
                Listing("Example sets", ("Name", "State", "Digest", "Registered"), sets, "None."),
                Listing("Webhooks", ("URL",), [], "There are no webhooks."),
            ],
            "Example sets",
        ),
        "studies": console.studies(VIEWER, [*asked.values()], more="/studies?page_token=x"),
        "study": console.study(VIEWER, asked["open"]),
        "study-analysed": console.study(VIEWER, asked["analysed"]),
        "study-failed": console.study(VIEWER, asked["failed"]),
        "sign-in": console.sign_in(Viewer(token="t"), "The key has expired.", issuer="login.example"),
        "fault": console.fault(VIEWER, "Not found", "There is no such audit.", "Check the id."),
        "annex": annex_page.render(fill("ll144", Material(of([comparison("g", ["sex"], single(SEX), left_out=3)])))),
    }


@pytest.mark.parametrize("name", NAMES)
def test_pages_are_html_and_carry_no_script_but_the_one_that_looks_again(pages: dict[str, str], name: str) -> None:
    html5lib.HTMLParser(strict=True).parse(pages[name])
    assert pages[name].count("<script") == (name in ("audits", "running", "studies"))
    assert " style=" not in pages[name]
    assert " onclick" not in pages[name]


@pytest.mark.parametrize(("name", "word"), [("audits", "Audits"), ("listing", "Example sets"), ("studies", "Studies")])
def test_the_page_of_a_list_is_marked_among_the_links(pages: dict[str, str], name: str, word: str) -> None:
    assert re.findall(r'aria-current="page">([^<]*)<', pages[name]) == [word]


def test_audits_of_one_title_are_told_apart_where_a_narrow_screen_cuts_them(pages: dict[str, str]) -> None:
    choices = re.findall(r">([^<]*)</option>", pages["audits"].partition('name="now"')[2])
    assert len({choice[:16] for choice in choices}) == len(choices) == 3


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_no_violation(pages: dict[str, str], name: str, dark: bool, tmp_path: Path) -> None:
    """WCAG 2.2 at levels A and AA, and axe's own best practices."""
    assert AXE.exists(), "axe-core is missing: `make test-all` installs it."
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", pages[name])
    if dark:  # the palette of dark screens, on this one
        page = page.replace("@media (prefers-color-scheme: dark)", "@media screen", 1)
    run = (
        "axe.run(document, {runOnly: ['wcag2a','wcag2aa','wcag21a','wcag21aa','wcag22aa','best-practice']})"
        ".then(found => { document.title = JSON.stringify({violations: found.violations.map(one => [one.id, "
        "one.nodes.map(node => node.html.slice(0, 200))]), passes: found.passes.length}); });"
    )
    file = tmp_path / "page.html"
    file.write_text(page.replace("</body>", f"<script>{AXE.read_text()}</script><script>{run}</script></body>"))
    document, _ = browse(file, "--virtual-time-budget=30000", "--window-size=1280,900")
    found = json.loads(unescape(re.findall(r"<title>(\{.*?\})</title>", document, re.DOTALL)[0]))
    assert found["violations"] == []
    assert found["passes"] > 10


@pytest.mark.slow
@pytest.mark.parametrize("width", [320, 390, 1280])
def test_nothing_sticks_out(pages: dict[str, str], width: int, tmp_path: Path) -> None:
    frames = "".join(
        f'<iframe width="{width}" height="900" srcdoc="{escape(page)}"></iframe>' for page in pages.values()
    )
    around = tmp_path / "around.html"
    measure = '[...document.querySelectorAll("iframe")].map(one => one.contentDocument.documentElement.scrollWidth)'
    around.write_text(
        f'<meta charset="utf-8">{frames}<script>onload = () => {{ document.title = {measure}.join(" "); }};</script>',
        encoding="utf-8",
    )
    document, _ = browse(around, "--hide-scrollbars")
    assert f"<title>{' '.join([str(width)] * len(pages))}</title>" in document


@pytest.mark.slow
def test_screenshots_are_for_people(pages: dict[str, str], tmp_path: Path) -> None:
    """Writes every page at two widths, light and dark, into $SCREENSHOTS if that is set; looks at one anyway."""
    folder = Path(os.environ.get("SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    chosen = NAMES if "SCREENSHOTS" in os.environ else NAMES[:1]
    for name in chosen:
        for theme in ("light", "dark"):
            page = pages[name].replace("prefers-color-scheme: dark", "min-width: 1px", theme == "dark")
            file = folder / f"{name}-{theme}.html"
            file.write_text(page)
            for width in (1280, 390):
                picture = folder / f"{name}-{theme}-{width}.png"
                browse(file, f"--screenshot={picture}", f"--window-size={width},1400", "--hide-scrollbars")
                assert picture.stat().st_size > 5_000
