"""Stands between HTTP and the views: what reaches a view is valid, and what a view answers is what was promised.

A view is registered by the name of its operation in `api_spec.openapi`, which says where it is and what it takes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, TypeVar

from flask import Blueprint, Response, current_app, request
from pydantic import BaseModel, TypeAdapter, ValidationError

from api_spec.base import Document
from api_spec.openapi import BY_NAME, LARGEST_JSON, NoQuery, Operation, Parameters
from api_spec.problem import Fault, faults_of
from service.errors import RefusedError, refuse

View = Callable[..., Response]
Model = TypeVar("Model", bound=BaseModel)


def serves(blueprint: Blueprint, name: str) -> Callable[[View], View]:
    """Registers a view for an operation; it gets path parameters, `body`, `query`, `headers`, as there are."""
    operation = BY_NAME[name]

    def register(view: View) -> View:
        def serve(**path: str) -> Response:
            response = view(**_path(operation, path), **_asked(operation))
            if current_app.testing:
                _check_answer(operation, response)
            return response

        rule = re.sub(r"{(\w+)}", lambda found: f"<{'id:' * found[1].endswith('_id')}{found[1]}>", operation.path)
        blueprint.add_url_rule(rule, name, serve, methods=[operation.method])
        return view

    return register


def answer(document: Document, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A document as a response."""
    return Response(document.model_dump_json(), status, headers, content_type="application/json")


def unless_known(response: Response) -> Response:
    """The response with its ETag, or 304 for a client that has it already."""
    response.add_etag()
    return response.make_conditional(request)  # type: ignore[return-value]


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
    if isinstance(operation.body, type):
        asked["body"] = _json(operation.body)
    return asked


def _text(model: type[Model], given: dict[str, str], place: str) -> Model:
    try:
        return model.model_validate(given)
    except ValidationError as fault:
        raise _invalid(fault, given, f"The {place} of the request cannot be understood.") from fault


def _json(model: type[Model]) -> Model:
    """The body of the request as a document: 415 for another media type, 400 for no JSON, 422 for the wrong JSON."""
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
        raise _invalid(fault, json.loads(body), "The body is not what this operation takes.") from fault


def _invalid(fault: ValidationError, document: Any, sentence: str) -> RefusedError:
    return invalid(sentence, faults_of(fault, document))


def invalid(sentence: str, faults: list[Fault]) -> RefusedError:
    """A refusal of something that is well-formed but wrong."""
    remedy = "Correct what 'errors' points at; /docs describes what is expected."
    return refuse("invalid", 422, sentence, remedy, faults)


def _check_answer(operation: Operation, response: Response) -> None:
    """In tests: the status, the media type and the document are among those that were promised."""
    promised = operation.answers.get(response.status_code)
    assert promised is not None, f"{operation.name} answered {response.status_code}, which was not promised"
    if promised.document is not None and not response.is_streamed:
        assert response.mimetype in promised.media_types, f"{operation.name} answered {response.mimetype}"
        if response.mimetype == "application/json":
            promised.document.model_validate_json(response.get_data(), strict=True)
