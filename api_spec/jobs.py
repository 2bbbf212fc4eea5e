"""The contract between the service and a worker: what work there is, for whom, what it asks, gives and reads.

A queue carries ids only. A job's request stands in the database as the very document that the client sent.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Literal, get_args

from pydantic import Field

from api_spec.artifacts import ExampleSummary, Inspection, NewExamples, NewModel, Queue
from api_spec.audit import Audit
from api_spec.base import Count, Document, Name
from api_spec.report import Report

JobKind = Literal["audit", "model", "examples", "shard"]
MOST_SHARDS = 256

QUEUES: tuple[Queue, ...] = get_args(Queue)
LISTS: dict[Queue, str] = {"default": "caveat", "gpu": "caveat.gpu", "large": "caveat.large"}
"""What the broker calls the list of each queue."""
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
    interacts: bool | None = None
    """As in the division."""


class Division(Document):
    """What becomes of an audit that is too large for one worker: the rows of each of its shards."""

    shards: Annotated[list[list[Rows]], Field(min_length=2, max_length=MOST_SHARDS)]
    interacts: bool
    """Whether examples of a batch influence each other, which nobody has to run the model again to know."""


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


def queue_of(request: Request, sizes: Mapping[str, int], *, large: int) -> Queue:
    """The queue of a job whose bytes have these sizes, by their digest; `large` is most of a model for any worker.

    Only what the request says decides, never who is there at the moment: a pool may be asleep until something waits.
    """
    if isinstance(request, Audit) and request.method.provider == "cuda":
        return "gpu"
    graphs = {digest for pointer, digest in sources(request).items() if not pointer.startswith("/examples/")}
    return "large" if large and sum(sizes[digest] for digest in graphs) > large else "default"


def in_flight(queues: Collection[Queue]) -> str:
    """What the broker calls the hash of the bells that workers of these queues have heard and not yet done with.

    Workers of other queues have another one, so that each pool can be scaled by its own.
    """
    return ".".join(["unacked", *(queue for queue in QUEUES if queue in queues and len(queues) < len(QUEUES))])
