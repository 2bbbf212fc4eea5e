"""What clients put in and ask about: blobs, models, example sets, audits."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from api_spec.audit import Audit, Examples, Scalar
from api_spec.base import Count, Digest, Document, Integer, Name
from api_spec.problem import Problem
from api_spec.report import GradientCheck, Outcome

State = Literal["queued", "running", "succeeded", "failed", "cancelled"]
Stage = Literal["queued", "loading", "planning", "reading", "probing", "fitting", "testing", "reporting", "done"]
"""Where an audit is, in the order of the pipeline."""
Queue = Literal["default", "gpu", "large"]
"""For which workers a job is."""


class Blob(Document):
    """Bytes that are kept."""

    digest: Digest
    size: Count


class Upload(Document):
    """How much of a blob has arrived."""

    digest: Digest
    offset: Count
    """Bytes that are kept: where the upload goes on."""
    complete: bool
    """Whether that is all, and the blob is there."""


class Tensor(Document):
    """An input or output of a model."""

    name: str
    dtype: str
    shape: list[Integer | str | None]


class ModelLayer(Document):
    """A tensor inside a model, and whether it can be audited."""

    tensor: str
    operator: str
    shape: list[Integer | str | None]
    depth: Count
    auditable: bool
    reason: str | None
    """Why not: the node, its operator and opset."""
    auto: bool
    """Whether `layers: auto` picks it."""


class Inspection(Document):
    """What is in a model."""

    inputs: list[Tensor]
    outputs: list[Tensor]
    layers: list[ModelLayer]
    target: str
    """Which tensor the default target reads, in a sentence."""
    gradient_checks: list[GradientCheck] = Field(default_factory=list)
    """A supplied gradient graph against finite differences of the model."""
    warnings: list[str]


class ExampleSummary(Document):
    """What is in an example set."""

    kind: Literal["images", "arrays", "table", "text"]
    count: Count
    shape: list[Integer]
    """Of one example, as the model gets it."""
    names: list[str]
    """The first few."""


class SuppliedGradient(Document):
    """A graph of a model's gradients that was made elsewhere, and what the targets are that its outputs name."""

    blob: Digest
    targets: Annotated[dict[Name, Scalar], Field(min_length=1)]


class NewModel(Document):
    """Asks for a blob to be kept as a model."""

    blob: Digest
    name: Name | None = None
    output: str | None = None
    """Whose layers to look at: an output or any tensor; the model's first output when left out."""
    index: Annotated[Integer, Field(ge=0)] | None = None
    """Which class of it."""
    gradient: SuppliedGradient | None = None
    """Compared with finite differences of the model, and refused if it is wrong."""


class NewExamples(Document):
    """Asks for a blob to be kept as an example set; what it holds is declared as in an audit."""

    examples: Examples
    name: Name | None = None


class Job(Document):
    """Work that a worker does: where it stands and how it ended."""

    id: str
    state: State
    stage: Stage
    progress: Annotated[float, Field(ge=0, le=1)]
    """Share of the work that is done."""
    attempts: Count
    created_at: datetime
    updated_at: datetime
    problem: Problem | None
    """Why it failed."""


class ModelRecord(Job):
    """A registered model; `inspection` is there once it succeeded."""

    name: Name | None
    blob: Digest
    inspection: Inspection | None


class ExamplesRecord(Job):
    """A registered example set; `summary` is there once it succeeded."""

    name: Name | None
    examples: Examples
    summary: ExampleSummary | None


class Shards(Document):
    """How far the parts are that a large audit was cut into. Its report is the same as if it had not been."""

    done: Count
    of: Count


class AuditRecord(Job):
    """An audit; its report is there once it succeeded."""

    audit: Audit
    queue: Queue = "default"
    """Which workers it is for: CUDA is asked of `gpu`, a large model of `large`; `default` where nobody serves that."""
    shards: Shards | None = None
    """None where one worker ran all of it."""
    outcome: Outcome | None
    report_digest: Digest | None


class AuditPage(Document):
    """Some audits, the newest first."""

    audits: list[AuditRecord]
    next_page_token: str | None


class Health(Document):
    """A process that lives."""

    status: Literal["alive"] = "alive"


class Readiness(Document):
    """What stands behind the API."""

    status: Literal["ready", "not_ready"]
    database: Literal["up", "down"]
    blobs: Literal["up", "down"]
    broker: Literal["up", "down"]
    """Down is no reason not to be ready: audits are kept, and run when the broker is back."""
    workers: dict[str, list[str]]
    """Workers seen in the last minute, and the protections that each one's kernel cannot give the sandbox."""
    queues: dict[Queue, Count] = Field(default_factory=dict)
    """How many of them serve each queue."""
