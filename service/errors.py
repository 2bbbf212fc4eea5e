"""Every error as a problem (RFC 9457): a sentence, and what to do about it."""

from __future__ import annotations

import logging

from flask import Flask, Response, request
from gunicorn.http.errors import ParseException
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnectionError
from werkzeug.exceptions import HTTPException

from api_spec.problem import Fault, Problem

log = logging.getLogger(__name__)

REMEDIES = {
    400: "Send a request that is well-formed HTTP.",
    404: "Look at /docs for what there is; ids are those that the API gave out.",
    405: "Look at the header Allow, or at /docs.",
    406: "Send another Accept header; /docs lists the media types.",
    411: "Send a Content-Length.",
    413: "Send less at a time; an operator can raise CAVEAT_LARGEST_BLOB.",
    414: "Send a shorter URL.",
    431: "Send fewer or shorter headers.",
}


class RefusedError(Exception):
    """A request that is not served, and the problem that says why."""

    def __init__(self, problem: Problem, headers: dict[str, str] | None = None) -> None:
        """Ends the request with `problem`."""
        super().__init__(problem.detail)
        self.problem, self.headers = problem, headers or {}

    def response(self) -> Response:
        """How the request is answered."""
        return _response(self.problem, self.headers)


def refuse(
    code: str, status: int, detail: str, remedy: str, errors: list[Fault] | None = None, **headers: str
) -> RefusedError:
    """A refusal to raise."""
    return RefusedError(Problem.of(code, status, detail, remedy, errors), headers)


def not_found(what: str) -> RefusedError:
    """There is no such thing, or it is another tenant's, which sounds the same."""
    return refuse("not-found", 404, f"There is no {what} here.", "Check the id: it is the one that the API gave out.")


def register(app: Flask) -> None:
    """Turns whatever goes wrong in `app` into a problem."""
    app.register_error_handler(RefusedError, _refused)
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(OperationalError, _away)
    app.register_error_handler(InterfaceError, _away)
    app.register_error_handler(NoConnectionError, _away)
    app.register_error_handler(ParseException, _broken_off)
    app.register_error_handler(Exception, _unforeseen)


def _refused(fault: RefusedError) -> Response:
    return fault.response()


def _http(fault: HTTPException) -> Response:
    status = fault.code or 500
    headers = dict(fault.get_headers())
    headers.pop("Content-Type", None)
    if 300 <= status < 400:
        return Response(status=status, headers=headers)
    code = fault.name.lower().replace(" ", "-")
    remedy = REMEDIES.get(status, "Look at /docs for what can be asked.")
    return _response(Problem.of(code, status, str(fault.description or fault.name), remedy), headers)


def _broken_off(fault: ParseException) -> Response:
    """The body turned out to be no HTTP while it was read."""
    detail = f"The body of the request cannot be read: {type(fault).__name__}."
    return _response(Problem.of("bad-request", 400, detail, REMEDIES[400]), {"Connection": "close"})


def _away(fault: DBAPIError | NoConnectionError) -> Response:
    log.warning("the database is away: %s", type(getattr(fault, "orig", fault)).__name__)
    problem = Problem.of(
        "database-away", 503, "The database does not answer, so nothing can be kept or read.", "Try again in a moment."
    )
    return _response(problem, {"Retry-After": "2"})


def _unforeseen(fault: Exception) -> Response:
    log.exception("a request failed with a fault of ours")
    problem = Problem.of(
        "internal",
        500,
        "The service failed on this request with a fault of its own.",
        "Try again; then tell the operator when it was.",
    )
    return _response(problem, {})


def _response(problem: Problem, headers: dict[str, str]) -> Response:
    told = problem.model_copy(update={"instance": request.path})
    return Response(told.model_dump_json(), problem.status, headers, content_type="application/problem+json")
