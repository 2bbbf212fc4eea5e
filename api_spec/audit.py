"""What a client may ask: one model, its examples, the concepts to look for, and the lines of the gate."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from api_spec.base import Document, Integer, Name, Source

Estimator = Literal[
    "mean_difference",
    "logistic",
    "linear_svm",
    "ridge",
    "scikit_learn.LinearSVC",
    "scikit_learn.LogisticRegression",
    "scikit_learn.Perceptron",
    "scikit_learn.RidgeClassifier",
    "scikit_learn.SGDClassifier",
]
"""How a CAV is found; those of scikit-learn have its defaults and a fixed seed."""
Reduction = Annotated[str, Field(pattern=r"^(flatten|mean|max|token:\d+)$")]


class Preprocess(Document):
    """How a picture becomes the model's input: resized, cropped at the centre, `(pixel - mean) / std`."""

    size: Annotated[Integer, Field(ge=1, le=4096)]
    """Height and width of the input, in pixels."""
    resize: Annotated[Integer, Field(ge=1, le=8192)] | None = None
    """Length of the shorter side before the centre crop, in pixels; `size` when left out."""
    fit: Literal["crop", "squash"] = "crop"
    """`crop` keeps proportions and crops the centre; `squash` stretches to the square."""
    interpolation: Literal["bilinear", "bicubic", "nearest"] = "bilinear"
    mean: float | list[float] = 0.0
    """Subtracted from pixels of 0 to 255; one number, or one a channel."""
    std: float | list[float] = 1.0
    """What the difference is divided by; one number, or one a channel."""
    channels: Literal["rgb", "bgr", "gray"] = "rgb"
    layout: Literal["nchw", "nhwc"] = "nchw"

    @model_validator(mode="after")
    def _numbers_fit_the_channels(self) -> Self:
        expected = 1 if self.channels == "gray" else 3
        for field in ("mean", "std"):
            value = getattr(self, field)
            if isinstance(value, list) and len(value) not in (1, expected):
                raise ValueError(f"{field} has {len(value)} numbers; give one, or {expected} for {self.channels}")
            if field == "std" and 0 in (value if isinstance(value, list) else [value]):
                raise ValueError("std is 0; pixels are divided by it")
        return self


TokenPart = Literal["ids", "mask", "types"]
BERT_INPUTS: dict[str, TokenPart] = {"input_ids": "ids", "attention_mask": "mask", "token_type_ids": "types"}


class ExampleSet(Document):
    """What every kind of examples has in common."""

    SOURCES: ClassVar[tuple[str, ...]]
    """The fields that say where bytes are; the first names the kind."""

    pairs_with: Name | None = None
    """The set that holds the same examples without the concept; pictures pair by file name, rows by position."""
    limit: Annotated[Integer, Field(ge=1)] | None = None
    """Take a seeded sample of this many examples; all of them when left out."""


class Images(ExampleSet):
    """Pictures (PNG, JPEG, WebP) in a zip or tar; on the command line also a folder."""

    SOURCES = ("images",)

    images: Source
    preprocess: Preprocess


class Arrays(ExampleSet):
    """A `.npy` array, or arrays of an `.npz`, with examples along the first axis."""

    SOURCES = ("arrays",)

    arrays: Source
    key: str | None = None
    """Which array of an `.npz`; needed where there are several, and the model takes one."""
    inputs: dict[str, str] = Field(default_factory=dict)
    """For a model with several inputs: the input's name → the array of the `.npz` that feeds it."""


class Table(ExampleSet):
    """Rows of a CSV or Parquet file, turned into numbers in the declared order of columns."""

    SOURCES = ("table",)

    table: Source
    features: Annotated[list[str], Field(min_length=1)]
    """The columns that the model takes, in its order; `city=Rome` is 1 where the column `city` holds Rome, else 0."""
    where: str | None = None
    """Keep the rows for which this holds, for example `race == 1 and income > 40`."""
    set: dict[str, float | str] = Field(default_factory=dict)
    """Columns overwritten after `where`: a counterfactual edit."""


class Text(ExampleSet):
    """Texts, one JSON object a line, turned into tokens by the model's own tokenizer."""

    SOURCES = ("text", "tokenizer")

    text: Source
    tokenizer: Source
    """The `tokenizer.json` of the `tokenizers` library."""
    field: str = "text"
    """Which field of a line holds the text."""
    length: Annotated[Integer, Field(ge=1, le=8192)] = 64
    """How many tokens every text is padded or cut to."""
    inputs: dict[str, TokenPart] = Field(default_factory=lambda: dict(BERT_INPUTS))
    """The model's inputs and what feeds them; those that the model does not have are passed over."""


Examples = Annotated[
    Annotated[Images, Tag("images")]
    | Annotated[Arrays, Tag("arrays")]
    | Annotated[Table, Tag("table")]
    | Annotated[Text, Tag("text")],
    Discriminator(
        lambda value: _kind(value, "images", "arrays", "table", "text"),
        custom_error_type="unknown_kind_of_examples",
        custom_error_message="An example set has one of the keys 'images', 'arrays', 'table' or 'text'",
    ),
]


class Concept(Document):
    """A human concept: examples that show it, against a reference pool that does not."""

    examples: Name
    against: Name | Annotated[list[Name], Field(min_length=1)]
    """The reference pool: one set, another concept's set (a relative concept), or several sets together."""
    beyond: list[Name] = Field(default_factory=list)
    """Other concepts, whose directions are taken out of every layer first: what does this one add to them?"""

    @property
    def pools(self) -> list[Name]:
        """The sets that make the pool."""
        return self.against if isinstance(self.against, list) else [self.against]


class Scalar(Document):
    """One number that a model gives for an example."""

    output: str | None = None
    """A model output or any tensor; the model's first output when left out. Softmax and the like are looked through."""
    index: Annotated[Integer, Field(ge=0)] | None = None
    """Which class; left out for a single output."""
    versus: Annotated[Integer, Field(ge=0)] | None = None
    """A second class: the target is then the difference of the two."""
    scale: Literal["logit", "log_probability", "probability"] = "logit"
    reduce: Literal["mean", "sum", "max"] | None = None
    """How several scores an example (tokens, pixels) become one; needed where the output has such an axis."""


class Target(Scalar):
    """The number whose dependence on concepts is asked for, and the examples at which its gradient is taken."""

    examples: Name


class LayerChoice(Document):
    """A tensor, and how its positions become features: all kept, averaged, maximised, or one token."""

    tensor: Annotated[str, Field(min_length=1)]
    reduce: Reduction = "flatten"


def _layer(value: Any) -> Any:
    """`block15` and `block15@mean` are short for a layer with its reduction."""
    if not isinstance(value, str):
        return value
    tensor, at, reduction = value.rpartition("@")
    return (
        {"tensor": tensor, "reduce": reduction}
        if at and re.fullmatch(r"flatten|mean|max|token:\d+", reduction)
        else {"tensor": value}
    )


Layer = Annotated[LayerChoice, BeforeValidator(_layer, json_schema_input_type=str | LayerChoice)]


class Method(Document):
    """How the question is answered; the defaults are those of the method page."""

    estimator: Estimator = "mean_difference"
    cross_check: Estimator | None = "logistic"
    """A second estimator, reported beside the first; a line is not `not_influential` against its word."""
    runs: Annotated[Integer, Field(ge=2, le=100_000)] = 500
    """CAVs against random draws from the pool: the published description of spread."""
    null_sets: Annotated[Integer, Field(ge=19, le=1_000_000)] = 499
    """Random sets that play the concept in the permutation test."""
    bootstrap: Annotated[Integer, Field(ge=19, le=1_000_000)] = 499
    """Resamples of concept, pool and target examples behind each interval."""
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    correction: Literal["holm", "benjamini_hochberg", "none"] = "holm"
    folds: Annotated[Integer, Field(ge=2, le=50)] = 5
    regularisation: Annotated[float, Field(gt=0)] = 1.0
    """Strength of the L2 penalty, relative to the mean squared norm of the centred activations."""
    min_examples: Annotated[Integer, Field(ge=2)] = 20
    """Fewest examples that a concept, a pool and a target may have."""
    gradient_tolerance: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """Largest relative difference allowed between the gradient and finite differences."""
    seed: Annotated[Integer, Field(ge=0, lt=2**53)] = 0
    provider: Literal["auto", "cpu", "cuda"] = "auto"
    positions: bool = False
    """Whether rows of convolutional layers say at which positions the effect arises."""
    pictures: Literal["full", "blurred", "ids"] = "full"
    """How examples appear in the report."""


class Group(Document):
    """Decisions compared between groups of people: recorded ones, or the model's own."""

    examples: Name
    """A table; it holds the sensitive columns."""
    sensitive: Annotated[list[str], Field(min_length=1)]
    """Columns whose values make the groups; several make intersectional groups."""
    decision: str | None = None
    """The column of recorded decisions, 1 for the favourable one."""
    target: Name | None = None
    """The target whose value over `threshold` is the favourable decision."""
    threshold: float = 0.0
    label: str | None = None
    """The column of true outcomes, for true and false positive rates."""

    @model_validator(mode="after")
    def _one_source_of_decisions(self) -> Self:
        if (self.decision is None) == (self.target is None):
            raise ValueError("give either 'decision', a column of recorded decisions, or 'target', the model's own")
        return self


GroupMetric = Literal[
    "selection_rate_ratio",
    "selection_rate_difference",
    "true_positive_rate_difference",
    "false_positive_rate_difference",
    "equalized_odds_difference",
]


class ConceptLine(Document):
    """A line of the gate: a concept that must matter, or must not."""

    concept: Name
    target: Name
    must: Literal["not_matter", "matter", "not_grow"]
    """`not_grow`: matter no more than in the baseline report that the gate is given."""
    tolerance: Annotated[float, Field(gt=0)] = 0.1
    """The largest effect, or growth of one, that does not matter, in `unit`."""
    unit: Literal["sd", "logit"] = "sd"
    """`sd`: standard deviations of the target over its examples; `logit`: the target's own unit."""
    when_inconclusive: Literal["inconclusive", "pass", "fail"] = "inconclusive"
    when_not_encoded: Literal["inconclusive", "not_influential"] = "inconclusive"
    """What a concept that no audited layer encodes says about a model."""
    when_witnesses_disagree: Literal["inconclusive", "intervention"] = "inconclusive"
    """Whether the measured intervention alone may settle a line."""


class GroupLine(Document):
    """A line of the gate: a bound on a group metric, judged by its point value."""

    group: Name
    metric: GroupMetric
    at_least: float | None = None
    at_most: float | None = None

    @model_validator(mode="after")
    def _has_a_bound(self) -> Self:
        if self.at_least is None and self.at_most is None:
            raise ValueError("give 'at_least' or 'at_most'; the four-fifths rule is selection_rate_ratio at_least 0.8")
        return self


GateLine = Annotated[
    Annotated[ConceptLine, Tag("concept")] | Annotated[GroupLine, Tag("group")],
    Discriminator(
        lambda value: _kind(value, "concept", "group"),
        custom_error_type="unknown_kind_of_gate_line",
        custom_error_message="A line of the gate has one of the keys 'concept' or 'group'",
    ),
]


def _kind(value: Any, *keys: str) -> str | None:
    """The one of `keys` that a raw or a validated value has."""
    for key in keys:
        if (key in value) if isinstance(value, dict) else hasattr(value, key):
            return key
    return None


class Audit(Document):
    """One question about one model: what is examined, how, and what has to hold."""

    model: Source
    gradient: Source | None = None
    """A graph of the model's gradients that was made elsewhere, by targets' names; without it they are made here."""
    examples: Annotated[dict[Name, Examples], Field(min_length=1)]
    concepts: dict[Name, Concept] = Field(default_factory=dict)
    targets: dict[Name, Target] = Field(default_factory=dict)
    layers: Literal["auto"] | Annotated[list[Layer], Field(min_length=1)] = "auto"
    method: Method = Method()
    groups: dict[Name, Group] = Field(default_factory=dict)
    gate: list[GateLine] = Field(default_factory=list)

    @model_validator(mode="after")
    def _names_exist(self) -> Self:
        for pointer, name, known, kind in self._references():
            if name not in known:
                there = ", ".join(sorted(known)) or "none"
                raise ValueError(f"{pointer} names the {kind} '{name}', which is not declared; declared: {there}")
        if self.concepts and not self.targets:
            raise ValueError("concepts need at least one entry in 'targets': the number they may influence")
        if not self.concepts and not self.groups:
            raise ValueError("nothing is asked: give at least one entry in 'concepts' or in 'groups'")
        for name, concept in self.concepts.items():
            if name in concept.beyond or len(set(concept.beyond)) < len(concept.beyond):
                raise ValueError(f"/concepts/{name}/beyond names other concepts, each of them once")
        for name, group in self.groups.items():
            if not isinstance(self.examples[group.examples], Table):
                raise ValueError(f"/groups/{name} compares people in '{group.examples}', which is not a table")
        return self

    def _references(self) -> Iterator[tuple[str, str, Any, str]]:
        """Every name used, where, among what it must be, and what that is called."""
        for key, examples in self.examples.items():
            if examples.pairs_with is not None:
                yield f"/examples/{key}/pairs_with", examples.pairs_with, self.examples, "example set"
        for key, concept in self.concepts.items():
            yield f"/concepts/{key}/examples", concept.examples, self.examples, "example set"
            for pool in concept.pools:
                yield f"/concepts/{key}/against", pool, self.examples, "example set"
            for position, other in enumerate(concept.beyond):
                yield f"/concepts/{key}/beyond/{position}", other, self.concepts, "concept"
        for key, target in self.targets.items():
            yield f"/targets/{key}/examples", target.examples, self.examples, "example set"
        for key, group in self.groups.items():
            yield f"/groups/{key}/examples", group.examples, self.examples, "example set"
            if group.target is not None:
                yield f"/groups/{key}/target", group.target, self.targets, "target"
        for position, line in enumerate(self.gate):
            if isinstance(line, ConceptLine):
                yield f"/gate/{position}/concept", line.concept, self.concepts, "concept"
                yield f"/gate/{position}/target", line.target, self.targets, "target"
            else:
                yield f"/gate/{position}/group", line.group, self.groups, "group"

    def sources(self) -> dict[str, str]:
        """Where the audit's bytes are: JSON pointer → path or digest."""
        graphs = {"/model": self.model} | ({} if self.gradient is None else {"/gradient": self.gradient})
        return graphs | {
            f"/examples/{name}/{field}": getattr(one, field)
            for name, one in self.examples.items()
            for field in one.SOURCES
        }

    def with_sources(self, replaced: dict[str, str]) -> Audit:
        """The same audit with each pointer of `sources()` given a new place."""
        examples = {
            name: one.model_copy(update={field: replaced[f"/examples/{name}/{field}"] for field in one.SOURCES})
            for name, one in self.examples.items()
        }
        graphs = {"model": replaced["/model"], "gradient": replaced.get("/gradient")}
        return self.model_copy(update={**graphs, "examples": examples})
