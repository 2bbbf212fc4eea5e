"""The HTTP API as one table of operations, and the OpenAPI 3.1 document that is assembled from it.

`python -m api_spec.openapi` writes `openapi.json`; with `--check` it fails if the file differs.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter
from pydantic.json_schema import DefsRef, GenerateJsonSchema, JsonSchemaMode, models_json_schema

from api_spec.artifacts import (
    AuditPage,
    AuditRecord,
    Blob,
    ExamplesRecord,
    Health,
    ModelRecord,
    NewExamples,
    NewModel,
    Readiness,
    State,
    Upload,
)
from api_spec.attestation import Envelope
from api_spec.audit import Audit
from api_spec.base import Digest, Document
from api_spec.problem import Problem
from api_spec.report import Report
from api_spec.webhooks import Deliveries, NewWebhook, WebhookRecord, Webhooks, WebhookSecret

HERE = Path(__file__).parent / "openapi.json"
LOG_TYPE = "application/jsonl"
MEBIBYTE = 1 << 20
LARGEST_JSON = 4 * MEBIBYTE  # bytes of a request that is JSON

JobId = Annotated[str, StringConstraints(pattern=r"^[0-9a-hjkmnp-tv-z]{26}$")]


class Parameters(BaseModel):
    """Query parameters or headers: text that is turned into values; headers that are not known are let through."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True, populate_by_name=True)


class Query(Parameters):
    """Query parameters; one that is not known is refused."""

    model_config = ConfigDict(extra="forbid")


class AuditsQuery(Query):
    """Which audits to list."""

    state: State | None = None
    """Only those in this state."""
    limit: Annotated[int, Field(ge=1, le=100)] = 20
    """How many, at most; fewer where they are long."""
    page_token: JobId | None = None
    """`next_page_token` of the page before."""


class DeliveriesQuery(Query):
    """How many messages to show."""

    limit: Annotated[int, Field(ge=1, le=100)] = 20
    """How many, at most."""


class NoQuery(Query):
    """No query parameter at all."""


class SubmitHeaders(Parameters):
    """How to submit a job."""

    idempotency_key: Annotated[
        str | None, Field(alias="Idempotency-Key", min_length=1, max_length=255, pattern=r"^[\x21-\x7e]+$")
    ] = None
    """Submits the job once, however often the request is sent (an IETF draft)."""
    prefer: Annotated[str | None, Field(alias="Prefer", max_length=255)] = None
    """`wait=N`: answer when the job has ended, or after N seconds, at most 30 (RFC 7240)."""


class EventsHeaders(Parameters):
    """Where to go on with the events of an audit."""

    last_event_id: Annotated[int, Field(alias="Last-Event-ID", ge=0, lt=2**63)] = 0
    """The `id` of the last event that was seen."""


class PartHeaders(Parameters):
    """Which part of an upload comes (an IETF draft: resumable uploads for HTTP)."""

    upload_offset: Annotated[int, Field(alias="Upload-Offset", ge=0, lt=2**53)]
    """Bytes that came before, as `Upload-Offset` of a HEAD or GET says."""
    upload_complete: Annotated[Literal["?0", "?1"], Field(alias="Upload-Complete")] = "?1"
    """`?1`: with this part the upload is whole; `?0`: more is to come."""


@dataclass(frozen=True)
class Answer:
    """One way in which an operation answers."""

    description: str
    document: type[Document] | None = None
    media_types: tuple[str, ...] = ("application/json",)
    headers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Operation:
    """One thing that can be asked over HTTP."""

    name: str
    method: Literal["GET", "HEAD", "PUT", "PATCH", "POST", "DELETE"]
    path: str
    summary: str
    answers: dict[int, Answer]
    body: type[Document] | Literal["bytes"] | None = None
    query: type[Query] = NoQuery
    headers: type[Parameters] = Parameters
    problems: tuple[int, ...] = ()
    tag: str = field(default="audits", kw_only=True)

    @property
    def scope(self) -> Literal["read", "submit", "admin"] | None:
        """What a key must allow, where keys are asked for; None for what is open to everybody."""
        if self.tag == "operations":
            return None
        if self.tag == "administration":
            return "admin"
        if self.method == "GET":
            return "read"
        return "admin" if self.tag == "webhooks" else "submit"  # who says where results are sent may read them all

    @property
    def parameters(self) -> dict[str, Any]:
        """The types of the parameters in the path."""
        return {name: PATH_PARAMETERS[name] for name in re.findall(r"{(\w+)}", self.path)}


PATH_PARAMETERS: dict[str, Any] = {"digest": Digest, "job_id": JobId, "webhook_id": JobId}

REPORT_TYPES = (
    "application/json",
    "text/html",
    "text/markdown",
    "application/xml",
    "application/sarif+json",
)  # fmt: skip
PROBLEMS = {
    400: "Malformed JSON, a header that cannot be read, or a body that broke off.",
    401: "There is no valid key in the request.",
    403: "The key does not allow this.",
    404: "There is no such thing, or it is not yours.",
    405: "This cannot be done here; `Allow` says what can.",
    406: "None of the accepted media types is there.",
    411: "The body does not say how long it is.",
    409: "As things stand, this cannot be done.",
    413: "The body is too large.",
    415: "The body has the wrong media type.",
    422: "What was sent is not valid; `errors` points at each fault.",
    429: "More than you may, or than there is room for: requests, wrong keys, uploads at a time, jobs that wait.",
    503: "Something that this needs is away.",
}
HEADERS = {
    "Location": "Where it is.",
    "Retry-After": "Seconds after which to ask again.",
    "ETag": "Names this version; send it back in `If-None-Match`.",
    "Preference-Applied": "The preference that was honoured.",
    "Upload-Offset": "How many bytes are kept: where the upload goes on (an IETF draft).",
    "Upload-Complete": "`?1` where that is all, else `?0` (an IETF draft).",
}


def _submits(tag: str, name: str, summary: str, body: type[Document], record: type[Document]) -> Operation:
    answers = {
        202: Answer("Kept, and to be done.", record, headers=("Location", "ETag", "Retry-After")),
        200: Answer("Done within the time of `Prefer: wait`.", record, headers=("Location", "ETag")),
    }
    problems = (400, 413, 415, 422)
    path = f"/v1/{tag}"
    return Operation(name, "POST", path, summary, answers, body=body, headers=SubmitHeaders, problems=problems, tag=tag)


def _reads(tag: str, name: str, summary: str, record: type[Document]) -> Operation:
    answers = {
        200: Answer("As it stands now.", record, headers=("ETag", "Retry-After")),
        304: Answer("As it stood before."),
    }
    return Operation(name, "GET", f"/v1/{tag}/{{job_id}}", summary, answers, problems=(404,), tag=tag)


OPERATIONS = [
    Operation(
        "put_blob",
        "PUT",
        "/v1/blobs/{digest}",
        "Puts bytes in, under their SHA-256",
        {201: Answer("Kept.", Blob), 200: Answer("You had put them in before.", Blob)},
        body="bytes",
        problems=(404, 413, 422),
        tag="blobs",
    ),
    Operation(
        "get_blob",
        "GET",
        "/v1/blobs/{digest}",
        "Gives back bytes that you put in",
        {
            200: Answer("The bytes.", media_types=("application/octet-stream",), headers=("ETag",)),
            304: Answer("As before."),
        },
        problems=(404, 422),
        tag="blobs",
    ),
    Operation(
        "get_upload",
        "GET",
        "/v1/uploads/{digest}",
        "How much of a blob you put in so far; HEAD does as well",
        {200: Answer("So much.", Upload, headers=("Upload-Offset", "Upload-Complete"))},
        problems=(404, 422),
        tag="blobs",
    ),
    Operation(
        "patch_upload",
        "PATCH",
        "/v1/uploads/{digest}",
        "Puts bytes in from where an upload broke off, or from the start; what arrives is kept",
        {
            201: Answer("With these the blob is whole, and kept.", Blob),
            200: Answer("With these the blob is whole; you had put it in before.", Blob),
            202: Answer("Kept, and more is to come.", Upload, headers=("Upload-Offset", "Upload-Complete")),
        },
        body="bytes",
        headers=PartHeaders,
        problems=(400, 404, 409, 411, 413, 422),
        tag="blobs",
    ),
    _submits("models", "create_model", "Registers a blob as a model and looks into it", NewModel, ModelRecord),
    _reads("models", "get_model", "A model, and which of its layers can be audited", ModelRecord),
    _submits("examples", "create_examples", "Registers a blob as an example set", NewExamples, ExamplesRecord),
    _reads("examples", "get_examples", "An example set, and what is in it", ExamplesRecord),
    _submits("audits", "create_audit", "Asks for an audit", Audit, AuditRecord),
    _reads("audits", "get_audit", "An audit: where it stands and how it ended", AuditRecord),
    Operation(
        "list_audits",
        "GET",
        "/v1/audits",
        "Your audits, the newest first",
        {200: Answer("A page of them.", AuditPage)},
        query=AuditsQuery,
        problems=(422,),
    ),
    Operation(
        "cancel_audit",
        "POST",
        "/v1/audits/{job_id}:cancel",
        "Stops an audit; asking twice does no harm",
        {202: Answer("It stops, or has stopped.", AuditRecord, headers=("Location",))},
        problems=(404, 409),
    ),
    Operation(
        "get_report",
        "GET",
        "/v1/audits/{job_id}/report",
        "The report of an audit, in the form that `Accept` asks for",
        {200: Answer("The report; it never changes.", Report, REPORT_TYPES, ("ETag",)), 304: Answer("As before.")},
        problems=(404, 406, 409),
    ),
    Operation(
        "get_attestation",
        "GET",
        "/v1/audits/{job_id}/attestation",
        "The signed statement of what was audited, when and where: DSSE around in-toto",
        {
            200: Answer("The envelope, signed with the service's keys of today.", Envelope, headers=("ETag",)),
            304: Answer("As before."),
        },
        problems=(404, 409),
    ),
    Operation(
        "get_events",
        "GET",
        "/v1/audits/{job_id}/events",
        "What happens to an audit, as server-sent events, until it ends",
        {
            200: Answer("A stream of events.", media_types=("text/event-stream",)),
            204: Answer("It has ended, and the last event was seen."),
        },
        headers=EventsHeaders,
        problems=(404, 422),
    ),
    Operation(
        "create_webhook",
        "POST",
        "/v1/webhooks",
        "Asks to be told how audits end",
        {201: Answer("It will be told; its secret is shown this once.", WebhookSecret, headers=("Location",))},
        body=NewWebhook,
        problems=(400, 409, 413, 415, 422),
        tag="webhooks",
    ),
    Operation(
        "list_webhooks",
        "GET",
        "/v1/webhooks",
        "Your webhooks, the oldest first",
        {200: Answer("All of them.", Webhooks)},
        tag="webhooks",
    ),
    Operation(
        "get_webhook",
        "GET",
        "/v1/webhooks/{webhook_id}",
        "A webhook, and whether it is still told",
        {200: Answer("As it stands now.", WebhookRecord)},
        problems=(404,),
        tag="webhooks",
    ),
    Operation(
        "delete_webhook",
        "DELETE",
        "/v1/webhooks/{webhook_id}",
        "Forgets a webhook and what was still to be told",
        {204: Answer("It is gone.")},
        problems=(404,),
        tag="webhooks",
    ),
    Operation(
        "rotate_webhook",
        "POST",
        "/v1/webhooks/{webhook_id}:rotate",
        "Gives a webhook a new secret; for a day, messages are signed with both",
        {200: Answer("The new secret is shown this once.", WebhookSecret)},
        problems=(404,),
        tag="webhooks",
    ),
    Operation(
        "enable_webhook",
        "POST",
        "/v1/webhooks/{webhook_id}:enable",
        "Sends to a disabled webhook again, and what it missed too",
        {200: Answer("It is enabled.", WebhookRecord)},
        problems=(404,),
        tag="webhooks",
    ),
    Operation(
        "test_webhook",
        "POST",
        "/v1/webhooks/{webhook_id}:test",
        "Sends a webhook a message of type `webhook.test`",
        {202: Answer("It is on its way.", WebhookRecord)},
        problems=(404,),
        tag="webhooks",
    ),
    Operation(
        "list_deliveries",
        "GET",
        "/v1/webhooks/{webhook_id}/deliveries",
        "The last messages to a webhook, and what became of them",
        {200: Answer("The newest first.", Deliveries)},
        query=DeliveriesQuery,
        problems=(404, 422),
        tag="webhooks",
    ),
    Operation(
        "get_log",
        "GET",
        "/v1/log",
        "Your log: who asked for what and what came of it, as a chain whose end is signed",
        {200: Answer("An entry a line, in canonical JSON; `caveat verify --log` checks it.", media_types=(LOG_TYPE,))},
        tag="administration",
    ),
    Operation(
        "get_health",
        "GET",
        "/healthz",
        "Whether this process lives",
        {200: Answer("It does.", Health)},
        tag="operations",
    ),
    Operation(
        "get_readiness",
        "GET",
        "/readyz",
        "Whether requests can be served, and what stands behind them",
        {200: Answer("They can.", Readiness), 503: Answer("They cannot.", Readiness)},
        tag="operations",
    ),
    Operation(
        "get_openapi",
        "GET",
        "/v1/openapi.json",
        "This document",
        {200: Answer("OpenAPI 3.1.", headers=("ETag",)), 304: Answer("As before.")},
        tag="operations",
    ),
]
BY_NAME = {operation.name: operation for operation in OPERATIONS}


BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}


class _Schema(GenerateJsonSchema):
    """JSON Schema as the API means it: a source is a digest, since paths are for the command line."""

    def generate_definitions(self, inputs: Any) -> Any:
        named, definitions = super().generate_definitions(inputs)
        definitions[DefsRef("Source")] = definitions[DefsRef("Digest")] | {
            "description": "The SHA-256 of bytes that were put in."
        }
        return named, _standard(definitions)


def _standard(schema: Any) -> Any:
    """Bounds that pydantic wrote in its own words, because a validator stands before them, in those of JSON Schema."""
    if isinstance(schema, list):
        return [_standard(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        BOUNDS.get(key, key) if not isinstance(value, dict) else key: _standard(value) for key, value in schema.items()
    }


@cache
def document() -> dict[str, Any]:
    """The whole OpenAPI document."""
    asked: list[tuple[type[BaseModel], JsonSchemaMode]] = [
        (operation.body, "validation") for operation in OPERATIONS if isinstance(operation.body, type)
    ]
    given: list[tuple[type[BaseModel], JsonSchemaMode]] = [
        (answer.document, "serialization")
        for operation in OPERATIONS
        for answer in operation.answers.values()
        if answer.document
    ]
    models: list[tuple[type[BaseModel], JsonSchemaMode]] = [*asked, *given, (Problem, "serialization")]
    refs, schemas = models_json_schema(models, ref_template="#/components/schemas/{model}", schema_generator=_Schema)
    paths: dict[str, Any] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, refs)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Caveat",
            "version": "1",
            "summary": "Audits ONNX models with concepts.",
            "description": "Put bytes in, register a model, ask for an audit, read its report. "
            "Every error is `application/problem+json` (RFC 9457) with a remedy.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A key that an operator issued; needed where `CAVEAT_AUTH` is `keys`.",
                }
            },
            "schemas": dict(sorted(schemas["$defs"].items())),
            "headers": {
                name: {"description": description, "schema": {"type": "string"}}
                for name, description in HEADERS.items()
            },
        },
    }


def _operation(operation: Operation, refs: dict[Any, Any]) -> dict[str, Any]:
    problem = {"application/problem+json": {"schema": refs[(Problem, "serialization")]}}
    refused = (*operation.problems, *((401, 403, 429) if operation.scope else ()))
    described: dict[str, Any] = {
        "operationId": operation.name,
        "tags": [operation.tag],
        "summary": operation.summary,
        "parameters": [
            *_path_parameters(operation),
            *_text_parameters(operation.query, "query"),
            *_text_parameters(operation.headers, "header"),
        ],
        "responses": {str(status): _answer(answer, refs) for status, answer in sorted(operation.answers.items())}
        | {str(status): _problem(status, problem) for status in refused}
        | {"default": {"description": "Anything else that went wrong.", "content": problem}},
    }
    if operation.scope:
        described["security"] = [{"key": []}, {}]
    if operation.body == "bytes":
        content = {
            "application/octet-stream": {"schema": {"type": "string", "contentMediaType": "application/octet-stream"}}
        }
        described["requestBody"] = {"required": False, "content": content}
    elif operation.body is not None:
        content = {"application/json": {"schema": refs[(operation.body, "validation")]}}
        described["requestBody"] = {"required": True, "content": content}
    return described


def _problem(status: int, content: dict[str, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {"description": PROBLEMS[status], "content": content}
    if status == 429:
        described["headers"] = {"Retry-After": {"$ref": "#/components/headers/Retry-After"}}
    return described


def _answer(answer: Answer, refs: dict[Any, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {"description": answer.description}
    if answer.document is not None:
        schema = refs[(answer.document, "serialization")]
        described["content"] = {
            media_type: {"schema": schema if media_type == "application/json" else {"type": "string"}}
            for media_type in answer.media_types
        }
    elif answer.media_types != ("application/json",):
        described["content"] = {media_type: {"schema": {"type": "string"}} for media_type in answer.media_types}
    if answer.headers:
        described["headers"] = {name: {"$ref": f"#/components/headers/{name}"} for name in answer.headers}
    return described


def _path_parameters(operation: Operation) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": _inline(TypeAdapter(kind).json_schema())}
        for name, kind in operation.parameters.items()
    ]


def _text_parameters(model: type[Parameters], place: str) -> list[dict[str, Any]]:
    schema = model.model_json_schema(by_alias=True)
    return [
        {
            "name": name,
            "in": place,
            "required": name in schema.get("required", []),
            "description": about.pop("description", ""),
            "schema": _without_null(_inline(about, schema.get("$defs", {}))),
        }
        for name, about in schema.get("properties", {}).items()
    ]


def _inline(schema: dict[str, Any], definitions: dict[str, Any] | None = None) -> dict[str, Any]:
    """The schema with its one reference, if it is one, filled in."""
    definitions = schema.get("$defs", {}) if definitions is None else definitions
    if "$ref" in schema:
        return dict(definitions[schema["$ref"].rpartition("/")[2]])
    return {key: value for key, value in schema.items() if key not in ("title", "$defs")}


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A parameter that is left out is left out; there is no way to send null."""
    kinds = [kind for kind in schema.get("anyOf", []) if kind != {"type": "null"}]
    rest = {
        key: value
        for key, value in schema.items()
        if key not in ("anyOf", "default") or (key == "default" and value is not None)
    }
    return {**kinds[0], **rest} if len(kinds) == 1 else rest


def text() -> str:
    """The document as it is committed."""
    return json.dumps(document(), indent=1, ensure_ascii=False) + "\n"


def main(arguments: list[str]) -> int:
    """Writes the document, or checks that it is as committed."""
    if arguments == ["--check"]:
        same = HERE.exists() and HERE.read_text() == text()
        print("openapi.json is up to date" if same else "openapi.json is stale; run: python -m api_spec.openapi")
        return 0 if same else 1
    HERE.write_text(text())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
