"""The contract between the service and a worker: what work there is, what it asks, gives and reads.

The queue carries ids only. A job's request stands in the database as the very document that the client sent.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from api_spec.artifacts import ExampleSummary, Inspection, NewExamples, NewModel
from api_spec.audit import Audit
from api_spec.base import Count, Document, Name
from api_spec.report import Report

JobKind = Literal["audit", "model", "examples", "shard"]
MOST_SHARDS = 256

QUEUE = "caveat"
RUN_JOB = "caveat.run_job"
"""The one task: `run_job(job_id)`. What kind of job it is, and everything else, stands in the database."""


class Rows(Document):
    """Consecutive examples of one set, `start` included and `stop` not."""

    examples: Name
    start: Count
    stop: Count


class Shard(Document):
    """A part of an audit's way through the model: some rows of some of its example sets."""

    audit: Audit
    rows: Annotated[list[Rows], Field(min_length=1)]


class Division(Document):
    """What becomes of an audit that is too large for one worker: the rows of each of its shards."""

    shards: Annotated[list[list[Rows]], Field(min_length=2, max_length=MOST_SHARDS)]


class Seen(Document):
    """What a shard gives: how many examples went through the model; what it made of them is kept beside the result."""

    examples: Count


Request = Audit | NewModel | NewExamples | Shard
Result = Report | Inspection | ExampleSummary | Seen

REQUESTS: dict[JobKind, type[Request]] = {"audit": Audit, "model": NewModel, "examples": NewExamples, "shard": Shard}
RESULTS: dict[JobKind, type[Result]] = {
    "audit": Report,
    "model": Inspection,
    "examples": ExampleSummary,
    "shard": Seen,
}


def sources(request: Request) -> dict[str, str]:
    """Where the bytes of a request are: JSON pointer → digest (or path, on the command line)."""
    if isinstance(request, Audit):
        return request.sources()
    if isinstance(request, Shard):
        return request.audit.sources()
    if isinstance(request, NewModel):
        gradient = {} if request.gradient is None else {"/gradient/blob": request.gradient.blob}
        return {"/blob": request.blob} | gradient
    return {f"/examples/{field}": getattr(request.examples, field) for field in request.examples.SOURCES}
