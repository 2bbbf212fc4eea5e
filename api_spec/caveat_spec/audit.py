"""The audit: one model, its examples, the concepts to look for, and the lines of the gate."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    JsonValue,
    StringConstraints,
    Tag,
    ValidationError,
    model_validator,
)

from caveat_spec.base import Document, Integer, Name, Source
from caveat_spec.explain import Explanation, Integrity
from caveat_spec.explanations import FOLDER
from caveat_spec.methods import Part, methods

Estimator = Literal[
    "mean_difference",
    "logistic",
    "scikit_learn.LinearSVC",
    "scikit_learn.LogisticRegression",
    "scikit_learn.Perceptron",
    "scikit_learn.RidgeClassifier",
    "scikit_learn.SGDClassifier",
]
"""How a CAV is found; those of scikit-learn have its defaults and a fixed seed."""
Reduction = Annotated[str, Field(pattern=r"^(flatten|mean|max|last|token:\d+)$")]


Kept = Literal["maps", "cavs"]


Side = Annotated[Integer, Field(ge=1, le=4096)]


class Preprocess(Document):
    """How a picture becomes the model's input: resized, cropped at the centre, `(pixel - mean) / std`."""

    size: Side | Annotated[list[Side], Field(min_length=2, max_length=2)]
    """Height and width of the input, in pixels: one number for a square, or `[height, width]`."""
    resize: Annotated[Integer, Field(ge=1, le=8192)] | None = None
    """Length of the shorter side before the centre crop, in pixels; as short as `size` allows when left out."""
    fit: Literal["crop", "squash"] = "crop"
    """`crop` keeps proportions and crops the centre; `squash` stretches to `size`."""
    interpolation: Literal["bilinear", "bicubic", "nearest"] = "bilinear"
    bit_depth: Annotated[Integer, Field(ge=8, le=16)] | None = None
    """Bits that greys of 16-bit pictures use, such as 12 of many scanners: pixels of 0 to 4,095; 16 when left out."""
    mean: float | list[float] = 0.0
    """Subtracted from pixels, which are scaled to 0 to 255; one number, or one a channel."""
    std: float | list[float] = 1.0
    """What the difference is divided by; one number, or one a channel."""
    channels: Literal["rgb", "bgr", "gray"] = "rgb"
    layout: Literal["nchw", "nhwc"] = "nchw"

    @property
    def height_and_width(self) -> tuple[int, int]:
        """The input's height and width, in pixels."""
        height, width = self.size if isinstance(self.size, list) else (self.size, self.size)
        return height, width

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


TokenPart = Literal["ids", "mask", "types", "positions"]
BERT_INPUTS: dict[str, TokenPart] = {"input_ids": "ids", "attention_mask": "mask", "token_type_ids": "types"}


ExampleKind = Literal["images", "arrays", "table", "text"]


class ExampleSet(Document):
    """The fields that every kind of example set has."""

    SOURCES: ClassVar[dict[str, str]]
    """The fields that name files, and what each file is, in words; the first field names the kind."""
    FOLDERS: ClassVar[dict[str, frozenset[str]]] = {}
    """Those of them that may name a folder on the command line, and the endings of the files that are taken from it."""

    pairs_with: Name | None = None
    """The set with the same examples without the concept: matched by file name for pictures, by row for tables."""
    limit: Annotated[Integer, Field(ge=1)] | None = None
    """Take a seeded sample of this many examples; all of them when left out."""
    half: Literal["first", "second"] | None = None
    """Take one half of the examples, drawn by name, alike in every set: what is found in one is judged on the other."""
    together: Annotated[str, StringConstraints(min_length=1, max_length=8)] | None = None
    """What ends the part of a name that keeps examples in one half: with `-`, `tom-1` and `tom-2` are not parted."""
    only: Annotated[list[str], Field(min_length=1)] | None = None
    """Take the examples of these names, as reports give them: file names, or `row 5`."""

    def sources(self) -> dict[str, str]:
        """The fields that name files, as far as they are given: field → path or digest."""
        named = {field: getattr(self, field) for field in self.SOURCES}
        return {field: source for field, source in named.items() if source is not None}


DATASETS = frozenset({".arrow", ".parquet"})
"""Endings of the files of a dataset on disk."""


NAMES_OF_FILES = ("file_name", "filename", "file", "path", "image_path", "image", "img")
"""Columns of annotations that are taken for file names, the first that is there."""


class Images(ExampleSet):
    """Pictures (PNG, JPEG, WebP) in a zip, a tar or a Parquet or Arrow dataset; on the command line also a folder."""

    SOURCES: ClassVar = {
        "images": "a zip or tar of pictures, or a dataset (.parquet, .arrow)",
        "annotations": "annotations (.csv, .jsonl, .parquet, or COCO's .json)",
    }
    SUFFIXES: ClassVar = frozenset({".jpeg", ".jpg", ".png", ".webp"})
    FOLDERS: ClassVar = {"images": SUFFIXES | DATASETS}

    images: Source
    preprocess: Preprocess
    files: str | None = None
    """Take the pictures whose path in the folder or archive fits this pattern, for example `zebra/*`."""
    annotations: Source | None = None
    """A table with a row for each picture, or COCO annotations, where each category is a column that counts it."""
    where: str | None = None
    """Take the pictures for whose row in the annotations or in the dataset this holds, for example `zebra >= 1`."""
    column: str | None = None
    """The annotations' column of file names, or the dataset's column of pictures; found by name or type if left out."""


class Arrays(ExampleSet):
    """A `.npy` array, or arrays of an `.npz`, with examples along the first axis."""

    SOURCES: ClassVar = {"arrays": "an array (.npy, .npz)"}

    arrays: Source
    key: str | None = None
    """Which array of an `.npz`; needed where there are several, and the model takes one."""
    inputs: dict[str, str] = Field(default_factory=dict)
    """For a model with several inputs: the input's name → the array of the `.npz` that feeds it."""


class Table(ExampleSet):
    """Rows of a table, whose columns feed the model's inputs: those of the same name by default."""

    SOURCES: ClassVar = {"table": "a table (.csv, .jsonl, .parquet, .arrow)"}
    FOLDERS: ClassVar = {"table": DATASETS}

    table: Source
    features: Annotated[list[str], Field(min_length=1)] | None = None
    """For a model with one input: its columns, in its order; `city=Rome` is 1 where `city` holds Rome, else 0."""
    inputs: dict[str, str | Annotated[list[str], Field(min_length=1)]] = Field(default_factory=dict)
    """For inputs that have not the name of a column: the input's name → the column, or columns, that feed it."""
    where: str | None = None
    """Keep the rows for which this holds, such as `race == 1 and (income > 40 or city in [Rome, Bonn])`.

    Columns may stand in backticks or double quotes. `not`, `is null` and `is not null` are read too; a comparison with
    a missing value holds nowhere.
    """
    set: dict[str, float | str] = Field(default_factory=dict)
    """Columns overwritten after `where`: a counterfactual edit."""

    @model_validator(mode="after")
    def _says_once_what_feeds_the_model(self) -> Self:
        if self.features and self.inputs:
            raise ValueError("give either 'features', the columns of a model's only input, or 'inputs'")
        return self


class Text(ExampleSet):
    """Texts in a field of JSON lines or a column of a table, turned into tokens by the model's own tokenizer."""

    SOURCES: ClassVar = {
        "text": "texts (.jsonl, .csv, .parquet, .arrow)",
        "tokenizer": "a tokenizer (tokenizer.json)",
    }
    FOLDERS: ClassVar = {"text": DATASETS}

    text: Source
    tokenizer: Source
    """The `tokenizer.json` of the `tokenizers` library."""
    field: str = "text"
    """Which field of a line, or which column, holds the text."""
    where: str | None = None
    """Keep the texts for whose line or row this holds, for example `label == toxic`."""
    length: Annotated[Integer, Field(ge=1, le=8192)] = 64
    """How many tokens every text is padded or cut to."""
    inputs: dict[str, TokenPart] = Field(default_factory=lambda: dict(BERT_INPUTS))
    """The model's inputs and the part of the tokens that each takes; inputs that the model lacks are ignored."""


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
    """A human concept: examples that show it, against a reference set that does not."""

    examples: Name
    against: Name | Annotated[list[Name], Field(min_length=1)]
    """The reference set: one set, another concept's set (a relative concept), or several sets together."""
    controlling_for: list[Name] = Field(default_factory=list)
    """Other concepts to control for: their directions are taken out of every layer before this one is tested."""

    @property
    def reference_sets(self) -> list[Name]:
        """The sets that make up the reference."""
        return self.against if isinstance(self.against, list) else [self.against]


class Scalar(Document):
    """One number that a model gives for an example."""

    output: str | None = None
    """A model output or any tensor; the model's first output when left out. A softmax at its end is left out."""
    index: Annotated[Integer, Field(ge=0)] | None = None
    """The class, counted from 0; left out for a single output."""
    class_name: Integer | str | None = Field(default=None, alias="class")
    """The class by its name, in place of `index`: as the model or the audit's `labels` call it."""
    versus: Annotated[Integer, Field(ge=0)] | str | None = None
    """A second class, by number or name: the target is then the difference of the two."""
    scale: Literal["logit", "log_probability", "probability"] = "logit"
    reduce: Literal["mean", "sum", "max", "last"] | None = None
    """How several scores an example (tokens, pixels) become one; needed where the output has such an axis.

    `last` is the score at the last token of a text, which the model's attention mask tells from padding.
    """
    class_axis: Annotated[Integer, Field(ge=1)] | None = None
    """The output's axis of classes, counted from the batch's, which is 0; by default the last, or 1 for pictures."""

    @model_validator(mode="after")
    def _one_class(self) -> Self:
        if self.index is not None and self.class_name is not None:
            raise ValueError("give either 'index', the class by its number, or 'class', by its name")
        return self


class Target(Scalar):
    """A number that concepts may influence, and the examples at which its gradient is taken."""

    examples: Name


class LayerChoice(Document):
    """A tensor, and how its positions become features: all kept, averaged, maximised, or one token.

    `last` is the last token of each text, which the model's attention mask tells from padding.
    """

    tensor: Annotated[str, Field(min_length=1)]
    reduce: Reduction = "flatten"


def _layer(value: Any) -> Any:
    """`block15` and `block15@mean` are short for a layer with its reduction."""
    if not isinstance(value, str):
        return value
    tensor, at, reduction = value.rpartition("@")
    return (
        {"tensor": tensor, "reduce": reduction}
        if at and re.fullmatch(r"flatten|mean|max|last|token:\d+", reduction)
        else {"tensor": value}
    )


Layer = Annotated[LayerChoice, BeforeValidator(_layer, json_schema_input_type=str | LayerChoice)]


Share = Annotated[float, Field(gt=0, le=1)]


class Sequential(Document):
    """Looks at growing shares of the examples: the audit stops at the first that settles every line it still can."""

    looks: Annotated[list[Share], Field(min_length=2, max_length=10)] = Field(default=[0.25, 0.5, 1.0])
    """The share of each example set at each look; the last is 1."""

    @model_validator(mode="after")
    def _grows_to_all(self) -> Self:
        if self.looks != sorted(set(self.looks)) or self.looks[-1] != 1:
            raise ValueError("'looks' are growing shares of the examples that end with 1, such as [0.25, 0.5, 1]")
        return self


class Method(Document):
    """The settings of the tests; docs/method.md explains the defaults."""

    estimator: Estimator = "mean_difference"
    cross_check: Estimator | None = "logistic"
    """A second estimator, reported beside the first; where it disagrees, a line is not `not_influential`."""
    runs: Annotated[Integer, Field(ge=2, le=100_000)] = 500
    """Concept activation vectors against random draws from the reference set, which describe their spread."""
    permutations: Annotated[Integer, Field(ge=19, le=1_000_000)] = 499
    """Random sets that take the concept's place in the permutation test."""
    bootstrap: Annotated[Integer, Field(ge=19, le=1_000_000)] = 499
    """Resamples of concept, reference and target examples behind each interval."""
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    correction: Literal["holm", "benjamini_hochberg", "none"] = "holm"
    folds: Annotated[Integer, Field(ge=2, le=50)] = 5
    regularisation: Annotated[float, Field(gt=0)] = 1.0
    """Strength of the L2 penalty, relative to the mean squared norm of the centred activations."""
    min_examples: Annotated[Integer, Field(ge=2)] = 20
    """Fewest examples that a concept, a reference set and a target may have."""
    gradient_tolerance: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """Largest relative difference allowed between the gradient and finite differences."""
    sequential: Sequential | None = None
    """Take the examples in blocks and stop when the gate is settled; alpha is spent over the looks. Off by default."""
    seed: Annotated[Integer, Field(ge=0, lt=2**53)] = 0
    provider: Literal["auto", "cpu", "cuda"] = "auto"
    spatial_map: bool = False
    """Whether tests at convolutional layers say at which positions the effect arises."""
    pictures: Literal["full", "blurred", "ids"] = "full"
    """How example pictures appear in the report: in full, blurred, or by name only."""
    explanation_passes: Annotated[Integer, Field(ge=1)] = 20_000
    """Most passes of one example through the model that `explain` may take; a gradient counts as five."""


class Group(Document):
    """Decisions compared between groups of people: recorded ones, or the model's own."""

    examples: Name
    """A table; it holds the sensitive columns."""
    sensitive: Annotated[list[str], Field(min_length=1)]
    """Columns whose values make the groups; several make intersectional groups."""
    decision: str | None = None
    """The column of recorded decisions, 1 for the favourable one."""
    score: str | None = None
    """The column of recorded scores; a score over `threshold` is the favourable decision."""
    target: Name | None = None
    """The target whose value over `threshold` is the favourable decision."""
    threshold: float | Literal["median"] | None = None
    """`median`: that of all people in the table. For a target by default 0.5 where it is a probability, else 0."""
    label: str | None = None
    """The column of true outcomes, for true and false positive rates."""
    given: list[str] = Field(default_factory=list)
    """Columns in which people are to be alike: selection rates are compared again among those who are."""

    @model_validator(mode="after")
    def _given_columns_are_others(self) -> Self:
        if taken := [column for column in self.given if column in (*self.sensitive, self.decision, self.score)]:
            raise ValueError(f"'given' names '{taken[0]}', which is compared itself; name columns beside it")
        return self

    @model_validator(mode="after")
    def _one_source_of_decisions(self) -> Self:
        if sum(source is not None for source in (self.decision, self.score, self.target)) != 1:
            raise ValueError(
                "give either 'decision', a column of recorded decisions, 'score', a column of recorded scores, or "
                "'target', the model's own"
            )
        if self.score is not None and self.threshold is None:
            raise ValueError("'score' needs a 'threshold': a number, or `median`")
        return self


GroupMetric = Literal[
    "selection_rate_ratio",
    "selection_rate_difference",
    "true_positive_rate_difference",
    "false_positive_rate_difference",
    "equalized_odds_difference",
    "conditional_selection_rate_ratio",
    "conditional_selection_rate_difference",
]
CONDITIONAL = frozenset({"conditional_selection_rate_ratio", "conditional_selection_rate_difference"})
"""Metrics of groups that say what is `given`."""


Unit = Literal["sd", "logit", "probability", "decisions"]
SHARES: frozenset[Unit] = frozenset({"probability", "decisions"})
"""Units of a tolerance that people can judge without knowing the model: a measured change has them, a slope has not."""


class ConceptLine(Document):
    """A line of the gate about a concept: it must matter, must not matter, or must not matter more."""

    concept: Name
    target: Name
    must: Literal["not_matter", "matter", "not_grow"]
    """`not_grow`: matter no more than in the baseline report."""
    tolerance: Annotated[float, Field(gt=0)] = 0.1
    """The largest effect, or growth of an effect, that counts as harmless, in `unit`."""
    unit: Unit = "sd"
    """`sd`: standard deviations of the target over its examples; `logit`: the target's own unit; `probability`: its
    probability, 0.05 being five percentage points; `decisions`: the share of examples whose decision flips."""
    when_inconclusive: Literal["inconclusive", "pass", "fail"] = "inconclusive"
    when_not_encoded: Literal["pass", "fail", "inconclusive"] = "pass"
    """The outcome of `not_encoded`. `pass` also needs that the model's own numbers for concept and reference differ
    by less than the tolerance, and a line that the concept must not matter; else it is as `when_inconclusive` says."""
    require: Literal["any", "both"] = "any"
    """`any`: a measured change decides, and association where nothing was measured. `both`: the two must agree."""

    @model_validator(mode="after")
    def _shares_end_at_one(self) -> Self:
        if self.unit in SHARES and self.tolerance >= 1:
            kind = "a probability" if self.unit == "probability" else "a share of decisions"
            raise ValueError(f"the tolerance {self.tolerance:g} is {kind}: give one below 1, such as 0.05 for 5 %")
        return self


class GroupLine(Document):
    """A line of the gate: a bound on a group metric."""

    group: Name
    metric: GroupMetric
    at_least: float | None = None
    at_most: float | None = None
    judge: Literal["point", "interval"] = "point"
    """`point`: the metric of these people decides, and a caution says where its interval crosses the bound.
    `interval`: the whole interval has to lie on one side of the bound; else the line is inconclusive."""
    when_inconclusive: Literal["inconclusive", "pass", "fail"] = "inconclusive"

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


def _selects_other_rows(one: ExampleSet, base: ExampleSet) -> bool:
    """Whether the rows of two sets that are paired by their order can have other numbers."""
    if isinstance(one, Images) or isinstance(base, Images):
        return False
    (source, where), (of_base, where_base) = (
        (next(iter(each.sources().values())), getattr(each, "where", None)) for each in (one, base)
    )
    return where != where_base or (where is not None and source != of_base)


def _kind(value: Any, *keys: str) -> str | None:
    """The one of `keys` that a raw or a validated value has."""
    for key in keys:
        if (key in value) if isinstance(value, dict) else hasattr(value, key):
            return key
    return None


def _written_out(name: str, one: Any, sets: dict[str, Any]) -> Any:
    """A set that is a part of another, with the other's fields; raises ValueError where there is no such other."""
    if not isinstance(one, dict) or "of" not in one:
        return one
    whole, own = sets.get(one["of"]) if isinstance(one["of"], str) else None, {**one}
    del own["of"]
    if not isinstance(whole, dict) or "of" in whole:
        there = ", ".join(key for key, each in sets.items() if isinstance(each, dict) and "of" not in each) or "none"
        raise ValueError(f"/examples/{name}/of names '{one['of']}', which is not a set of its own; there are: {there}")
    return {**whole, **own}


class OtherVersion(Document):
    """Another version of the model, held against this one: a checkpoint, a transfer, or the model before an edit."""

    model: Source
    """An ONNX model that takes the same inputs and has the same outputs."""
    examples: list[Name] = Field(default_factory=list)
    """The sets at which the two are compared; those of the targets when left out."""
    label: str | None = None
    """The column of those sets with the true class, by number, for the accuracy of both."""
    layers: dict[str, str] = Field(default_factory=dict)
    """The audit's layers and what the other version calls them, where its names differ."""


Words = Annotated[str, StringConstraints(min_length=1, max_length=2000)]


class About(Document):
    """What a reader of the report should know about the model and its audit; nothing is computed from it."""

    title: Words | None = None
    """What the model is called by those who use it."""
    owner: Words | None = None
    """Who answers for it."""
    purpose: Words | None = None
    """What it decides, and for whom."""
    policy: Words | None = None
    """The rule, law or promise that the gate stands for."""


class Audit(Document):
    """One question about one model: its examples, concepts and targets, and the gate that has to hold."""

    FILES: ClassVar = {
        "model": "an ONNX model (.onnx)",
        "gradient": "a gradient graph (.onnx)",
        "labels": "names of classes (.txt, .json)",
        "random_labels": "a model trained on shuffled labels (.onnx)",
    }
    """The fields that name files about the model, and what each is, in words."""

    model: Source
    """An ONNX file; where its weights are in other files, a tar of it (as `model.onnx`) and them."""
    gradient: Source | None = None
    """A graph of the model's gradients that was made elsewhere; without it Caveat derives them from the model."""
    constants: dict[str, float] = Field(default_factory=dict)
    """Inputs of the model that no example set feeds: a name → the number that fills it. Recurrent states are 0."""
    labels: Source | None = None
    """The names of the model's classes in order, one a line or in JSON; without it those that the model holds."""
    about: About | None = None
    """Title, owner, purpose and policy, for the report's first screen."""
    examples: Annotated[dict[Name, Examples], Field(min_length=1)]
    concepts: dict[Name, Concept] = Field(default_factory=dict)
    test_concepts: bool = True
    """Whether the model's use of the concepts is tested; without it they only serve `explain`."""
    targets: dict[Name, Target] = Field(default_factory=dict)
    layers: Literal["auto"] | Annotated[list[Layer], Field(min_length=1)] = "auto"
    method: Method = Method()
    methods: dict[str, dict[str, JsonValue]] = Field(default_factory=dict)
    """Methods beside those that concepts, matched pairs and groups imply: a method's name → its options."""
    groups: dict[Name, Group] = Field(default_factory=dict)
    explain: dict[Name, Explanation] = Field(default_factory=dict)
    """Where in the examples, and through which features, a target's number arises; it decides no line of the gate."""
    keep: Kept | Annotated[list[Kept], Field(min_length=1)] | None = None
    """In a file of arrays (`.npz`) beside the report: `maps`, every number of the figures of `explain`; `cavs`, each
    concept's activation vector at each layer. One of the two, or a list."""
    integrity: Integrity = Integrity()
    random_labels: Source | None = None
    """A model of the same architecture that was trained on shuffled labels: what it shows just as well is not drawn."""
    compare: dict[Name, OtherVersion] = Field(default_factory=dict)
    """Other versions of the model, and how alike they are: decisions, accuracy, layers. It decides no line."""
    gate: list[GateLine] = Field(default_factory=list)

    @model_validator(mode="before")
    @classmethod
    def _parts_written_out(cls, asked: Any) -> Any:
        """`{of: photos, only: [a.png]}` is short for the set `photos` with other fields."""
        sets = asked.get("examples") if isinstance(asked, dict) else None
        if not isinstance(sets, dict):
            return asked
        return {**asked, "examples": {name: _written_out(name, one, sets) for name, one in sets.items()}}

    @model_validator(mode="after")
    def _names_exist(self) -> Self:
        for pointer, name, known, kind in self._references():
            if name not in known:
                there = ", ".join(sorted(known)) or "none"
                raise ValueError(f"{pointer} names the {kind} '{name}', which is not declared; declared: {there}")
        if self.concepts and not self.targets:
            raise ValueError("concepts need at least one entry in 'targets': the number they may influence")
        if not (self.concepts or self.groups or self.explain or self.compare):
            raise ValueError(
                "nothing is asked: give at least one entry in 'concepts', in 'groups', in 'explain' or in 'compare'"
            )
        if "maps" in self.keeps and not self.explain:
            raise ValueError("/keep keeps what `explain` shows, and there is no entry in 'explain'")
        if "cavs" in self.keeps and not (self.concepts and self.test_concepts):
            raise ValueError("/keep keeps the vectors of the tested concepts, and no concept is tested")
        if self.compare and not self.targets:
            raise ValueError("versions are compared by what they give: add at least one entry in 'targets'")
        if self.method.sequential is not None and not any(isinstance(line, ConceptLine) for line in self.gate):
            raise ValueError(
                "/method/sequential stops when the gate's lines about concepts are settled, and there is none: "
                "add one to 'gate', or leave 'sequential' out"
            )
        for name, asked in self.explain.items():
            self._check_pairs_to_explain(name, asked)
            self._check_labels_to_explain(name, asked)
            if asked.examples.label is not None and not isinstance(self.examples[self.explained_set(name)], Table):
                raise ValueError(
                    f"/explain/{name}/examples/label names a column, and '{self.explained_set(name)}' is not a table; "
                    "leave it out, and errors are the examples for which another class wins"
                )
        for name, concept in self.concepts.items():
            if name in concept.controlling_for or len(set(concept.controlling_for)) < len(concept.controlling_for):
                raise ValueError(f"/concepts/{name}/controlling_for names other concepts, each of them once")
            if concept.examples in concept.reference_sets:
                raise ValueError(f"/concepts/{name}/against names '{concept.examples}', the concept's own examples")
        for name, group in self.groups.items():
            if not isinstance(self.examples[group.examples], Table):
                raise ValueError(f"/groups/{name} compares people in '{group.examples}', which is not a table")
        untested = next((at for at, line in enumerate(self.gate) if isinstance(line, ConceptLine)), None)
        if untested is not None and not self.test_concepts:
            raise ValueError(f"/gate/{untested} bounds a concept, and `test_concepts: false` tests none: leave one out")
        for position, line in enumerate(self.gate):
            if isinstance(line, GroupLine) and line.metric in CONDITIONAL and not self.groups[line.group].given:
                raise ValueError(
                    f"/gate/{position}/metric bounds {line.metric}, but /groups/{line.group} has no 'given': list the "
                    "columns in which people are to be alike"
                )
        return self

    @model_validator(mode="after")
    def _methods_exist(self) -> Self:
        for name, options in self.methods.items():
            entry = methods().get(name)
            if entry is None:
                raise ValueError(f"/methods names '{name}', which is not a method; there are: {', '.join(methods())}")
            try:
                entry.options.model_validate(options)
            except ValidationError as error:
                first = error.errors(include_url=False)[0]
                field = "".join(f"/{step}" for step in first["loc"])
                raise ValueError(f"/methods/{name}{field} {first['msg']}") from None
        return self

    @property
    def keeps(self) -> frozenset[Kept]:
        """What is kept beside the report."""
        return frozenset(self.keep if isinstance(self.keep, list) else [] if self.keep is None else [self.keep])

    @property
    def parts(self) -> frozenset[Part]:
        """The parts of the audit that ask for a method without naming it."""
        tested = self.concepts.values() if self.test_concepts else ()
        paired = any(self.examples[one.examples].pairs_with is not None for one in tested)
        asked: dict[Part, bool] = {"concepts": bool(tested), "pairs": paired, "groups": bool(self.groups)}
        return frozenset(part for part, is_asked in asked.items() if is_asked)

    def _references(self) -> Iterator[tuple[str, str, Any, str]]:
        """Every name that is used: where, the names it may have, and what they are names of."""
        for key, examples in self.examples.items():
            if examples.pairs_with is not None:
                yield f"/examples/{key}/pairs_with", examples.pairs_with, self.examples, "example set"
        for key, concept in self.concepts.items():
            yield f"/concepts/{key}/examples", concept.examples, self.examples, "example set"
            for reference in concept.reference_sets:
                yield f"/concepts/{key}/against", reference, self.examples, "example set"
            for position, other in enumerate(concept.controlling_for):
                yield f"/concepts/{key}/controlling_for/{position}", other, self.concepts, "concept"
        for key, target in self.targets.items():
            yield f"/targets/{key}/examples", target.examples, self.examples, "example set"
        for key, group in self.groups.items():
            yield f"/groups/{key}/examples", group.examples, self.examples, "example set"
            if group.target is not None:
                yield f"/groups/{key}/target", group.target, self.targets, "target"
        for key, explanation in self.explain.items():
            yield f"/explain/{key}/of", explanation.of, self.targets, "target"
            if explanation.examples.set is not None:
                yield f"/explain/{key}/examples/set", explanation.examples.set, self.examples, "example set"
            for position, element in enumerate(explanation.show):
                if element.concept is not None:
                    yield f"/explain/{key}/show/{position}/concept", element.concept, self.concepts, "concept"
                if element.asked_set is not None:
                    where = f"/explain/{key}/show/{position}/{element.set_option}"
                    yield where, element.asked_set, self.examples, "example set"
                if element.icons is not None:
                    yield f"/explain/{key}/show/{position}/icons", element.icons, self.examples, "example set"
        for key, version in self.compare.items():
            for position, compared in enumerate(version.examples):
                yield f"/compare/{key}/examples/{position}", compared, self.examples, "example set"
        for position, line in enumerate(self.gate):
            if isinstance(line, ConceptLine):
                yield f"/gate/{position}/concept", line.concept, self.concepts, "concept"
                yield f"/gate/{position}/target", line.target, self.targets, "target"
            else:
                yield f"/gate/{position}/group", line.group, self.groups, "group"

    def drawn_like(self, name: str) -> Name | None:
        """The set by whose examples a set's half and sample are drawn; None where it is the set itself.

        Pairs without names are counted: the first of one set belongs to the first of the other. Where the two select
        other rows, only one draw for both leaves the pairs together.
        """
        chain = [name]
        while (base := self.examples[chain[-1]].pairs_with) is not None and base not in chain:
            chain.append(base)
        root = chain[-1] if base is None else min(chain[chain.index(base) :])
        declared = self.examples[name]
        drawn = declared.half is not None or declared.limit is not None
        return root if drawn and _selects_other_rows(declared, self.examples[root]) else None

    def compared_sets(self, name: str) -> list[Name]:
        """The example sets at which another version is compared: those it names, or the targets'."""
        return self.compare[name].examples or list(dict.fromkeys(one.examples for one in self.targets.values()))

    def explained_set(self, name: str) -> Name:
        """The example set that an explanation is about: the one it names, or its target's."""
        asked = self.explain[name]
        return asked.examples.set or self.targets[asked.of].examples

    def only_explained(self) -> Audit:
        """The same audit without anything that `explain` does not need: no tests, no groups and no gate."""
        targets = {asked.of: self.targets[asked.of] for asked in self.explain.values()}
        concepts = {name: one for name, one in self.concepts.items() if name in self._shown_concepts()}
        used = [target.examples for target in targets.values()] + [self.explained_set(name) for name in self.explain]
        used += [name for one in concepts.values() for name in (one.examples, *one.reference_sets)]
        shown = [one for asked in self.explain.values() for one in asked.show]
        used += [name for one in shown for name in (one.icons, one.asked_set) if name is not None]
        matches = [name for one in used if (name := self.examples[one].pairs_with) is not None]
        examples = {name: one for name, one in self.examples.items() if name in (*used, *matches)}
        only = {"concepts": concepts, "targets": targets, "examples": examples}
        return self.untested().model_copy(update={**only, "keep": "maps" if "maps" in self.keeps else None})

    def untested(self) -> Audit:
        """The same audit without tests, groups, other versions and a gate."""
        nothing: dict[str, Any] = {"test_concepts": False, "groups": {}, "methods": {}, "compare": {}, "gate": []}
        return self.model_copy(update={**nothing, "method": self.method.model_copy(update={"sequential": None})})

    def _shown_concepts(self) -> set[str]:
        """The concepts that `explain` names, or looks beyond, and those that they control for."""
        if any(one.beyond_concepts for asked in self.explain.values() for one in asked.show):
            return {*self.concepts}
        named = {one.concept for asked in self.explain.values() for one in asked.show if one.concept is not None}
        return named | {other for name in named for other in self.concepts[name].controlling_for}

    def _check_labels_to_explain(self, name: str, asked: Explanation) -> None:
        """Raises ValueError where a labelled set has no such labels."""
        for position, element in enumerate(asked.show):
            if element.asked_set is None or element.options.get("labels") is None:
                continue
            there, labels = self.examples[element.asked_set], element.options["labels"]
            if not isinstance(there, Table) and not (isinstance(there, Images) and labels == FOLDER):
                raise ValueError(
                    f"/explain/{name}/show/{position}/labels names '{labels}', and '{element.asked_set}' has no such "
                    f"labels: give a column of a table, or '{FOLDER}' for pictures in a folder for each class"
                )

    def _check_pairs_to_explain(self, name: str, asked: Explanation) -> None:
        """Raises ValueError where matches are asked for and the example set has none."""
        chosen, examples = asked.examples, self.explained_set(name)
        if (chosen.pairs or chosen.pick == "most_changed") and self.examples[examples].pairs_with is None:
            field = "pairs" if chosen.pairs else "pick"
            raise ValueError(
                f"/explain/{name}/examples/{field} needs matches, and '{examples}' has none; "
                f"say which set it `pairs_with`, or pick by highest or lowest"
            )

    def sources(self) -> dict[str, str]:
        """The audit's sources: JSON pointer → path or digest."""
        files = {f"/{field}": getattr(self, field) for field in self.FILES}
        return (
            {pointer: source for pointer, source in files.items() if source is not None}
            | {f"/compare/{name}/model": other.model for name, other in self.compare.items()}
            | {
                f"/examples/{name}/{field}": source
                for name, one in self.examples.items()
                for field, source in one.sources().items()
            }
        )

    def with_sources(self, replaced: dict[str, str]) -> Audit:
        """The same audit with each pointer of `sources()` given a new place."""
        examples = {
            name: one.model_copy(update={field: replaced[f"/examples/{name}/{field}"] for field in one.sources()})
            for name, one in self.examples.items()
        }
        files = {field: replaced.get(f"/{field}") for field in self.FILES}
        versions = {
            name: other.model_copy(update={"model": replaced[f"/compare/{name}/model"]})
            for name, other in self.compare.items()
        }
        return self.model_copy(update={**files, "examples": examples, "compare": versions})
