"""What an audit answers: one document that depends on nothing but its inputs, their bytes and the engine's versions.

Clocks and host names are left out on purpose: the same audit of the same bytes gives the same report, so its digest
can be compared. When and where an audit ran is in its record and its attestation.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from api_spec.audit import Audit, Estimator
from api_spec.base import Count, Digest, Document, Integer, Interval, Name, Probability

SCHEMA_VERSION: Literal["1"] = "1"

FlagCode = Literal[
    "degenerate",
    "zero_gradient",
    "weak_cav",
    "confounded_negatives",
    "unstable_estimators",
    "unstable_negatives",
    "few_examples",
]
Finding = Literal["influential", "not_influential", "inconclusive"]
Outcome = Literal["pass", "fail", "inconclusive"]


class Flag(Document):
    """A reason to doubt a row."""

    code: FlagCode
    sentence: str
    withholds: bool
    """Whether the row may not decide a gate line."""


class Histogram(Document):
    """How values are spread: `counts[i]` of them between `edges[i]` and `edges[i + 1]`."""

    edges: list[float]
    counts: list[Count]


class Null(Document):
    """What the statistic does when the concept is just another random set."""

    kind: Literal["random_sets", "swapped_pairs"]
    sets: Count
    mean: float
    sd: float
    histogram: Histogram


class Score(Document):
    """The TCAV score: the share of target examples whose sensitivity is positive (Kim et al. 2018, eq. 2)."""

    value: Probability
    interval: Interval
    """Bootstrap over concept, pool and target examples, at 1 - alpha."""
    smoothed: Probability
    """The same with a sensitivity counted by how far it is beyond those to random sets, not as 0 or 1."""
    runs: Count
    runs_mean: Probability
    runs_sd: Annotated[float, Field(ge=0)]
    null: Null
    p: Probability


class Effect(Document):
    """The first-order change of the target when the layer moves one step from the pool to the concept."""

    value: float
    """In the target's unit (logits, for a class)."""
    interval: Interval
    in_sd: float
    """The same in standard deviations of the target over its examples."""
    interval_in_sd: Interval
    per_concept_sd: float
    """Change of the target for one standard deviation of the layer along the CAV."""
    null: Null
    p: Probability
    """The larger of the next two: an effect has to be beyond both doubts."""
    p_against_sets: Probability | None = None
    """Could a random set have done this? Exact, by permutation."""
    p_against_zero: Probability | None = None
    """Could other examples have turned it around? By its bootstrap standard deviation."""
    p_corrected: Probability
    """After the correction over every row of the report."""
    target_share: Probability | None = None
    """How much of the interval's variance comes from the target examples; the rest from concept and pool."""


class Accuracy(Document):
    """Whether the layer encodes the concept: held-out accuracy of the classifier, against shuffled labels."""

    held_out: Probability
    """Balanced accuracy, by k-fold."""
    shuffled_mean: Probability
    shuffled_high: Probability
    """The (1 - alpha) quantile under shuffled labels; an encoded concept beats it."""
    encoded: bool


class CrossCheck(Document):
    """The same row by a second estimator."""

    estimator: Estimator
    score: Probability
    effect: float
    effect_in_sd: float
    cosine: Annotated[float, Field(ge=-1, le=1)]
    """Between the two CAVs."""


class LegacyTTest(Document):
    """The published t-test of the runs' scores against those of random CAVs, shown because people ask for it."""

    p: Probability
    caution: str


class WholeStep(Document):
    """What the target does when the layer is moved the whole step and the rest of the model runs on from there.

    The effect extends the slope at the step's beginning; where the two differ, the model bends in between.
    """

    value: float
    interval: Interval
    """Over target examples; the step itself is taken as given."""
    in_sd: float
    interval_in_sd: Interval


class Positions(Document):
    """Where in a convolutional layer the effect arises."""

    shape: list[Integer]
    """Sizes of the layer's positions: height and width for pictures."""
    parts: list[float]
    """Each position's part of the effect, in the target's unit, row by row; together they are the effect."""


class Row(Document):
    """One concept at one layer for one target."""

    concept: Name
    layer: str
    target: Name
    estimator: Estimator
    score: Score
    effect: Effect
    whole_step: WholeStep | None = None
    accuracy: Accuracy
    cross_check: CrossCheck | None
    legacy_t_test: LegacyTTest
    flags: list[Flag]
    sensitivities: list[float]
    """Each target example's own change for the step, in the target's unit; their mean is the effect."""
    positions: Positions | None = None
    n_concept: Count
    n_pool: Count
    n_target: Count


class Consistency(Document):
    """Whether the layers tell one story about a concept and a target."""

    concept: Name
    target: Name
    encoding: list[str]
    """Layers that encode the concept."""
    raising: list[str]
    """Those of them with a significant effect over 0."""
    lowering: list[str]
    """Those of them with a significant effect under 0."""
    sentence: str


class Intervention(Document):
    """The second witness: what adding the concept to the same examples did to the target."""

    concept: Name
    target: Name
    pairs: Count
    change: float
    """Mean of target(with) - target(without), in the target's unit."""
    interval: Interval
    change_in_sd: float
    interval_in_sd: Interval
    p: Probability
    """Paired sign-flip permutation test."""
    probability_without: Probability | None
    probability_with: Probability | None
    flips_to: Count
    """Pairs whose top class became the target; for a single output, whose decision became favourable."""
    flips_from: Count
    changes: list[float] = Field(default_factory=list)
    """Each pair's own change, in the order of the concept's examples; their mean is `change`."""
    rank: Integer | None
    """The target class among all classes by mean change, 1 for the one raised most."""
    classes: Integer | None


class Estimate(Document):
    """A number and its bootstrap interval."""

    value: float
    interval: Interval


class GroupRow(Document):
    """One group of people."""

    group: str
    n: Count
    selection_rate: Estimate
    true_positive_rate: Estimate | None
    false_positive_rate: Estimate | None
    small: bool
    """Fewer than 30 people."""


class GroupReport(Document):
    """Decisions compared between groups."""

    name: Name
    decisions: str
    """Whose decisions, in words."""
    sensitive: list[str]
    rows: list[GroupRow]
    metrics: dict[str, Estimate]


class Cosines(Document):
    """Entanglement: cosines between the CAVs of all concepts at one layer."""

    layer: str
    concepts: list[Name]
    matrix: list[list[float]]


class Strip(Document):
    """Examples sorted by where they lie along a concept at a layer, the farthest ones first and last."""

    concept: Name
    layer: str
    examples: Name
    """The set that was sorted."""
    most: list[Ranked]
    least: list[Ranked]


class Ranked(Document):
    """One example's place along a concept."""

    example: str
    projection: float
    """Along the unit CAV, in standard deviations from the mean of the set."""
    thumbnail: str | None
    """A small picture as a data URI, where the audit allows it."""


class ExampleSetSummary(Document):
    """What was read of one example set."""

    name: Name
    source: Digest
    count: Count
    kind: Literal["images", "arrays", "table", "text"]


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
    examples: list[str]
    """The names of its examples, in the order of the rows' sensitivities."""


class GradientCheck(Document):
    """How far the gradients are from finite differences of the forward graph."""

    layer: str
    target: Name
    relative_error: Annotated[float, Field(ge=0)]
    """Median over examples and random directions, relative to the largest derivative."""
    cosine: Annotated[float, Field(ge=-1, le=1)]
    """Between the directional derivatives and their finite differences."""
    tolerance: float


class Plan(Document):
    """What was done, in the order in which it was done."""

    layers: list[LayerSummary]
    targets: list[TargetSummary]
    examples: list[ExampleSetSummary]
    gradient_checks: list[GradientCheck]


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


class Verdict(Document):
    """What the whole gate came to: the worst of its lines; a gate without lines passes nothing and fails nothing."""

    outcome: Outcome | None
    lines: list[LineVerdict]


class Report(Document):
    """The answer to one audit."""

    schema_version: Literal["1"] = SCHEMA_VERSION
    engine: Engine
    audit: Audit
    """As it was asked, with digests in place of paths and every default filled in."""
    plan: Plan
    rows: list[Row]
    consistency: list[Consistency] = Field(default_factory=list)
    interventions: list[Intervention]
    groups: list[GroupReport]
    cosines: list[Cosines]
    strips: list[Strip]
    warnings: list[str]
    verdict: Verdict
