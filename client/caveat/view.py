"""`caveat view`: reports in files as the console's pages, on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from caveat.gate import read_report
from caveat.problems import problem
from caveat_reports import console, html
from caveat_reports.console import Measured, ShownAudit, Viewer
from caveat_spec.report import Report

VIEWER = Viewer(served=False)
HOSTS = ("127.0.0.1", "localhost")
"""Names under which a browser may ask; another one is a page that found this port."""


@dataclass(frozen=True)
class Files:
    """The reports to show, by the number that stands in their address."""

    paths: Sequence[Path]
    reports: Sequence[Report]

    @cached_property
    def shown(self) -> list[ShownAudit]:
        """Each as an entry of the list."""
        return [
            _shown(str(number), path, one)
            for number, (path, one) in enumerate(zip(self.paths, self.reports, strict=True), 1)
        ]

    def page(self, address: str) -> str | None:
        """The page at a path with its query; None where there is none."""
        parts = urlsplit(address)
        match parts.path.strip("/").split("/"):
            case [""]:
                return console.audits(VIEWER, self.shown)
            case ["compare"]:
                return self._compared(parse_qs(parts.query))
            case ["audits", number, *rest] if (at := self._at(number)) is not None:
                return self._of(at, rest)
        return None

    def _of(self, at: int, rest: list[str]) -> str | None:
        match rest:
            case []:
                return console.audit(VIEWER, self.shown[at], self.reports[at])
            case ["report"]:
                return html.render(self.reports[at])
            case ["history"]:
                return console.history(VIEWER, self.shown[at], self._versions)
        return None

    def _compared(self, query: dict[str, list[str]]) -> str | None:
        now, before = (self._at(query.get(name, [""])[0]) for name in ("now", "before"))
        if now is None or before is None:
            return None
        both = [(self.shown[at], self.reports[at]) for at in (now, before)]
        return console.comparison(VIEWER, both[0], both[1])

    def _at(self, number: str) -> int | None:
        return next((at for at, one in enumerate(self.shown) if one.id == number), None)

    @cached_property
    def _versions(self) -> list[tuple[ShownAudit, Measured]]:
        return [(one, console.measured(report)) for one, report in zip(self.shown, self.reports, strict=True)]


def read(paths: Sequence[Path]) -> Files:
    """Reads reports; raises a `ProblemError` for a file that is none."""
    return Files(paths, [read_report(path) for path in paths])


def server(files: Files, port: int) -> ThreadingHTTPServer:
    """A server of the pages on this machine; `port` 0 is any free one."""

    class Pages(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """Answers with a page."""
            host = urlsplit(f"//{self.headers.get('Host', '')}").hostname
            page = files.page(self.path) if host in HOSTS else None
            if page is None:
                page = console.fault(VIEWER, "Not found", "There is no such page.", "Begin at the list of audits.")
                self._answer(404, page)
            else:
                self._answer(200, page)

        def _answer(self, status: int, page: str) -> None:
            body = page.encode()
            self.send_response(status)
            for name, value in {
                "Content-Type": "text/html; charset=utf-8",
                "Content-Length": str(len(body)),
                "X-Content-Type-Options": "nosniff",
                "Cache-Control": "no-store",
                "Referrer-Policy": "same-origin",
            }.items():
                self.send_header(name, value)
            if not self.path.endswith("/report"):  # a report's page has its own policy
                self.send_header("Content-Security-Policy", console.policy())
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Writes nothing: the terminal shows the address."""

    try:
        return ThreadingHTTPServer(("127.0.0.1", port), Pages)
    except OSError as fault:
        raise problem(
            "port-taken",
            422,
            f"Port {port} cannot be used: {fault.strerror}.",
            "Pass another --port; 0 takes any free one.",
        ) from None


def _shown(number: str, path: Path, report: Report) -> ShownAudit:
    about = report.audit.about
    titled = None if about is None else about.title
    return ShownAudit(
        id=number,
        title=f"{titled or 'Audit'} ({path})",
        model=report.audit.model,
        state="succeeded",
        outcome=report.verdict.outcome,
        asked=len(report.audit.gate),
    )
