"""Results: the few kinds of findings that a method can give.

The engine makes these documents, the report holds them, and the gate, the baseline and every output format read them.
None of these knows the name of a method: a new method appears everywhere once its results are of these kinds.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field

from caveat_spec.base import Count, Document, Integer, Interval, Name, Probability

SMALL_GROUP = 30
"""A group of fewer people is marked: one decision moves its rate by more than three percentage points."""
DIGITS = 6
"""Significant digits of every published figure; further digits are rounding that differs between machines."""

Evidence = Literal["association", "intervention"]
"""`association`: the gradient along a concept's direction; `intervention`: the change measured on matched pairs."""
FlagCode = Literal[
    "degenerate",
    "zero_gradient",
    "weak_cav",
    "reference_unlike_targets",
    "sets_differ_in_kind",
    "moves_all_targets",
    "unstable_estimators",
    "unstable_negatives",
    "few_examples",
]
NullKind = Literal["random_sets", "swapped_pairs"]
Disagreement = Literal["explained", "reversed", "masked"]
"""How a difference given other columns departs from the crude one: it is gone, has the other sign, or is only there."""


class Result(Document):
    """What every kind of result has in common."""

    method: str
    """The method that gave it."""


class Flag(Document):
    """A reason to doubt a result."""

    code: FlagCode
    sentence: str
    blocking: bool
    """Whether the result may not decide a gate line."""


class Histogram(Document):
    """How values are spread: `counts[i]` of them between `edges[i]` and `edges[i + 1]`."""

    edges: list[float]
    counts: list[Count]


class Null(Document):
    """How the statistic varies when a random set of examples takes the place of the concept."""

    kind: NullKind
    sets: Count
    mean: float
    sd: float
    histogram: Histogram


class Estimate(Document):
    """A number and its interval."""

    value: float
    interval: Interval


class Effect(Document):
    """A change of the target, with its interval and p-value."""

    value: float
    """In the target's unit (logits, for a class)."""
    interval: Interval
    in_sd: float
    """The same in standard deviations of the target over its examples, by their middle 70 %."""
    interval_in_sd: Interval
    in_probability: Estimate | None = None
    """The mean change of the target's probability: 0.05 is five percentage points. Null without probabilities."""
    in_decisions: Estimate | None = None
    """The share of examples whose decision flips, either way; its interval is exact. Null without decisions."""
    p: Probability
    """The p-value that decides, before the correction over all tests."""
    p_corrected: Probability | None = None
    """After the correction over every test by association; null where the test is not corrected."""
    per_concept_sd: float | None = None
    """Change of the target for one standard deviation of the layer along the concept activation vector."""
    null: Null | None = None
    p_against_sets: Probability | None = None
    """p-value against random sets in place of the concept: exact, by permutation."""
    p_against_zero: Probability | None = None
    """p-value against zero: bootstrap over concept, reference and target examples."""
    target_share: Probability | None = None
    """The share of the interval's variance that comes from the target examples; the rest from the concept's side."""

    @property
    def deciding_p(self) -> float:
        """The corrected p-value, or the p-value where none is corrected."""
        return self.p if self.p_corrected is None else self.p_corrected


class Score(Document):
    """The TCAV score: the share of target examples whose sensitivity is positive (Kim et al. 2018, equation 2)."""

    value: Probability
    interval: Interval
    """Bootstrap over concept, reference and target examples, at 1 - alpha."""
    smoothed: Probability
    """Each sensitivity counts by how far it exceeds those to random sets, not as 0 or 1: the mean of Φ(S / sd)."""
    runs: Count
    runs_mean: Probability
    runs_sd: Annotated[float, Field(ge=0)]
    null: Null
    p: Probability


class Accuracy(Document):
    """Whether the layer encodes the concept: held-out accuracy of its classifier, against shuffled labels."""

    held_out: Probability
    """Balanced accuracy, by k-fold cross-validation."""
    shuffled_mean: Probability
    shuffled_high: Probability
    """The (1 - alpha) quantile under shuffled labels; an encoded concept exceeds it."""
    encoded: bool
    detectable: Probability | None = None
    """The smallest true accuracy that these examples would have found in 95 of 100 cases; null where none is."""


class CrossCheck(Document):
    """The same test by a second estimator."""

    estimator: str
    score: Probability
    effect: float
    effect_in_sd: float
    cosine: Annotated[float, Field(ge=-1, le=1)]
    """Between the two concept activation vectors."""


class LegacyTTest(Document):
    """The published t-test of the runs' scores against those of random vectors, shown because people ask for it."""

    p: Probability
    caution: str


class Change(Document):
    """A change of the target with its interval, in its own unit and in standard deviations over its examples."""

    value: float
    interval: Interval
    in_sd: float
    interval_in_sd: Interval
    in_probability: Estimate | None = None
    """The mean change of the target's probability: 0.05 is five percentage points. Null without probabilities."""
    in_decisions: Estimate | None = None
    """The share of examples whose decision flips, either way; its interval is exact. Null without decisions."""


class FiniteStep(Change):
    """The target's mean change when the layer moves by the full step and the rest of the model runs on from there.

    The effect extends the slope at the start of the step; where the two differ, the model bends in between. The
    interval is over target examples; the step itself is taken as given.
    """


class OutputGap(Change):
    """How the model's own numbers for the concept's examples differ from those for the reference set, in the mean.

    It compares different examples, so that it is no effect of the concept; but an effect of any kind, also one that no
    layer encodes linearly, would be part of it.
    """


class SpatialMap(Document):
    """Where in a convolutional layer the effect arises."""

    shape: list[Integer]
    """Sizes of the layer's positions: height and width for pictures."""
    parts: list[float]
    """Each position's part of the effect, in the target's unit, row by row; they add up to the effect."""


class DecisionChange(Document):
    """How decisions changed on matched pairs."""

    probability_without: Probability | None
    probability_with: Probability | None
    flips_to: Count
    """Pairs whose top class became the target; for a single output, whose decision became favourable."""
    flips_from: Count
    rank: Integer | None
    """The target class among all classes by mean change, 1 for the one raised most."""
    classes: Integer | None


class Figures(Document):
    """The figures of a test: an effect, and whatever else its method measured beside it."""

    effect: Effect
    changes: list[float] = Field(default_factory=list)
    """Each example's own change, in the target's unit; their mean is the effect."""
    flags: list[Flag] = Field(default_factory=list)
    n_concept: Count
    n_reference: Count
    n_target: Count
    score: Score | None = None
    accuracy: Accuracy | None = None
    cross_check: CrossCheck | None = None
    legacy_t_test: LegacyTTest | None = None
    decisions: DecisionChange | None = None

    @property
    def blocked(self) -> bool:
        """Whether a flag keeps it from deciding a gate line."""
        return any(flag.blocking for flag in self.flags)


class ConceptTest(Figures, Result):
    """A test of one concept for one target: at one layer, or of the model as a whole."""

    evidence: Evidence
    concept: Name
    target: Name
    layer: str | None = None
    """Null where the test is of the model as a whole."""
    estimator: str | None = None
    """How the concept activation vector was found, where there is one."""
    finite_step: FiniteStep | None = None
    output_gap: OutputGap | None = None
    """The same at every layer; null where the audit pairs the two sets or controls for other concepts."""
    spatial_map: SpatialMap | None = None

    @property
    def place(self) -> str:
        """Where the test was made, in words for a sentence."""
        return self.layer if self.layer is not None else f"the model ({self.method.replace('_', ' ')})"


class GroupRow(Document):
    """One group of people."""

    group: str
    values: list[str] = Field(default_factory=list)
    """Its value in each of the sensitive columns, in their order."""
    n: Count
    selected: Count | None = None
    """People with a favourable decision; null in reports of older versions."""
    selection_rate: Estimate
    true_positive_rate: Estimate | None
    false_positive_rate: Estimate | None
    small: bool
    """Fewer than 30 people."""
    standardised_rate: Estimate | None = None
    """The selection rate that the group would have if it were spread over the strata of the columns `given` as
    everybody is who is compared."""


class ConditionalDifference(Document):
    """The two groups whose selection rates differ the most, compared among people who are alike in other columns."""

    given: list[str]
    """The columns."""
    strata: Count
    """Combinations of their values that hold enough people of every group."""
    people: Count
    rest: Count
    """People in strata or groups that are too small, who are left out."""
    higher: str
    """The group with the highest rate among the people compared."""
    lower: str
    crude: Estimate
    """The rate of `higher` minus that of `lower`."""
    conditional: Estimate
    """The same, with rates by stratum averaged by the strata's shares of everybody compared."""
    disagreement: Disagreement | None
    sentence: str


class GroupFigures(Document):
    """Rates of every group, the largest first, and the metrics that a gate may bound."""

    rows: list[GroupRow]
    metrics: dict[str, Estimate]
    left_out: Count = 0
    """People without a value in a sensitive column, who are in no group."""
    empty: list[str] = Field(default_factory=list)
    """Combinations of values of several sensitive columns that nobody has."""
    conditional: ConditionalDifference | None = None
    """Null where no columns are given, or where every stratum is too small."""

    @property
    def small(self) -> list[GroupRow]:
        """The groups of few people, which are shown and count in every metric all the same."""
        return [row for row in self.rows if row.small]


class Comparison(GroupFigures, Result):
    """Decisions compared between groups of people."""

    name: Name
    decisions: str
    """Whose decisions, in words."""
    sensitive: list[str]
    threshold: float | None = None
    """The number that scores were compared with; null for recorded decisions."""


class RankedExample(Document):
    """One example's place in a ranking."""

    example: str
    projection: float
    position: Count
    """Its position in the example set."""
    thumbnail: str | None = None
    """A small picture as a data URI, where the audit allows it."""


class Ranking(Result):
    """The ends of an example set in some order, the most extreme example first at either end."""

    title: str
    """What the order is of: a concept, say."""
    caption: str
    """What the order means, in a sentence, with its unit."""
    layer: str | None
    examples: Name
    """The set that was ordered."""
    most: list[RankedExample]
    least: list[RankedExample]


class Difference(Document):
    """Where two examples of a pair differ: a column, some words, or how many numbers."""

    what: str
    without: str
    with_concept: str


class ShownPair(Document):
    """One example without and with the concept, side by side."""

    without: str
    """Its name in the set without the concept."""
    with_concept: str
    thumbnail_without: str | None = None
    """A small picture as a data URI, where the audit allows it."""
    thumbnail_with: str | None = None
    differences: list[Difference] = Field(default_factory=list)
    """Words or columns that differ, as far as the audit allows examples in the report."""


class ShownPairs(Document):
    """A few matched pairs of a concept, so that a reader sees what was added."""

    concept: Name
    without: Name
    """The set without the concept."""
    with_concept: Name
    count: Count
    """All pairs of the concept."""
    shown: list[ShownPair]


class Matrix(Result):
    """A square table of numbers between -1 and 1, such as cosines."""

    title: str
    caption: str
    """What the numbers mean, in a sentence or two."""
    layer: str | None
    names: list[str]
    values: list[list[float]]


class VersionAgreement(Document):
    """One target of the audited model and of another version, at one example set."""

    target: Name
    examples: Name
    n: Count
    same_decision: Estimate | None
    """The share of examples at which both decide alike (top class, or favourable); null for a regression."""
    change: Estimate
    """The target's mean in the audited model minus that in the other version, in its own unit."""
    change_in_sd: float
    """The same in standard deviations of the target in the other version."""
    typical_change_in_sd: Annotated[float, Field(ge=0)]
    """The root mean square of single examples' changes, in the same unit: changes that cancel are in it."""
    accuracy: Estimate | None = None
    """The share of decisions that are right, where the set has a column of true classes."""
    accuracy_other: Estimate | None = None


class VersionLayer(Document):
    """A layer in the audited model and in another version."""

    layer: str
    other: str
    """What the other version calls it."""
    n: Count
    cka: float | None
    """Debiased linear CKA: 1 for layers that are the same up to rotation and scale, about 0 for unrelated ones."""
    channels: Count
    """Channels of the audited model that vary over these examples."""
    matched: Probability | None
    """The share of them with a partner of their own in the other version whose correlation is at least 0.9."""
    median_correlation: float | None


class VersionComparison(Document):
    """The audited model beside another version of it."""

    name: Name
    model: str
    """The other version's digest."""
    agreements: list[VersionAgreement]
    layers: list[VersionLayer]
    notes: list[str] = Field(default_factory=list)


class Note(Result):
    """A sentence that a reader should know before relying on the method's figures."""

    sentence: str


AnyResult = ConceptTest | Comparison | Ranking | Matrix | Note
Published = TypeVar("Published", bound=Document)


def rounded(document: Published) -> Published:
    """The document with every figure to `DIGITS` significant digits."""
    return type(document).model_validate(_rounded(document.model_dump()))


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") + 0.0
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(one) for one in value]
    return value
