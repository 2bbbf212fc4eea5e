"""Answers every error as problem details (RFC 9457), with a remedy."""

from __future__ import annotations

import logging

from flask import Flask, Response, request
from gunicorn.http.errors import ParseException
from sqlalchemy.exc import DBAPIError, InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnectionError
from werkzeug.exceptions import HTTPException

from caveat_spec import problem_codes
from caveat_spec.disk_faults import DiskError
from caveat_spec.problem import Fault, ProblemDetails
from caveat_storage import database_faults
from caveat_storage.blobs import CorruptBytesError, MissingBytesError
from caveat_storage.job_records import NoRoomError

log = logging.getLogger(__name__)

PROBLEM_TYPE = "application/problem+json"
REMEDIES = {
    400: "Send a well-formed HTTP request.",
    404: "See /docs for the paths; ids come from the API's answers.",
    405: "See the header Allow, or /docs.",
    406: "Send another Accept header; /docs lists the media types.",
    411: "Send a Content-Length header.",
    413: "Send less at a time; an operator can raise CAVEAT_LARGEST_BLOB.",
    414: "Send a shorter URL.",
    431: "Send fewer or shorter headers.",
}


class HTTPProblem(Exception):  # noqa: N818 - the word of RFC 9457
    """A request that is rejected with problem details."""

    def __init__(self, problem: ProblemDetails, headers: dict[str, str] | None = None) -> None:
        """Takes the problem and headers of the answer."""
        super().__init__(problem.detail)
        self.problem, self.headers = problem, headers or {}

    def response(self) -> Response:
        """The answer to the request."""
        return _response(self.problem, self.headers)


def refuse(
    code: str, status: int, detail: str, remedy: str, errors: list[Fault] | None = None, **headers: str
) -> HTTPProblem:
    """Creates an exception that rejects the request."""
    return HTTPProblem(ProblemDetails.of(code, status, detail, remedy, errors), headers)


def not_found(what: str) -> HTTPProblem:
    """The resource does not exist or belongs to another tenant; both get the same answer."""
    return refuse("not-found", 404, f"There is no such {what}.", "Check the id; use the one that the API returned.")


def register(app: Flask) -> None:
    """Registers handlers that turn every exception in `app` into a problem."""
    app.register_error_handler(HTTPProblem, _refused)
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(NoConnectionError, _away)
    app.register_error_handler(DBAPIError, _away)
    for told in (CorruptBytesError, MissingBytesError, NoRoomError):
        app.register_error_handler(told, _told)
    app.register_error_handler(DiskError, _disk)
    app.register_error_handler(ParseException, _broken_off)
    app.register_error_handler(Exception, _unforeseen)


def _refused(fault: HTTPProblem) -> Response:
    return fault.response()


def _http(fault: HTTPException) -> Response:
    status = fault.code or 500
    headers = dict(fault.get_headers())
    headers.pop("Content-Type", None)
    if 300 <= status < 400:
        return Response(status=status, headers=headers)
    code = fault.name.lower().replace(" ", "-")
    remedy = REMEDIES.get(status, "See /docs for the operations of the API.")
    return _response(ProblemDetails.of(code, status, str(fault.description or fault.name), remedy), headers)


def _broken_off(fault: ParseException) -> Response:
    """The body is not valid HTTP."""
    detail = f"The body of the request cannot be read: {type(fault).__name__}."
    return _response(ProblemDetails.of("bad-request", 400, detail, REMEDIES[400]), {"Connection": "close"})


def _told(fault: CorruptBytesError | MissingBytesError | NoRoomError) -> Response:
    """The storage says itself what is wrong: bytes are gone or changed, or there is no room for more."""
    return _response(fault.problem, {})


def _disk(fault: DiskError) -> Response:
    """The disk of the blob store is full or fails."""
    log.error("%s", fault.problem.detail)
    return _response(fault.problem, {"Retry-After": "10"})


def _away(fault: DBAPIError | NoConnectionError) -> Response:
    if isinstance(fault, DBAPIError) and not isinstance(fault, OperationalError | InterfaceError | InternalError):
        return _unforeseen(fault)
    log.warning("the database is unavailable: %s", type(getattr(fault, "orig", fault)).__name__)
    return _response(database_faults.problem_of(fault), {"Retry-After": "2"})


def _unforeseen(fault: Exception) -> Response:
    log.exception("a request failed with an internal error")
    problem = ProblemDetails.of(
        "internal",
        500,
        "The service failed on this request with an internal error.",
        "Report the time to the operator: the service's log has the details.",
    )
    return _response(problem, {})


def _response(problem: ProblemDetails, headers: dict[str, str]) -> Response:
    body = problem.model_copy(update={"instance": request.path})
    if problem_codes.kind(problem.code):
        headers = {"Link": f'</problems/{problem.code}>; rel="help"', **headers}
    return Response(body.model_dump_json(), problem.status, headers, content_type=PROBLEM_TYPE)
