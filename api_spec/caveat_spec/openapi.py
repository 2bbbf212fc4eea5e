"""The table of the HTTP API's operations, and the OpenAPI 3.1 document generated from it.

`python -m caveat_spec.openapi` writes `openapi.json`; with `--check` it fails if the file is out of date.
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

from caveat_spec.artifacts import (
    AuditPage,
    AuditRecord,
    Blob,
    ExamplesPage,
    ExamplesRecord,
    Health,
    ModelPage,
    ModelRecord,
    NewExamples,
    NewModel,
    Readiness,
    State,
    Upload,
)
from caveat_spec.attestation import Envelope
from caveat_spec.attribute_docs import DescribedModel
from caveat_spec.audit import Audit
from caveat_spec.base import Digest, Document, JobId, Name
from caveat_spec.formats import FORMATS
from caveat_spec.problem import ProblemDetails
from caveat_spec.report import Report
from caveat_spec.studies import NewStudy, StudyLinks, StudyPage, StudyRatings, StudyRecord, Token
from caveat_spec.study import Study, StudyFindings
from caveat_spec.webhooks import Deliveries, NewWebhook, WebhookRecord, Webhooks, WebhookSecret

HERE = Path(__file__).parent / "openapi.json"
LOG_TYPE = "application/jsonl"
MEBIBYTE = 1 << 20
LARGEST_JSON = 4 * MEBIBYTE  # bytes of a request that is JSON


class Parameters(DescribedModel):
    """Query parameters or headers, parsed from text; unknown headers are ignored."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)


class Query(Parameters):
    """Query parameters; unknown ones are rejected."""

    model_config = ConfigDict(extra="forbid")


class JobsQuery(Query):
    """Filter and page of a list of audits, models or example sets."""

    state: State | None = None
    """Lists only those in this state."""
    limit: Annotated[int, Field(ge=1, le=100)] = 20
    """Most entries on a page; a page has fewer if they are long."""
    page_token: JobId | None = None
    """The `next_page_token` of the previous page."""


class PageQuery(Query):
    """Page of a list."""

    limit: Annotated[int, Field(ge=1, le=100)] = 20
    """Most entries on a page."""
    page_token: JobId | None = None
    """The `next_page_token` of the previous page."""


class DeliveriesQuery(Query):
    """Page of a list of messages."""

    limit: Annotated[int, Field(ge=1, le=100)] = 20
    """Most messages to list."""


class NoQuery(Query):
    """No query parameters."""


class KeyHeaders(Parameters):
    """Headers of a request that may be sent again."""

    idempotency_key: Annotated[
        str | None, Field(alias="Idempotency-Key", min_length=1, max_length=255, pattern=r"^[\x21-\x7e]+$")
    ] = None
    """Requests with the same key have their effect only once, and get the same answer (IETF draft)."""


class SubmitHeaders(KeyHeaders):
    """Headers of a request that submits a job."""

    prefer: Annotated[str | None, Field(alias="Prefer", max_length=255)] = None
    """`wait=N`: answer when the job has ended, or after N seconds, at most 30 (RFC 7240)."""
    priority: Annotated[str | None, Field(alias="Priority", max_length=255)] = None
    """`u=N`: urgency among your own jobs, from 0 (runs first) to 7; 3 by default (RFC 9218)."""


class EventsHeaders(Parameters):
    """Headers of a request for an audit's events."""

    last_event_id: Annotated[int, Field(alias="Last-Event-ID", ge=0, lt=2**63)] = 0
    """The `id` of the last event received; the stream continues after it."""


class PartHeaders(Parameters):
    """Headers of a request that uploads a part of a blob (IETF draft: resumable uploads for HTTP)."""

    upload_offset: Annotated[int, Field(alias="Upload-Offset", ge=0, lt=2**53)]
    """Number of bytes already received, as in the `Upload-Offset` of a HEAD or GET answer."""
    upload_complete: Annotated[Literal["?0", "?1"], Field(alias="Upload-Complete")] = "?1"
    """`?1` if this is the last part, `?0` if more follow."""


class RatingForm(Parameters):
    """The form of one task, as a browser sends it."""

    token: str
    """What the page of the task carries, so that no other site can send its form."""
    image: str | None = None
    """From 1 to 10."""
    concept: str | None = None
    """From 1 to 10."""
    confidence: str | None = None
    """From 1 to 5."""


@dataclass(frozen=True)
class Answer:
    """One of an operation's answers."""

    description: str
    document: type[Document] | None = None
    media_types: tuple[str, ...] = ("application/json",)
    headers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Operation:
    """One operation of the HTTP API; those of raters are for people, who get pages and need no key."""

    name: str
    method: Literal["GET", "HEAD", "PUT", "PATCH", "POST", "DELETE"]
    path: str
    summary: str
    answers: dict[int, Answer]
    body: type[Document] | type[Parameters] | Literal["bytes"] | None = None
    """JSON, a form of fields, or bytes."""
    query: type[Query] = NoQuery
    headers: type[Parameters] = Parameters
    problems: tuple[int, ...] = ()
    tag: str = field(default="audits", kw_only=True)

    @property
    def scope(self) -> Literal["read", "submit", "admin"] | None:
        """The scope that a key needs for this operation; None if the operation is open to everybody."""
        if self.tag in ("operations", RATERS):
            return None
        if self.tag == "administration" or (self.tag, self.method) == ("studies", "DELETE"):
            return "admin"  # answers of people cannot be had again
        if self.method == "GET":
            return "read"
        return "admin" if self.tag == "webhooks" else "submit"  # the receiver of a webhook learns of all audits

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters in the path and their types."""
        return {name: PATH_PARAMETERS[name] for name in re.findall(r"{(\w+)}", self.path)}


RaterNumber = Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]{0,3}$")]
TaskNumber = Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]?$")]
TensorName = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
"""A layer as reports name it; slashes are percent-encoded (`%2F`)."""
PATH_PARAMETERS: dict[str, Any] = {
    "digest": Digest,
    "job_id": JobId,
    "webhook_id": JobId,
    "study_id": JobId,
    "rater": RaterNumber,
    "token": Token,
    "task": TaskNumber,
    "concept": Name,
    "layer": TensorName,
}
"""The types of what stands in paths; only a layer may have slashes, so it stands at the end."""

RATERS = "raters"
"""Tag of the pages that raters see: they are known by their link alone."""
PAGE_TYPE = "text/html"
CSV_TYPE = "text/csv"
FORM_TYPE = "application/x-www-form-urlencoded"
MAPS_TYPE = "application/zip"
"""Of a file of maps: a `.npz` is a zip of NumPy's own arrays."""
CAV_TYPE = "application/octet-stream"
"""Of an array in NumPy's format, which has no registered type."""
REPORT_TYPES = tuple(form.media_type for form in FORMATS if form.media_type is not None)
PROBLEMS = {
    400: "Malformed JSON, an unreadable header, or an incomplete body.",
    401: "The request has no valid key.",
    403: "The key does not have the required scope.",
    404: "The resource does not exist or belongs to another tenant.",
    405: "The method is not supported here; see `Allow`.",
    406: "None of the accepted media types is available.",
    408: "The body arrives too slowly.",
    410: "The study is closed and takes no more answers.",
    411: "The length of the body is missing.",
    409: "The current state of the resource does not permit this.",
    413: "The body is too large.",
    415: "The body has the wrong media type.",
    422: "The request is not valid; `errors` points at each fault.",
    429: "A limit is reached: requests, failed authentications, concurrent uploads or streams, or queued jobs.",
    500: "The stored bytes are damaged (`corrupt-bytes`) or gone (`missing-bytes`) and are not sent, or the service "
    "failed.",
    503: "A service that this operation needs is unavailable, or its disk fails.",
    507: "A disk of the service is full.",
}
HEADERS = {
    "Location": "URL of the resource.",
    "Retry-After": "Seconds to wait before the next request.",
    "ETag": "Version of the resource, to be sent in `If-None-Match`.",
    "Preference-Applied": "Preference that was applied.",
    "Upload-Offset": "Number of bytes received, where the upload continues (IETF draft).",
    "Upload-Complete": "`?1` if all bytes have arrived, otherwise `?0` (IETF draft).",
}


def _submits(tag: str, name: str, summary: str, body: type[Document], record: type[Document]) -> Operation:
    answers = {
        202: Answer("Stored; a worker will run the job.", record, headers=("Location", "ETag", "Retry-After")),
        200: Answer("The job ended within the time given in `Prefer: wait`.", record, headers=("Location", "ETag")),
    }
    problems = (400, 413, 415, 422, 507)
    path = f"/v1/{tag}"
    return Operation(name, "POST", path, summary, answers, body=body, headers=SubmitHeaders, problems=problems, tag=tag)


def _reads(tag: str, name: str, summary: str, record: type[Document]) -> Operation:
    answers = {
        200: Answer("The current state.", record, headers=("ETag", "Retry-After")),
        304: Answer("Not modified."),
    }
    return Operation(name, "GET", f"/v1/{tag}/{{job_id}}", summary, answers, problems=(404,), tag=tag)


def _lists(tag: str, what: str, page: type[Document]) -> Operation:
    answers = {200: Answer(f"A page of {what}.", page)}
    summary = f"List your {what}, newest first"
    return Operation(f"list_{tag}", "GET", f"/v1/{tag}", summary, answers, query=JobsQuery, problems=(422,), tag=tag)


OPERATIONS = [
    Operation(
        "put_blob",
        "PUT",
        "/v1/blobs/{digest}",
        "Upload bytes under their SHA-256",
        {201: Answer("Stored.", Blob), 200: Answer("You had uploaded these bytes before.", Blob)},
        body="bytes",
        problems=(404, 413, 422, 507),
        tag="blobs",
    ),
    Operation(
        "get_blob",
        "GET",
        "/v1/blobs/{digest}",
        "Download bytes that you uploaded",
        {
            200: Answer("The bytes.", media_types=("application/octet-stream",), headers=("ETag",)),
            304: Answer("Not modified."),
        },
        problems=(404, 422, 500),
        tag="blobs",
    ),
    Operation(
        "get_upload",
        "GET",
        "/v1/uploads/{digest}",
        "Get the state of a resumable upload; HEAD works as well",
        {200: Answer("The number of bytes received.", Upload, headers=("Upload-Offset", "Upload-Complete"))},
        problems=(404, 422),
        tag="blobs",
    ),
    Operation(
        "patch_upload",
        "PATCH",
        "/v1/uploads/{digest}",
        "Upload the next part of a blob; received bytes are kept if the connection breaks",
        {
            201: Answer("The blob is complete and stored.", Blob),
            200: Answer("The blob is complete; you had uploaded it before.", Blob),
            202: Answer("The part is stored; more must follow.", Upload, headers=("Upload-Offset", "Upload-Complete")),
        },
        body="bytes",
        headers=PartHeaders,
        problems=(400, 404, 409, 411, 413, 422, 507),
        tag="blobs",
    ),
    _submits("models", "create_model", "Register a blob as a model and inspect it", NewModel, ModelRecord),
    _reads("models", "get_model", "Get a model and the layers that can be audited", ModelRecord),
    _lists("models", "models", ModelPage),
    _submits("examples", "create_examples", "Register a blob as an example set", NewExamples, ExamplesRecord),
    _reads("examples", "get_examples", "Get an example set and its contents", ExamplesRecord),
    _lists("examples", "example sets", ExamplesPage),
    _submits("audits", "create_audit", "Submit an audit", Audit, AuditRecord),
    _reads("audits", "get_audit", "Get the state and outcome of an audit", AuditRecord),
    _lists("audits", "audits", AuditPage),
    Operation(
        "cancel_audit",
        "POST",
        "/v1/audits/{job_id}:cancel",
        "Cancel an audit; repeating the request has no further effect",
        {202: Answer("The audit is stopping or has stopped.", AuditRecord, headers=("Location",))},
        problems=(404, 409),
    ),
    Operation(
        "get_report",
        "GET",
        "/v1/audits/{job_id}/report",
        "Get the report of an audit in the format that `Accept` names",
        {200: Answer("The report; it never changes.", Report, REPORT_TYPES, ("ETag",)), 304: Answer("Not modified.")},
        problems=(404, 406, 409, 500),
    ),
    Operation(
        "get_maps",
        "GET",
        "/v1/audits/{job_id}/maps",
        "Get every number of a report's figures, as an audit with `keep: maps` keeps them (NumPy's .npz)",
        {
            200: Answer("The file of maps; it never changes.", media_types=(MAPS_TYPE,), headers=("ETag",)),
            304: Answer("Not modified."),
        },
        problems=(404, 409, 500),
    ),
    Operation(
        "get_cav",
        "GET",
        "/v1/audits/{job_id}/cavs/{concept}/{layer}",
        "Get a concept activation vector, as an audit with `keep: cavs` keeps them (NumPy's .npy)",
        {
            200: Answer("The vector, float32; it never changes.", media_types=(CAV_TYPE,), headers=("ETag",)),
            304: Answer("Not modified."),
        },
        problems=(404, 409, 422, 500),
    ),
    Operation(
        "get_attestation",
        "GET",
        "/v1/audits/{job_id}/attestation",
        "Get the signed statement of what was audited, when and where (in-toto in a DSSE envelope)",
        {
            200: Answer("The envelope, signed with the service's current keys.", Envelope, headers=("ETag",)),
            304: Answer("Not modified."),
        },
        problems=(404, 409, 500),
    ),
    Operation(
        "get_events",
        "GET",
        "/v1/audits/{job_id}/events",
        "Stream the events of an audit until it ends (server-sent events)",
        {
            200: Answer("A stream of events.", media_types=("text/event-stream",)),
            204: Answer("The audit has ended and all its events were received."),
        },
        headers=EventsHeaders,
        problems=(404, 422),
    ),
    Operation(
        "create_webhook",
        "POST",
        "/v1/webhooks",
        "Register a webhook that is called when audits end",
        {201: Answer("The webhook; its secret is shown only here.", WebhookSecret, headers=("Location",))},
        body=NewWebhook,
        problems=(400, 409, 413, 415, 422, 507),
        tag="webhooks",
    ),
    Operation(
        "list_webhooks",
        "GET",
        "/v1/webhooks",
        "List your webhooks, oldest first",
        {200: Answer("All webhooks.", Webhooks)},
        tag="webhooks",
    ),
    Operation(
        "get_webhook",
        "GET",
        "/v1/webhooks/{webhook_id}",
        "Get a webhook and whether it is enabled",
        {200: Answer("The current state.", WebhookRecord)},
        problems=(404,),
        tag="webhooks",
    ),
    Operation(
        "delete_webhook",
        "DELETE",
        "/v1/webhooks/{webhook_id}",
        "Delete a webhook and its undelivered messages",
        {204: Answer("The webhook was deleted.")},
        problems=(404,),
        tag="webhooks",
    ),
    Operation(
        "rotate_webhook",
        "POST",
        "/v1/webhooks/{webhook_id}:rotate",
        "Replace the secret of a webhook; messages are signed with both secrets for a day",
        {200: Answer("The webhook; the new secret is shown only here.", WebhookSecret)},
        problems=(404,),
        tag="webhooks",
    ),
    Operation(
        "enable_webhook",
        "POST",
        "/v1/webhooks/{webhook_id}:enable",
        "Enable a disabled webhook and send the messages it missed",
        {200: Answer("The webhook is enabled.", WebhookRecord)},
        problems=(404,),
        tag="webhooks",
    ),
    Operation(
        "test_webhook",
        "POST",
        "/v1/webhooks/{webhook_id}:test",
        "Send a message of type `webhook.test` to a webhook",
        {202: Answer("The message will be sent.", WebhookRecord)},
        problems=(404,),
        tag="webhooks",
    ),
    Operation(
        "list_deliveries",
        "GET",
        "/v1/webhooks/{webhook_id}/deliveries",
        "List the latest messages to a webhook and the state of their delivery",
        {200: Answer("The messages, newest first.", Deliveries)},
        query=DeliveriesQuery,
        problems=(404, 422),
        tag="webhooks",
    ),
    Operation(
        "create_study",
        "POST",
        "/v1/studies",
        "Make a study of the maps in a report: forms for raters, each behind a link",
        {201: Answer("The study; its links are shown only here.", StudyLinks, headers=("Location",))},
        body=NewStudy,
        headers=KeyHeaders,
        problems=(400, 404, 409, 413, 415, 422, 500, 507),
        tag="studies",
    ),
    Operation(
        "list_studies",
        "GET",
        "/v1/studies",
        "List your studies, newest first",
        {200: Answer("A page of studies.", StudyPage)},
        query=PageQuery,
        problems=(422,),
        tag="studies",
    ),
    Operation(
        "get_study",
        "GET",
        "/v1/studies/{study_id}",
        "Get a study and how far it is",
        {200: Answer("The current state.", StudyRecord, headers=("ETag",)), 304: Answer("Not modified.")},
        problems=(404,),
        tag="studies",
    ),
    Operation(
        "delete_study",
        "DELETE",
        "/v1/studies/{study_id}",
        "Delete a study with its links, answers and analysis",
        {204: Answer("The study was deleted.")},
        problems=(404, 409),
        tag="studies",
    ),
    Operation(
        "get_protocol",
        "GET",
        "/v1/studies/{study_id}/protocol",
        "Get a study's protocol: who sees what in which order, with the digests of all of it",
        {200: Answer("The protocol; it never changes.", Study, headers=("ETag",)), 304: Answer("Not modified.")},
        problems=(404, 500),
        tag="studies",
    ),
    Operation(
        "get_form",
        "GET",
        "/v1/studies/{study_id}/forms/{rater}",
        "Get the form of one rater to print",
        {
            200: Answer("The form; it never changes.", media_types=(PAGE_TYPE,), headers=("ETag",)),
            304: Answer("Not modified."),
        },
        problems=(404, 422, 500),
        tag="studies",
    ),
    Operation(
        "get_ratings",
        "GET",
        "/v1/studies/{study_id}/ratings",
        "Get every answer of a study, as JSON or CSV",
        {
            200: Answer("The answers.", StudyRatings, ("application/json", CSV_TYPE), ("ETag",)),
            304: Answer("Not modified."),
        },
        problems=(404, 406, 500),
        tag="studies",
    ),
    Operation(
        "close_study",
        "POST",
        "/v1/studies/{study_id}:close",
        "End a study, so that it takes no more answers, and analyse it; repeating the request has no further effect",
        {202: Answer("The study is closed; a worker analyses it.", StudyRecord, headers=("Location", "Retry-After"))},
        problems=(404, 500),
        tag="studies",
    ),
    Operation(
        "get_findings",
        "GET",
        "/v1/studies/{study_id}/findings",
        "Get what the ratings of a closed study came to, as JSON or as a page",
        {
            200: Answer("The findings; they never change.", StudyFindings, ("application/json", PAGE_TYPE), ("ETag",)),
            304: Answer("Not modified."),
        },
        problems=(404, 406, 409, 500),
        tag="studies",
    ),
    Operation(
        "show_tasks",
        "GET",
        "/rate/{token}",
        "Show a rater what is asked, and which tasks are missing",
        {200: Answer("The page where a rater begins and comes back.", media_types=(PAGE_TYPE,))},
        problems=(404, 410, 429, 500),
        tag=RATERS,
    ),
    Operation(
        "show_task",
        "GET",
        "/rate/{token}/{task}",
        "Show a rater one task, or the answer that it has",
        {200: Answer("The page of the task.", media_types=(PAGE_TYPE,))},
        problems=(404, 410, 429, 500),
        tag=RATERS,
    ),
    Operation(
        "answer_task",
        "POST",
        "/rate/{token}/{task}",
        "Take a rater's answer to one task, which does not change afterwards",
        {
            303: Answer("The answer is kept; `Location` is what is missing.", headers=("Location",)),
            409: Answer("Another answer was kept before, and stays.", media_types=(PAGE_TYPE,)),
            422: Answer("The task again, with what is to be chosen yet.", media_types=(PAGE_TYPE,)),
        },
        body=RatingForm,
        problems=(403, 404, 410, 413, 429, 500),
        tag=RATERS,
    ),
    Operation(
        "get_audit_log",
        "GET",
        "/v1/audit-log",
        "Export your audit log, a hash chain of who did what, with a signed end",
        {
            200: Answer(
                "One entry per line, in canonical JSON; `caveat verify --audit-log` checks it.", media_types=(LOG_TYPE,)
            )
        },
        tag="administration",
    ),
    Operation(
        "get_health",
        "GET",
        "/healthz",
        "Check that this process is running",
        {200: Answer("The process is running.", Health)},
        tag="operations",
    ),
    Operation(
        "get_readiness",
        "GET",
        "/readyz",
        "Check that requests can be served, and the services that the API depends on",
        {200: Answer("Ready.", Readiness), 503: Answer("Not ready.", Readiness)},
        problems=(429,),
        tag="operations",
    ),
    Operation(
        "get_openapi",
        "GET",
        "/v1/openapi.json",
        "Get this document",
        {200: Answer("OpenAPI 3.1.", headers=("ETag",)), 304: Answer("Not modified.")},
        tag="operations",
    ),
]
BY_NAME = {operation.name: operation for operation in OPERATIONS}


OCTETS = {"contentMediaType": "application/octet-stream", "format": "binary"}
"""Bytes, as OpenAPI 3.1 says it, and as 3.0 did, by which some generators still go."""
BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}


SOURCE_PATTERN = r"^(sha256:[0-9a-f]{64}|(https|http|s3|gs|hf)://[^#]+#sha256=[0-9a-f]{64})$"


class _Schema(GenerateJsonSchema):
    """JSON Schema for the API, in which a source is a digest, or a URL with one; paths are for the command line.

    Titles are names of schemas alone: generators of clients name classes by them, and drop one of two that are alike.
    """

    def generate_definitions(self, inputs: Any) -> Any:
        named, definitions = super().generate_definitions(inputs)
        definitions[DefsRef("Source")] = definitions[DefsRef("Digest")] | {
            "pattern": SOURCE_PATTERN,
            "description": "The SHA-256 of uploaded bytes; or, where an operator allows it, a URL that ends in it.",
        }
        short = definitions[DefsRef("Element")]  # what an audit file may write in its place has no name of its own
        definitions[DefsRef("Element")] = next(one for one in short["anyOf"] if "by" in one.get("properties", {}))
        return named, {name: {"title": name, **_untitled(_standard(one))} for name, one in definitions.items()}


def _untitled(schema: Any) -> Any:
    """The schema without titles, which pydantic makes of the names of fields; fields may be called title themselves."""
    if isinstance(schema, list):
        return [_untitled(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: {name: _untitled(one) for name, one in value.items()} if key == "properties" else _untitled(value)
        for key, value in schema.items()
        if key != "title" or not isinstance(value, str)
    }


def _standard(schema: Any) -> Any:
    """Renames bounds to JSON Schema's keywords; pydantic uses its own where a validator precedes them.

    A constant becomes an enumeration of one, which generators of clients take in a union too.
    """
    if isinstance(schema, list):
        return [_standard(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if isinstance(schema.get("const"), str):
        schema = {"enum" if key == "const" else key: [one] if key == "const" else one for key, one in schema.items()}
    return {
        BOUNDS.get(key, key) if not isinstance(value, dict) else key: _standard(value) for key, value in schema.items()
    }


@cache
def document() -> dict[str, Any]:
    """The complete OpenAPI document."""
    asked: list[tuple[type[BaseModel], JsonSchemaMode]] = [
        (operation.body, "validation") for operation in OPERATIONS if isinstance(operation.body, type)
    ]
    given: list[tuple[type[BaseModel], JsonSchemaMode]] = [
        (answer.document, "serialization")
        for operation in OPERATIONS
        for answer in operation.answers.values()
        if answer.document
    ]
    models: list[tuple[type[BaseModel], JsonSchemaMode]] = [*asked, *given, (ProblemDetails, "serialization")]
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
            "description": "Upload bytes, register a model, submit an audit, read its report. "
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
                    "description": "A key issued by an operator; required if `CAVEAT_AUTH` is `keys`.",
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
    problem = {"application/problem+json": {"schema": refs[(ProblemDetails, "serialization")]}}
    if operation.tag == RATERS:
        problem = {PAGE_TYPE: {"schema": {"type": "string"}}, **problem}
    refused = (
        *operation.problems,
        *((408,) if operation.body else ()),
        *((401, 403, 429) if operation.scope else ()),
    )
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
        | {"default": {"description": "Any other error.", "content": problem}},
    }
    if operation.scope:
        described["security"] = [{"key": []}, {}]
    if operation.body == "bytes":
        content = {"application/octet-stream": {"schema": {"type": "string", **OCTETS}}}
        described["requestBody"] = {"required": False, "content": content}
    elif operation.body is not None:
        kind = FORM_TYPE if issubclass(operation.body, Parameters) else "application/json"
        content = {kind: {"schema": refs[(operation.body, "validation")]}}
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
    """The schema, with its reference resolved if it is one."""
    definitions = schema.get("$defs", {}) if definitions is None else definitions
    if "$ref" in schema:
        return dict(definitions[schema["$ref"].rpartition("/")[2]])
    return {key: value for key, value in schema.items() if key not in ("title", "$defs")}


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema without null: a parameter can be omitted but cannot be null."""
    kinds = [kind for kind in schema.get("anyOf", []) if kind != {"type": "null"}]
    rest = {
        key: value
        for key, value in schema.items()
        if key not in ("anyOf", "default") or (key == "default" and value is not None)
    }
    return {**kinds[0], **rest} if len(kinds) == 1 else rest


def text() -> str:
    """The document as committed."""
    return json.dumps(document(), indent=1, ensure_ascii=False) + "\n"


def main(arguments: list[str]) -> int:
    """Writes the document, or checks that the committed one is up to date."""
    if arguments == ["--check"]:
        same = HERE.exists() and HERE.read_text() == text()
        print("openapi.json is up to date" if same else "openapi.json is stale; run: python -m caveat_spec.openapi")
        return 0 if same else 1
    HERE.write_text(text())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
