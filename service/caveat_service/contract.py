"""Validates requests before they reach a view and, in tests, the answers of views against the API contract.

A view is registered by the name of its operation in `caveat_spec.openapi`, which defines its path and parameters.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from flask import Blueprint, Response, current_app, request
from pydantic import BaseModel, TypeAdapter, ValidationError

from caveat_service.errors import HTTPProblem, refuse
from caveat_spec.base import Document
from caveat_spec.openapi import BY_NAME, LARGEST_JSON, NoQuery, Operation, Parameters
from caveat_spec.problem import Fault, faults_of

View = Callable[..., Response]
Model = TypeVar("Model", bound=BaseModel)


def serves(blueprint: Blueprint, name: str) -> Callable[[View], View]:
    """Registers a view for an operation; it receives path parameters, and `body`, `query` and `headers` as defined."""
    operation = BY_NAME[name]

    def register(view: View) -> View:
        def serve(**path: str) -> Response:
            response = view(**_path(operation, path), **_asked(operation))
            if current_app.testing:
                _check_answer(operation, response)
            return response

        rule = re.sub(r"{(\w+)}", lambda found: f"<{_converter(found[1])}{found[1]}>", operation.path)
        blueprint.add_url_rule(rule, name, serve, methods=[operation.method])
        return view

    return register


def _converter(parameter: str) -> str:
    """How the router reads a part of a path: ids end before suffixes, and names of layers may have slashes."""
    return "id:" if parameter.endswith("_id") else "rest:" if parameter == "layer" else ""


def answer(document: Document, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A document as a JSON response."""
    return Response(document.model_dump_json(), status, headers, content_type="application/json")


def unchanging(response: Response, version: str) -> Response:
    """The response of bytes that have only this version, which clients may keep for a year."""
    response.set_etag(version)
    response.headers["Cache-Control"] = "private, max-age=31536000, immutable"
    return response


def conditional_response(response: Response) -> Response:
    """The response with its ETag, or 304 if the client has this version."""
    response.add_etag()
    return response.make_conditional(request)  # type: ignore[return-value]


def accepted(what: str, media_types: Sequence[str]) -> str:
    """The media type that a client accepts, the first by default; raises HTTPProblem where it accepts none."""
    found = request.accept_mimetypes.best_match(media_types) if "Accept" in request.headers else media_types[0]
    if found is None:
        raise refuse(
            "not-acceptable", 406, f"{what} is not available as '{request.headers['Accept'][:80]}'.",
            f"Accept one of {', '.join(media_types)}.",
        )  # fmt: skip
    return found


def _path(operation: Operation, given: dict[str, str]) -> dict[str, str]:
    for name, value in given.items():
        try:
            TypeAdapter(operation.parameters[name]).validate_python(value)
        except ValidationError as fault:
            raise _invalid(fault, value, f"The {name} in the path is not valid.") from fault
    return given


def _asked(operation: Operation) -> dict[str, Any]:
    asked: dict[str, Any] = {}
    query = _text(operation.query, request.args.to_dict(), "query")
    if operation.query is not NoQuery:
        asked["query"] = query
    if operation.headers is not Parameters:
        names = [str(field.alias) for field in operation.headers.model_fields.values()]
        asked["headers"] = _text(
            operation.headers, {name: request.headers[name] for name in names if name in request.headers}, "headers"
        )
    if isinstance(operation.body, type) and issubclass(operation.body, Document):
        asked["body"] = _json(operation.body)
    return asked


def _text(model: type[Model], given: dict[str, str], place: str) -> Model:
    try:
        return model.model_validate(given)
    except ValidationError as fault:
        raise _invalid(fault, given, f"The {place} of the request cannot be parsed.") from fault


def _json(model: type[Model]) -> Model:
    """Parses the body; 415 for another media type, 400 for malformed JSON, 422 for an invalid document."""
    if request.mimetype != "application/json":
        raise refuse(
            "unsupported-media-type", 415, "The body is not JSON.", "Send it with 'Content-Type: application/json'.",
            Accept="application/json",
        )  # fmt: skip
    request.max_content_length = LARGEST_JSON
    body = request.get_data(cache=False)
    try:
        return model.model_validate_json(body, strict=True)
    except ValidationError as fault:
        if any(detail["type"] == "json_invalid" for detail in fault.errors()):
            raise refuse(
                "malformed-json", 400, "The body is not well-formed JSON.", "Check it with a JSON parser.",
                faults_of(fault, None),
            ) from fault  # fmt: skip
        raise _invalid(fault, json.loads(body), "The body does not match what this operation expects.") from fault


def _invalid(fault: ValidationError, document: Any, sentence: str) -> HTTPProblem:
    return invalid(sentence, faults_of(fault, document))


def invalid(sentence: str, faults: list[Fault]) -> HTTPProblem:
    """The problem for a well-formed but invalid request."""
    remedy = "Correct the faults that 'errors' points at; /docs describes what is expected."
    return refuse("invalid", 422, sentence, remedy, faults)


def _check_answer(operation: Operation, response: Response) -> None:
    """Checks, in tests only, that the contract permits the status, the media type and the document of an answer."""
    promised = operation.answers.get(response.status_code)
    assert promised is not None, f"{operation.name} answered {response.status_code}, which the contract does not list"
    if promised.document is not None and not response.is_streamed:
        assert response.mimetype in promised.media_types, f"{operation.name} answered {response.mimetype}"
        if response.mimetype == "application/json":
            promised.document.model_validate_json(response.get_data(), strict=True)
