"""The resources of the API: blobs, uploads, models, example sets, audits, and the health of the service."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from caveat_spec.audit import Audit, ExampleKind, Examples, Scalar
from caveat_spec.base import Count, Digest, Document, Integer, Name
from caveat_spec.explained import Spectrum
from caveat_spec.problem import ProblemDetails
from caveat_spec.report import Engine, GradientCheck, Outcome

State = Literal["queued", "running", "succeeded", "failed", "cancelled"]
Stage = Literal["queued", "loading", "reading", "planning", "collecting", "testing", "explaining", "reporting", "done"]
"""Where an audit is, in the order of the pipeline."""
STAGES: dict[Stage, float] = {
    "queued": 0.0,
    "loading": 0.0,
    "reading": 0.02,
    "planning": 0.04,
    "collecting": 0.06,
    "testing": 0.6,
    "explaining": 0.85,
    "reporting": 0.97,
    "done": 1.0,
}
"""Where each stage begins, as a share of the whole audit."""
Queue = Literal["default", "gpu", "large"]
"""The queues for jobs; each worker serves one or more of them."""


class Blob(Document):
    """Bytes in storage."""

    digest: Digest
    size: Count


class Upload(Document):
    """The state of a resumable upload."""

    digest: Digest
    offset: Count
    """Number of bytes received; the upload continues here."""
    complete: bool
    """Whether all bytes have arrived, so that the blob exists."""


class Tensor(Document):
    """An input or an output of a model."""

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
    """Why the layer cannot be audited: the node, its operator and its opset; null if it can."""
    auto: bool
    """Whether `layers: auto` selects this layer."""


class DefaultTarget(Document):
    """The number that an audit of a model is about by default, and what is known of its output."""

    scalar: Scalar
    """As an audit writes it, with the output's name."""
    classes: Count | None
    """Number of scores to choose from; 1 for a single score, null if the model leaves it open."""
    link: str
    """What the model applies to the scores, such as `softmax` or `sigmoid`; `none` if it gives them as they are."""


class Inspection(Document):
    """The contents of a model."""

    inputs: list[Tensor]
    outputs: list[Tensor]
    layers: list[ModelLayer]
    target: str
    """A sentence that says which tensor the default target reads."""
    default_target: DefaultTarget | None = None
    """Null if no output has scores, or if several have and none was named."""
    gradient_checks: list[GradientCheck] = Field(default_factory=list)
    """Results of comparing a supplied gradient graph with finite differences of the model."""
    warnings: list[str]


class ExampleSummary(Document):
    """The contents of an example set."""

    kind: ExampleKind
    count: Count
    shape: list[Integer]
    """Shape of one example as the model receives it."""
    names: list[str]
    """Names of the first few examples."""


class SuppliedGradient(Document):
    """A gradient graph made by another tool, and the target that each of its outputs belongs to."""

    blob: Digest
    targets: Annotated[dict[Name, Scalar], Field(min_length=1)]


class NewModel(Document):
    """A request to register a blob as a model."""

    blob: Digest
    """An ONNX file; where its weights are in other files, a tar of it (as `model.onnx`) and them."""
    name: Name | None = None
    output: str | None = None
    """The output or other tensor whose layers are inspected; by default the model's first output."""
    index: Annotated[Integer, Field(ge=0)] | None = None
    """Index of the class in that output."""
    constants: dict[str, float] = Field(default_factory=dict)
    """Inputs that hold one number, as in an audit: a name → the number that fills it."""
    gradient: SuppliedGradient | None = None
    """Gradient graph to use; it is compared with finite differences of the model and rejected if they disagree."""


class NewExamples(Document):
    """A request to register a blob as an example set, declared as in an audit."""

    examples: Examples
    name: Name | None = None


class Job(Document):
    """A unit of work for a worker: its state and its outcome."""

    id: str
    state: State
    stage: Stage
    progress: Annotated[float, Field(ge=0, le=1)]
    """Fraction of the work that is done."""
    attempts: Count
    created_at: datetime
    updated_at: datetime
    problem: ProblemDetails | None
    """Why the job failed; null otherwise."""


class ConceptDirection(Document):
    """A concept's direction at a layer, so that a model can be edited or watched along it."""

    concept: Name
    layer: str
    """As an audit names it, with its reduction."""
    tensor: str
    reduce: str
    shape: list[Integer]
    """`[channels]` where the layer is reduced over positions, else the layer's own sizes."""
    values: str
    """Base64 of its float32 numbers, little-endian, in the order of `shape`."""
    step: float
    """How far the concept's mean lies from the reference's along it: effects are sensitivities times it."""
    origin: float
    """Where the reference set's mean lies along it."""
    mean: float
    """Where the first target's examples lie along it."""
    sd: float
    n_concept: Count
    n_reference: Count


class WatchCheck(Document):
    """The numbers of a monitoring model beside the audit's own at the same examples."""

    examples: Count
    score_error: float
    """Largest difference of a concept score, in standard deviations."""
    sensitivity_error: float
    """Largest difference of a sensitivity, relative to the largest of its kind."""


class Directions(Document):
    """The directions of an audit's concepts at its layers."""

    directions: list[ConceptDirection]
    layers: list[str]
    targets: list[Name]
    check: WatchCheck | None
    warnings: list[str]


class PictureFacts(Document):
    """What is said about a picture that was made so that an atom responds to it most."""

    atom: str
    """As `channel 17`, `concept watermark` or `like zebra-3.png`."""
    unit: str
    """Of responses: an activation, or standard deviations of the concept's reference set."""
    response: float
    """To the picture, to two digits: the last ones depend on the processor."""
    highest: float
    """To the example of the set that it is strongest for."""
    withheld: str | None
    """Why the picture is not shown."""
    rise: list[float]
    """The response at eight times while the picture was made, to two digits."""
    spectrum: Spectrum
    """The set's examples from the highest to the lowest."""


class MadePicture(PictureFacts):
    """A made picture with its bytes, beside the set's own examples."""

    picture: str
    """PNG, in base64."""


class PictureFile(PictureFacts):
    """A made picture as a file; it has none where it is not shown."""

    file: Annotated[str, Field(pattern=r"^[a-z0-9-]+\.png$")] | None
    """Name of the file beside the document."""
    digest: Digest | None


class VisualisationFacts(Document):
    """How pictures of what atoms of a layer look for were made."""

    audit: Audit
    """Whose model, example sets and concepts these are, with every file by its digest."""
    engine: Engine
    layer: str
    set: Name
    examples: Count
    """In the set."""
    centre: bool
    steps: Count
    side: Count
    """Pixels that were asked for on the longer side."""
    seed: Count
    sees: tuple[Integer, Integer] | None
    """Rows and columns of the input that one place of the layer sees; null where it sees everything."""
    height: Count
    width: Count
    resized: bool
    """Whether the pictures are of another size than the model's own input."""
    warnings: list[str]


class Visualisation(VisualisationFacts):
    """Pictures of what atoms of a layer look for."""

    pictures: list[MadePicture]


class VisualisationFile(VisualisationFacts):
    """The same beside files, one for each picture that is shown (`visualised.json`)."""

    pictures: list[PictureFile]


class ModelRecord(Job):
    """A registered model; `inspection` is null until the job has succeeded."""

    name: Name | None
    blob: Digest
    inspection: Inspection | None


class ExamplesRecord(Job):
    """A registered example set; `summary` is null until the job has succeeded."""

    name: Name | None
    examples: Examples
    summary: ExampleSummary | None


class Shards(Document):
    """Progress of the shards of a large audit. Sharding does not change the report."""

    done: Count
    of: Count


class AuditRecord(Job):
    """An audit; its report is available once the job has succeeded."""

    audit: Audit
    queue: Queue = "default"
    """`gpu` for audits that ask for CUDA, `large` for large models, otherwise `default`."""
    shards: Shards | None = None
    """Null if the audit was not divided."""
    outcome: Outcome | None
    report_digest: Digest | None
    maps_digest: Digest | None = None
    """Of the file of maps beside the report; null if the audit keeps none."""


class AuditPage(Document):
    """A page of audits, newest first."""

    audits: list[AuditRecord]
    next_page_token: str | None


class ModelPage(Document):
    """A page of models, newest first."""

    models: list[ModelRecord]
    next_page_token: str | None


class ExamplesPage(Document):
    """A page of example sets, newest first."""

    examples: list[ExamplesRecord]
    next_page_token: str | None


class Health(Document):
    """The answer of a running process."""

    status: Literal["alive"] = "alive"


class Readiness(Document):
    """The state of the services that the API depends on."""

    status: Literal["ready", "not_ready"]
    database: Literal["up", "down"]
    blobs: Literal["up", "down"]
    broker: Literal["up", "down"]
    """The API is ready even if the broker is down: jobs are stored and run once it is back."""
    workers: dict[str, list[str]]
    """Workers seen in the last minute, each with the sandbox protections that its kernel does not provide."""
    queues: dict[Queue, Count] = Field(default_factory=dict)
    """Number of these workers that serve each queue."""
    problems: list[str] = Field(default_factory=list)
    """Codes of the problems of the parts that are down, such as `blobs-full` or `database-away`."""
