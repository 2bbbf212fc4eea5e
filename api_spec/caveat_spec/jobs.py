"""The contract between the service and the workers: kinds of jobs, their queues, requests, results and source bytes.

A queue carries ids only. The request of a job is in the database, exactly as the client sent it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, model_validator

from caveat_spec.artifacts import Directions, ExampleSummary, Inspection, NewExamples, NewModel, Queue, Visualisation
from caveat_spec.audit import Audit
from caveat_spec.base import Count, Document, Name
from caveat_spec.explanations import VisualisationOptions
from caveat_spec.power import AuditPlan
from caveat_spec.report import Report
from caveat_spec.source_urls import addressed_digest
from caveat_spec.study import NewFindings, StudyFindings

JobKind = Literal["audit", "model", "examples", "shard", "plan", "directions", "visualisation", "findings"]
MOST_SHARDS = 256

QUEUES: tuple[Queue, ...] = get_args(Queue)
LISTS: dict[Queue, str] = {"default": "caveat", "gpu": "caveat.gpu", "large": "caveat.large"}
"""Name of each queue's list at the broker."""
RUN_JOB = "caveat.run_job"
"""The only task: `run_job(job_id)`. Everything else about the job is in the database."""


class Rows(Document):
    """Consecutive examples of one set, `start` included and `stop` not."""

    examples: Name
    start: Count
    stop: Count


class Panels(Document):
    """An element of an explanation at consecutive panels, `start` included and `stop` not."""

    explanation: Name
    element: Count
    """Its place in the explanation's `show`, from 0."""
    start: Count
    stop: Count


class Shard(Document):
    """A part of a divided audit: rows of its example sets for the model to see, or panels of its explanations."""

    audit: Audit
    rows: list[Rows] = Field(default_factory=list)
    panels: list[Panels] = Field(default_factory=list)
    interacts: bool | None = None
    """See `Division.interacts`."""

    @model_validator(mode="after")
    def _has_work(self) -> Self:
        if not self.rows and not self.panels:
            raise ValueError("a shard has rows, or panels")
        return self


class Division(Document):
    """How an audit that is too large for one worker is divided: the rows of some shards, and the panels of others."""

    rows: Annotated[list[list[Rows]], Field(max_length=MOST_SHARDS)] = Field(default_factory=list)
    panels: Annotated[list[list[Panels]], Field(max_length=MOST_SHARDS)] = Field(default_factory=list)
    interacts: bool
    """Whether examples of a batch influence each other; stated here so that no shard has to test the model again."""

    @model_validator(mode="after")
    def _has_several_shards(self) -> Self:
        if not 2 <= len(self.shards) <= MOST_SHARDS:
            raise ValueError(f"an audit has 2 to {MOST_SHARDS} shards, and not {len(self.shards)}")
        return self

    @property
    def shards(self) -> list[dict[str, list[dict[str, Any]]]]:
        """What each shard is asked beside the audit."""
        return [
            *({"rows": [part.model_dump(mode="json") for part in rows]} for rows in self.rows),
            *({"panels": [part.model_dump(mode="json") for part in panels]} for panels in self.panels),
        ]


class ShardResult(Document):
    """The result of a shard: the number of examples that it computed; its arrays are stored beside it."""

    examples: Count


class NewPlan(Document):
    """A request to say what an audit's examples can settle, before the model runs."""

    audit: Audit
    report: Report | None = None
    """An earlier report of the same question, whose intervals say how much examples vary."""


class NewDirections(Document):
    """A request for the directions of an audit's concepts at its layers."""

    audit: Audit
    watch: bool = False
    """Whether a monitoring model is to be written from them: its numbers are then compared with the audit's own."""


class NewVisualisation(VisualisationOptions):
    """A request for pictures of what atoms of a layer look for, beside the examples of a set that have most of it."""

    audit: Audit


Request = Audit | NewModel | NewExamples | Shard | NewPlan | NewDirections | NewVisualisation | NewFindings
Result = Report | Inspection | ExampleSummary | ShardResult | AuditPlan | Directions | Visualisation | StudyFindings

REQUESTS: dict[JobKind, type[Request]] = {
    "audit": Audit,
    "model": NewModel,
    "examples": NewExamples,
    "shard": Shard,
    "plan": NewPlan,
    "directions": NewDirections,
    "visualisation": NewVisualisation,
    "findings": NewFindings,
}
RESULTS: dict[JobKind, type[Result]] = {
    "audit": Report,
    "model": Inspection,
    "examples": ExampleSummary,
    "shard": ShardResult,
    "plan": AuditPlan,
    "directions": Directions,
    "visualisation": Visualisation,
    "findings": StudyFindings,
}


def sources(request: Request) -> dict[str, str]:
    """The source bytes of a request: JSON pointer → digest or URL (on the command line also a path)."""
    if isinstance(request, Audit):
        return request.sources()
    if isinstance(request, Shard | NewDirections | NewVisualisation):
        return request.audit.sources()
    if isinstance(request, NewPlan):
        given = request.audit.sources()
        return {pointer: source for pointer, source in given.items() if pointer.startswith("/examples/")}
    if isinstance(request, NewFindings):
        return {}
    if isinstance(request, NewModel):
        gradient = {} if request.gradient is None else {"/gradient/blob": request.gradient.blob}
        return {"/blob": request.blob} | gradient
    return {f"/examples/{field}": source for field, source in request.examples.sources().items()}


def graphs(request: Request) -> set[str]:
    """The digests of a request's models and of the other files about them: of everything but its examples."""
    return {
        addressed_digest(source) for pointer, source in sources(request).items() if not pointer.startswith("/examples/")
    }


def with_sources(request: Request, replaced: Mapping[str, str]) -> Request:
    """The same request with each pointer of `sources()` given a new source; of audits, shards and example sets."""
    if isinstance(request, Audit):
        return request.with_sources(dict(replaced))
    if isinstance(request, Shard):
        return request.model_copy(update={"audit": request.audit.with_sources(dict(replaced))})
    if isinstance(request, NewExamples):
        update = {pointer.rpartition("/")[2]: source for pointer, source in replaced.items()}
        return request.model_copy(update={"examples": request.examples.model_copy(update=update)})
    return request


def queue_of(request: Request, sizes: Mapping[str, int], *, large: int) -> Queue:
    """The queue for a job, given the sizes of its source bytes by digest and the size above which a model is `large`.

    A model that is still to be fetched has no size yet, and counts as large. Only the request decides, never the
    workers that happen to run: an autoscaled pool starts when a job waits for it.
    """
    if isinstance(request, Audit) and request.method.provider == "cuda":
        return "gpu"
    bytes_of = [sizes.get(digest, large + 1) for digest in graphs(request)]
    return "large" if large and sum(bytes_of) > large else "default"


def in_flight(queues: Collection[Queue]) -> str:
    """Name of the broker's hash of messages that workers of these queues have received and not yet acknowledged.

    Workers of other queues use another hash, so that each pool is scaled by its own.
    """
    return ".".join(["unacked", *(queue for queue in QUEUES if queue in queues and len(queues) < len(QUEUES))])
