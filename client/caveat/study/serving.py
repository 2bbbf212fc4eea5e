"""`caveat study serve`: raters' forms over HTTP, without script, each behind a link that nobody guesses."""

from __future__ import annotations

import hmac
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from caveat.problems import problem
from caveat.study.answers import Answers
from caveat.study.folder import LINKS, StudyFolder, by_rater, material_of, open_study, raters_by_token, write_secret
from caveat_reports.study import forms
from caveat_spec.study import RATINGS, Material, Sheet

LARGEST_BODY = 4096
SLOWEST = 30
"""Seconds that a client may be silent."""


@dataclass(frozen=True)
class Page:
    """What a request is answered with."""

    status: int
    text: str = ""
    location: str | None = None


class Forms:
    """The pages of a study's raters, from paths and fields to answers that are kept."""

    def __init__(self, folder: StudyFolder, material: Material, raters: Mapping[str, int], answers: Answers) -> None:
        self._folder, self._study, self._material, self._answers = folder, folder.study, material, answers
        self._raters = {_hashed(token): rater for token, rater in raters.items()}

    def get(self, path: str) -> Page:
        """The page at a path."""
        match path.strip("/").split("/"):
            case ["r", token] if (sheet := self._sheet(token)) is not None:
                return Page(200, forms.welcome(self._study, sheet, self._answers.of(sheet.rater), token))
            case ["r", token, number] if (sheet := self._sheet(token)) is not None and _is_task(sheet, number):
                return self._task(sheet, token, int(number))
        return _NO_PAGE

    def post(self, path: str, fields: Mapping[str, str]) -> Page:
        """What comes of a form that was sent to a path."""
        match path.strip("/").split("/"):
            case ["r", token, number] if (sheet := self._sheet(token)) is not None and _is_task(sheet, number):
                own = forms.form_token(self._folder.digest, token, int(number))
                if not hmac.compare_digest(fields.get("token", "").encode(), own.encode()):
                    return _OTHER_FORM
                return self._sent(sheet, token, int(number), fields)
        return _NO_PAGE

    def _task(self, sheet: Sheet, token: str, number: int) -> Page:
        if (known := self._answers.of(sheet.rater).get(number)) is not None:
            return Page(200, forms.answered(self._study, sheet, number, known, f"../{token}"))
        return Page(200, self._asked(sheet, token, number))

    def _asked(
        self, sheet: Sheet, token: str, number: int, given: Mapping[str, str] | None = None,
        faults: Mapping[str, str] | None = None,
    ) -> str:  # fmt: skip
        form_token = forms.form_token(self._folder.digest, token, number)
        return forms.task(
            self._study, self._material, sheet, number, link=f"../{token}", token=form_token, given=given, faults=faults
        )

    def _sent(self, sheet: Sheet, token: str, number: int, fields: Mapping[str, str]) -> Page:
        answer, faults = forms.answer_of(self._study, fields)
        if answer is None:
            return Page(422, self._asked(sheet, token, number, fields, faults))
        try:
            kept = self._answers.keep(sheet.rater, number, answer)
        except OSError:
            return _NOT_KEPT
        known = self._answers.of(sheet.rater)
        if kept == "other":
            return Page(409, forms.answered(self._study, sheet, number, known[number], f"../{token}", other=True))
        after = forms.task_after(sheet, number, known)
        return Page(303, location=f"../{token}" if after is None else f"../{token}/{after}")

    def _sheet(self, token: str) -> Sheet | None:
        rater = self._raters.get(_hashed(token))
        return None if rater is None else self._study.sheet(rater)


class FormServer(ThreadingHTTPServer):
    """A server of the forms; whoever leaves its context lets another one have the study."""

    daemon_threads = True

    def __init__(self, place: tuple[str, int], pages: type[BaseHTTPRequestHandler], answers: Answers) -> None:
        self._answers = answers
        super().__init__(place, pages)
        self.url = ""
        self.links = Path()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, fault, trace)
        self._answers.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing of clients that went away."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


def open_server(path: Path, host: str, port: int, url: str | None) -> FormServer:
    """A server of the study in a folder, and its file of links; `port` 0 is any free one."""
    folder = open_study(path)
    material, raters = material_of(folder), raters_by_token(folder)
    if url is not None and (urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc):
        raise problem(
            "invalid-url", 422, f"'{url}' is no address of a site.", "Give --url one such as https://study.example."
        )
    answers = Answers(folder)
    try:
        server = FormServer((host, port), _handler(Forms(folder, material, raters, answers), url), answers)
    except (OSError, OverflowError) as fault:
        answers.close()
        raise problem(
            "port-taken",
            422,
            f"Port {port} of {host} cannot be used: {getattr(fault, 'strerror', None) or fault}.",
            "Pass another --port, 0 for any free one, or another --host.",
        ) from None
    server.url = (url or f"http://{host}:{server.server_port}").rstrip("/")
    server.links = path / LINKS
    by_number = sorted(raters, key=lambda token: raters[token])
    write_secret(server.links, by_rater("link", [f"{server.url}/r/{token}" for token in by_number]))
    return server


def _handler(pages: Forms, url: str | None) -> type[BaseHTTPRequestHandler]:
    """Requests as paths and fields; a proxy may pass another `Host` on than that of `url`, where forms come from."""
    public = None if url is None else urlsplit(url).netloc

    class Handler(BaseHTTPRequestHandler):
        timeout = SLOWEST

        def do_GET(self) -> None:
            """Answers with a page."""
            self._answer(pages.get(urlsplit(self.path).path))

        def do_HEAD(self) -> None:
            """Answers with a page's head."""
            self.do_GET()

        def do_POST(self) -> None:
            """Takes a form."""
            self._answer(self._posted())

        def _posted(self) -> Page:
            origin = self.headers.get("Origin")
            if origin is not None and urlsplit(origin).netloc not in (self.headers.get("Host"), public):
                return _OTHER_FORM
            length = self.headers.get("Content-Length", "")
            if not length.isascii() or not length.isdigit() or int(length) > LARGEST_BODY:
                return _NO_FORM
            body = self.rfile.read(int(length))
            try:
                found = parse_qs(body.decode(), keep_blank_values=True, max_num_fields=4 * len(RATINGS))
            except ValueError:
                return _NO_FORM
            return pages.post(urlsplit(self.path).path, {name: values[0] for name, values in found.items()})

        def _answer(self, page: Page) -> None:
            body = page.text.encode()
            self.send_response(page.status)
            for name, value in {
                "Content-Type": "text/html; charset=utf-8",
                "Content-Length": str(len(body)),
                "Content-Security-Policy": forms.policy(served=True),
                "X-Content-Type-Options": "nosniff",
                "Cache-Control": "no-store",
                "Referrer-Policy": "same-origin",
                **({} if page.location is None else {"Location": page.location}),
            }.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Writes nothing: links are secret."""

    return Handler


def _is_task(sheet: Sheet, number: str) -> bool:
    return number.isascii() and number.isdigit() and len(number) < 4 and 1 <= int(number) <= len(sheet.tasks)


def _hashed(token: str) -> bytes:
    """What links are looked up by, so that the time of a look-up tells nothing about one."""
    return sha256(token.encode()).digest()


_NO_PAGE = Page(
    404,
    forms.fault("There is no such page", "The link is not one of this study.", "Copy the whole link you were sent."),
)
_NO_FORM = Page(
    400, forms.fault("This is no form of the study", "What was sent is not one task's form.", "Open your link again.")
)
_OTHER_FORM = Page(
    403,
    forms.fault(
        "This form was not taken", "It is not of this study, or was sent from another site.", "Open your link again."
    ),
)
_NOT_KEPT = Page(
    503,
    forms.fault(
        "Your answer was not kept",
        "The disk did not take it.",
        "Tell whoever sent you the link, and send it again later.",
    ),
)
