"""Pages about the kinds of problems, to which answers link; everybody may read them, as they are in the sources."""

from __future__ import annotations

from flask import Blueprint, Response

from caveat_reports import console as pages
from caveat_service.errors import not_found
from caveat_spec import problem_codes

blueprint = Blueprint("problems", __name__)


@blueprint.get("/problems/<code>")
def problem(code: str) -> Response:
    """What a kind of problem is about."""
    kind = problem_codes.kind(code)
    if kind is None:
        raise not_found("kind of problem")
    return Response(pages.problem(kind), headers={"Content-Security-Policy": pages.policy()})
