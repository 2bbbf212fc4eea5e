"""The report: one document that depends on nothing but an audit, the bytes it names, and the versions of the engine.

It holds no clock and no host name: the same audit of the same bytes gives the same report, so its digest can be
compared. When and where an audit ran is in its record and its attestation.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from caveat_spec.audit import Audit, ExampleKind
from caveat_spec.base import Count, Digest, Document, Integer, Name
from caveat_spec.explained import Explained
from caveat_spec.maps import MapsFile
from caveat_spec.results import Comparison, ConceptTest, Matrix, Ranking, ShownPairs, VersionComparison

SCHEMA_VERSION: Literal["3"] = "3"

Finding = Literal["influential", "not_influential", "not_encoded", "inconclusive"]
"""`not_encoded`: no audited layer encodes the concept, and no change of the target was measured."""
Outcome = Literal["pass", "fail", "inconclusive"]


class LayerFindings(Document):
    """What all layers together say about a concept and a target."""

    concept: Name
    target: Name
    encoding: list[str]
    """Layers that encode the concept."""
    raising: list[str]
    """Those of them with a significant effect above 0."""
    lowering: list[str]
    """Those of them with a significant effect below 0."""
    sentence: str


class ExampleSetSummary(Document):
    """What was read of one example set."""

    name: Name
    source: Digest
    count: Count
    kind: ExampleKind


class LayerSummary(Document):
    """One audited layer."""

    layer: str
    """As rows name it: the tensor, and `@` its reduction where that is not `flatten`."""
    tensor: str
    operator: str
    shape: list[Integer | str]
    features: Count
    depth: Count
    chosen: bool
    """Whether Caveat picked it, not the audit."""


class TargetSummary(Document):
    """One target: which tensor its number is read from, and how it spreads."""

    target: Name
    tensor: str
    sentence: str
    unit: str
    mean: float
    sd: float
    """The standard deviation that figures in sd divide by: that of a normal distribution with the same middle 70 %."""
    examples: list[str]
    """The names of its examples, in the order of the rows' sensitivities."""
    commonest_class: Integer | None = None
    """The class with the highest score at most of its examples; null for a single score."""


class GradientCheck(Document):
    """How far gradients along short segments are from finite differences of the forward graph."""

    layer: str
    target: Name
    relative_error: Annotated[float, Field(ge=0)]
    """Median over examples and random directions, relative to the root mean square of each example's derivatives."""
    cosine: Annotated[float, Field(ge=-1, le=1)]
    """Between the directional derivatives and their finite differences."""
    tolerance: float


class PassCounts(Document):
    """How many examples go through the model where nothing is known from an earlier audit."""

    forward: Count
    backward: Count
    partial: Count
    """From a layer to the end, after a step."""

    @property
    def total(self) -> int:
        """All of them, each counted as one."""
        return self.forward + self.backward + self.partial


class PlanSummary(Document):
    """What was done, in the order in which it was done."""

    layers: list[LayerSummary]
    targets: list[TargetSummary]
    examples: list[ExampleSetSummary]
    gradient_checks: list[GradientCheck]
    passes: PassCounts | None = None


class Engine(Document):
    """What computed the report."""

    caveat: str
    versions: dict[str, str]
    provider: str
    """ONNX Runtime's execution provider."""
    sandbox_lacks: list[str] = Field(default_factory=list)
    """Protections that the kernel could not give the process which read the model and the examples."""


class LineVerdict(Document):
    """What one line of the gate came to."""

    line: Integer
    """Its position in the gate, from 0."""
    subject: str
    """The line in words."""
    finding: Finding | None
    """For a line about a concept."""
    outcome: Outcome
    reason: str
    """One sentence."""
    caution: str | None = None
    """What another line of evidence says against it, in a sentence."""

    @property
    def explanation(self) -> str:
        """The reason, and the caution where there is one."""
        return self.reason if self.caution is None else f"{self.reason} Caution: {self.caution}"


class Verdict(Document):
    """What the whole gate came to: the worst of its lines; a gate without lines passes nothing and fails nothing."""

    outcome: Outcome | None
    lines: list[LineVerdict]


class Look(Document):
    """One look of a sequential audit: the examples so far, and what the gate made of them."""

    share: float
    """Of each example set."""
    examples: dict[Name, Count]
    alpha: float
    """What this look spends of the audit's alpha: its intervals leave out so much, and its tests err so often."""
    passes: PassCounts
    """Of this look and those before it."""
    settled: list[Integer]
    """The lines of the gate, from 0, that these examples settle. A look that goes on takes no finite steps, and settles
    no line by association, unless a step has to give its share."""
    out_of_reach: list[Integer] = Field(default_factory=list)
    """Open lines that all examples would settle with a chance of less than one in twenty."""


class SequentialSummary(Document):
    """How a sequential audit came to its end; the report's figures are those of the last look."""

    looks: list[Look]
    planned: list[float]
    """The share of every look that the audit would have taken."""
    fixed: PassCounts
    """The passes of an audit of all examples at once."""

    @property
    def saved(self) -> float:
        """The share of an audit's passes that were not made; below 0 where a look took steps in vain."""
        return 1 - self.looks[-1].passes.total / max(self.fixed.total, 1)

    @property
    def alpha(self) -> float:
        """What the last look spends."""
        return self.looks[-1].alpha

    @property
    def spent(self) -> float:
        """What all looks that were taken spend."""
        return sum(look.alpha for look in self.looks)


class Report(Document):
    """The answer to one audit."""

    schema_version: Literal["3"] = SCHEMA_VERSION
    engine: Engine
    audit: Audit
    """As it was asked, with digests in place of paths and every default filled in."""
    plan: PlanSummary
    tests: list[ConceptTest]
    comparisons: list[Comparison]
    rankings: list[Ranking]
    pairs: list[ShownPairs] = Field(default_factory=list)
    """A few matched pairs of each concept that has some."""
    matrices: list[Matrix]
    layer_findings: list[LayerFindings] = Field(default_factory=list)
    explanations: list[Explained] = Field(default_factory=list)
    maps: MapsFile | None = None
    """The file beside the report that has every number of its figures, where the audit asked to keep them."""
    versions: list[VersionComparison] = Field(default_factory=list)
    warnings: list[str]
    sequential: SequentialSummary | None = None
    """How the audit came to its end, where it took examples in blocks."""
    verdict: Verdict

    @property
    def alpha(self) -> float:
        """What intervals leave out and p-values are compared with: of the audit, or of a sequential one's last look."""
        return self.audit.method.alpha if self.sequential is None else self.sequential.alpha

    @property
    def associations(self) -> list[ConceptTest]:
        """The tests by association, layer by layer."""
        return [test for test in self.tests if test.evidence == "association"]

    @property
    def interventions(self) -> list[ConceptTest]:
        """The changes that were measured on matched pairs."""
        return [test for test in self.tests if test.evidence == "intervention"]
