"""A study with people, as data: who sees which maps in which order, what is right, and what their ratings came to.

It is the protocol of the TCAV article (Kim et al. 2018, section 4.3): a rater sees four pictures with their maps a task
and rates how important the image and a concept in it are to the model, and how sure the answer is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from caveat_spec.base import Count, Digest, Document, Integer, Interval, Name, Probability
from caveat_spec.explained import Figure
from caveat_spec.sanitize import one_line

STUDY_VERSION: Literal["1"] = "1"
IMAGE = "image"
"""What a rater weighs a concept against: everything in the picture but the concept."""
MOST_RATERS = 1000
MOST_TASKS = 12
"""Tasks that a rater is asked to do; the article has six."""
LARGEST_IMPORTANCE, LARGEST_CONFIDENCE = 10, 5
"""The ends of the article's scales, which begin at 1."""
FEWEST_RATERS = 8
"""With fewer, ratings are described and nothing is tested."""

ALPHA = 0.05
SIGN_FLIPS = 9_999
"""Ways of flipping raters' signs that are drawn, where there are more."""

RATINGS = ("image", "concept", "confidence")
"""The columns that a rater fills."""
COLUMNS = ("rater", "task", "class", "map", "model", *RATINGS)
"""The columns of a file of ratings."""

MOST = {"image": LARGEST_IMPORTANCE, "concept": LARGEST_IMPORTANCE, "confidence": LARGEST_CONFIDENCE}
"""The end of each rating's scale."""
_WHOLE = re.compile(r"(\d{1,9})(?:\.0+)?", re.ASCII)
"""A whole number, also as a spreadsheet writes it."""
Weighed = Literal["image", "concept"]
Importance = Annotated[Integer, Field(ge=1, le=LARGEST_IMPORTANCE)]
Confidence = Annotated[Integer, Field(ge=1, le=LARGEST_CONFIDENCE)]
MapName = Annotated[str, StringConstraints(min_length=1, max_length=200)]
"""What ratings call a kind of map: its method, with a number where a report has several of one method."""


class MapKind(Document):
    """A kind of map that raters see, whose name they do not."""

    name: MapName
    title: str
    """As the report calls its figures."""


class ShownPicture(Document):
    """One picture of a class, with the digests of what raters see of it."""

    key: str
    """In the file of what is shown."""
    example: str
    set: Name
    picture: Digest | None
    """Null for a text, whose map is the text."""
    maps: dict[MapName, Digest]


class StudyClass(Document):
    """A target of the report that raters judge."""

    name: Name
    pictures: list[ShownPicture]


class Task(Document):
    """One page of a form: a class, a kind of map, and the pictures in their order."""

    of: Name
    map: MapName
    pictures: list[str]
    """Keys of pictures of the class."""


class Sheet(Document):
    """What one rater sees, in order; tasks are numbered from 1."""

    rater: Annotated[Integer, Field(ge=1)]
    tasks: Annotated[list[Task], Field(min_length=1, max_length=MOST_TASKS)]


class Study(Document):
    """A study as it was made; nothing in it changes when raters answer."""

    schema_version: Literal["1"] = STUDY_VERSION
    caveat: str
    """The version that made it."""
    seed: Count
    report: Digest
    """Of the report's canonical bytes."""
    model: str
    concept: Name
    """What raters weigh against the image."""
    concepts: dict[Name, Name] = Field(default_factory=dict)
    """Class → the report's concept of that name, which may be another one for each class."""
    image_concepts: dict[Name, Name] = Field(default_factory=dict)
    """Class → the concept of the report that stands for the image, where one does."""
    classes: Annotated[list[StudyClass], Field(min_length=1)]
    maps: Annotated[list[MapKind], Field(min_length=1)]
    pictures: Annotated[Integer, Field(ge=1, le=8)]
    """A task."""
    truth: dict[Name, Weighed] = Field(default_factory=dict)
    """Class → which of the two matters more to the model, where that is known; raters do not see it."""
    consent: str
    """What raters read before they begin."""
    material: Digest
    """Of the file with every picture and map."""
    sheets: Annotated[list[Sheet], Field(min_length=1, max_length=MOST_RATERS)]
    forms: dict[str, Digest]
    """File name of each rater's form → its digest."""

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        keys = {one.name: {picture.key for picture in one.pictures} for one in self.classes}
        names = {one.name for one in self.maps}
        for sheet in self.sheets:
            for task in sheet.tasks:
                if task.of not in keys or task.map not in names or not set(task.pictures) <= keys[task.of]:
                    raise ValueError(f"a task of rater {sheet.rater} shows what the study does not have")
            if len({(task.of, task.map) for task in sheet.tasks}) < len(sheet.tasks):
                raise ValueError(f"rater {sheet.rater} has two tasks of one class with one kind of map")
        if [sheet.rater for sheet in self.sheets] != list(range(1, len(self.sheets) + 1)):
            raise ValueError("raters are not numbered from 1")
        if not {*self.truth, *self.concepts, *self.image_concepts} <= set(keys):
            raise ValueError("truth or concepts name a class that the study does not have")
        return self

    def sheet(self, rater: int) -> Sheet | None:
        """What a rater sees; None for a number that no rater has."""
        return self.sheets[rater - 1] if 1 <= rater <= len(self.sheets) else None


class Shown(Document):
    """What raters see of one picture."""

    picture: str | None
    """A data URI."""
    maps: dict[MapName, Figure]


class Material(Document):
    """Every picture and map of a study."""

    shown: dict[str, Shown]


class Answer(Document):
    """What a rater answered to one task."""

    image: Importance
    concept: Importance
    confidence: Confidence

    @property
    def difference(self) -> int:
        """By how many points the concept is rated above the image."""
        return self.concept - self.image


class RefusedRow(Document):
    """A row of a file of ratings that was not taken."""

    file: str
    line: Count
    reason: str


class Rating(Answer):
    """An answer, with whose it is and to which task."""

    rater: Annotated[Integer, Field(ge=1)]
    task: Annotated[Integer, Field(ge=1)]


class MissingTasks(Document):
    """Tasks that a rater has not answered."""

    rater: Integer
    tasks: list[Integer]


class Question(Document):
    """One question to all raters together, tested with the rater as the unit."""

    maps: list[MapName]
    """The kind of map it is about, or the two that are compared."""
    raters: Count
    """Who answered every task that it is about."""
    left_out: Count
    """Who answered some of them only."""
    difference: float | None
    """Mean over raters of each rater's mean of concept − image, in points; of two kinds, the first minus the second.
    Null where nobody answered."""
    interval: Interval | None
    p: Probability | None
    """By flipping the signs of raters' means; null for fewer than eight raters."""
    p_corrected: Probability | None
    """Holm over the questions of the study."""
    sentence: str


class Cell(Document):
    """The ratings of one class with one kind of map."""

    of: Name
    map: MapName
    raters: Count
    image: float | None
    concept: float | None
    difference: float | None
    interval: Interval | None
    confidence: float | None
    favoured: Weighed | None
    """Which the interval says that raters rate higher; null where it holds 0."""


class Correctness(Document):
    """How often ratings rank image and concept as the truth does, for one kind of map."""

    map: MapName
    raters: Count
    share: float | None
    """Mean over raters of the share of their tasks that are right; equal ratings count as half."""
    interval: Interval | None
    confidence_right: float | None
    """Mean confidence of raters in tasks that they got right."""
    confidence_wrong: float | None
    both: Count
    """Raters with tasks of both sorts."""
    confidence_difference: float | None
    """Right minus wrong, over those raters."""
    confidence_interval: Interval | None
    sentence: str


class Tested(Document):
    """What the report's own tests say about a concept and a class."""

    of: Name
    concept: Name
    stands_for: Weighed
    place: str
    score: float | None
    """The TCAV score."""
    score_interval: Interval | None
    effect_in_sd: float
    effect_interval: Interval
    p: Probability
    significant: bool


class Order(Document):
    """For one class, which of the two matters more: to raters, to the report's tests, and in truth."""

    of: Name
    raters: dict[MapName, Weighed | None]
    """Null where the interval of a kind of map holds 0."""
    tests: Weighed | None
    """Null where no test of the report settles it."""
    tests_sentence: str
    truth: Weighed | None


class StudyFindings(Document):
    """What ratings came to."""

    schema_version: Literal["1"] = STUDY_VERSION
    study: Digest
    """Of the file that describes the study."""
    concept: Name
    alpha: float
    raters: Count
    """Who were to answer."""
    answered: Count
    """Who answered at least one task."""
    tasks: Count
    """That were to be answered, by all raters together."""
    taken: Count
    """Rows that were taken."""
    refused: list[RefusedRow]
    missing: list[MissingTasks]
    questions: list[Question]
    cells: list[Cell]
    correctness: list[Correctness]
    tests: list[Tested]
    orders: list[Order]
    notes: list[str]


class NewFindings(Document):
    """A request to analyse the ratings of a study."""

    study: Study
    digest: Digest
    """Of the file that describes it."""
    ratings: list[Rating]
    refused: list[RefusedRow] = Field(default_factory=list)
    tests: list[Tested] = Field(default_factory=list)


class InvalidRating(ValueError):  # noqa: N818 - a rating's, not an error of the program
    """Why a number is not taken, in words that follow the name of a row or a form."""


def rating_in(text: str, what: str, most: int) -> int:
    """A whole number from 1 to `most`; raises `InvalidRating` with a sentence about `what`."""
    found = _WHOLE.fullmatch(text.strip())
    if not text.strip():
        raise InvalidRating(f"{what} is missing")
    if found is None or not 1 <= int(found[1]) <= most:
        raise InvalidRating(f"{what} is {quoted(text)}, and not a whole number from 1 to {most}")
    return int(found[1])


def answer_in(fields: Mapping[str, str]) -> tuple[Answer | None, dict[str, str]]:
    """The answer that the texts of a row or a form give, or what is wrong with each of them by its name."""
    numbers, faults = {}, {}
    for name, most in MOST.items():
        try:
            numbers[name] = rating_in(fields.get(name, ""), name, most)
        except InvalidRating as reason:
            faults[name] = str(reason)
    return (None if faults else Answer(**numbers)), faults


def quoted(text: str) -> str:
    """What a cell or a field holds, on one line and not too long."""
    shown = one_line(text.strip())
    return f"'{shown[:40]}…'" if len(shown) > 40 else f"'{shown}'"
