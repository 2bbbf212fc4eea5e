"""What raters see of a study: their tasks one by one, as pages without script, behind a link that opens nothing else.

A rater is known by the link alone, and sees no answer but their own. There is no cookie, so that no browser sends
anything by itself; a form carries a code made of the link, and one that another site sends is not taken.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from functools import lru_cache

from flask import Blueprint, Response, redirect, request

from caveat_reports.study import forms
from caveat_service import sessions
from caveat_service.contract import serves
from caveat_service.errors import PROBLEM_TYPE, HTTPProblem, refuse
from caveat_service.state import app_context, rater
from caveat_spec.problem import ProblemDetails
from caveat_spec.study import Answer, Material, Sheet, Study
from caveat_storage import studies

blueprint = Blueprint("raters", __name__)

LARGEST_FORM = 4096
"""Bytes of a form."""
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": forms.policy(served=True),
    "Referrer-Policy": "same-origin",
    "X-Robots-Tag": "noindex",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


@blueprint.after_request
def _guarded(response: Response) -> Response:
    if response.mimetype == PROBLEM_TYPE:
        problem = ProblemDetails.model_validate_json(response.data)
        response.data = forms.fault(problem.title, problem.detail, problem.remedy)
        response.mimetype = "text/html"
    response.headers.update(HEADERS)
    return response


@serves(blueprint, "show_tasks")
def show_tasks(token: str) -> Response:
    """Shows what is asked, and which tasks are missing."""
    study, sheet = _asked()
    _require_open()
    return Response(forms.welcome(study, sheet, _answered(), token))


@serves(blueprint, "show_task")
def show_task(token: str, task: str) -> Response:
    """Shows one task, or the answer that it has."""
    study, sheet = _asked()
    number = _number(sheet, task)
    known = _answered().get(number)
    if known is not None:
        return Response(forms.answered(study, sheet, number, known, f"../{token}"))
    _require_open()
    return Response(_page(token, study, sheet, number))


@serves(blueprint, "answer_task")
def answer_task(token: str, task: str) -> Response:
    """Keeps an answer, once for each task."""
    request.max_content_length = LARGEST_FORM
    study, sheet = _asked()
    number = _number(sheet, task)
    own = forms.form_token(rater().study.protocol, token, number)
    if sessions.is_foreign() or not hmac.compare_digest(request.form.get("token", "").encode(), own.encode()):
        raise refuse(
            "other-form", 403, "This form is not of the study, or was sent from another site, so it was not taken.",
            "Open your link again, and answer there.",
        )  # fmt: skip
    given = request.form.to_dict()
    answer, faults = forms.answer_of(study, given)
    if answer is None:
        return Response(_page(token, study, sheet, number, given, faults), 422)
    kept = studies.keep(app_context().database, rater(), number, answer)
    if kept == "closed":
        raise _closed()
    known = _answered()
    if kept == "other":
        return Response(forms.answered(study, sheet, number, known[number], f"../{token}", other=True), 409)
    after = forms.task_after(sheet, number, known)
    return redirect(f"/rate/{token}" if after is None else f"/rate/{token}/{after}", 303)  # type: ignore[return-value]


def _page(
    token: str, study: Study, sheet: Sheet, number: int, given: Mapping[str, str] | None = None,
    faults: Mapping[str, str] | None = None,
) -> str:  # fmt: skip
    code = forms.form_token(rater().study.protocol, token, number)
    material = _material(rater().study.material)
    return forms.task(study, material, sheet, number, link=f"../{token}", token=code, given=given, faults=faults)


def _asked() -> tuple[Study, Sheet]:
    """The study of the link, and what its rater sees."""
    study = _study(rater().study.protocol)
    sheet = study.sheet(rater().rater)
    assert sheet is not None, "a link is made for each sheet"
    return study, sheet


def _answered() -> dict[int, Answer]:
    """The rater's own answers by task."""
    found = studies.answers_of(app_context().database, rater().study.id, rater().rater)
    return {one.task: one.answer for one in found}


def _number(sheet: Sheet, task: str) -> int:
    number = int(task)
    if number > len(sheet.tasks):
        raise refuse(
            "not-found", 404, "There is no such task.", "Open your link again; it shows which tasks there are."
        )
    return number


def _require_open() -> None:
    if rater().study.closed_at is not None:
        raise _closed()


def _closed() -> HTTPProblem:
    return refuse(
        "study-closed", 410, "This study takes no more answers; those that you sent are kept.",
        "There is nothing left to do. Thank you.",
    )  # fmt: skip


@lru_cache(maxsize=16)
def _study(digest: str) -> Study:
    """A protocol, whose bytes are compared with their digest; it never changes."""
    return Study.model_validate_json(app_context().blobs.read(digest))


@lru_cache(maxsize=4)
def _material(digest: str) -> Material:
    return Material.model_validate_json(app_context().blobs.read(digest))
