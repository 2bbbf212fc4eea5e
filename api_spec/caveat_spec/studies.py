"""The resources of the API about studies with people: what is asked for, who may answer, and what was answered."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from caveat_spec.artifacts import State
from caveat_spec.base import Count, Digest, Document, Integer, JobId, Name
from caveat_spec.problem import ProblemDetails
from caveat_spec.study import MOST_RATERS, MapName, Rating

LONGEST_CONSENT = 10_000
"""Characters."""
MOST_STUDIES = 100
"""Studies that a tenant may have at a time."""

Token = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{24}$")]
"""What a rater's link ends in: 144 bits of the system's generator."""


class NewStudy(Document):
    """A request for a study of the maps in a report."""

    audit: JobId
    """The audit whose report it is."""
    raters: Annotated[Integer, Field(ge=1, le=MOST_RATERS)] = 50
    seed: Count = 0
    """Of the order of tasks and of the choice of pictures."""
    pictures: Annotated[Integer, Field(ge=1, le=8)] = 4
    """That a task shows."""
    concept: Name | None = None
    """What raters weigh against the image: a concept of the report, or the beginning of NAME-CLASS; by default its only
    one."""
    image_concept: Name | None = None
    """The concept that stands for the image in the report's tests, or the beginning of NAME-CLASS."""
    targets: list[Name] = Field(default_factory=list)
    """Classes to ask about; all that the report explains where none is named."""
    maps: list[MapName] = Field(default_factory=list)
    """Kinds of map to show; all that every class has where none is named."""
    truth: dict[Name, Name] = Field(default_factory=dict)
    """Class → `image` or the concept's name, whichever matters more to the model, where that is known."""
    consent: Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_CONSENT)] | None = None
    """What raters read before they begin."""


class StudyRecord(Document):
    """A study: what it is about, and how far it is."""

    id: JobId
    audit: JobId
    state: Literal["open", "closed"]
    """An open study takes answers, and a closed one takes none any more."""
    study: Digest
    """Of its protocol: who sees what in which order, and the digests of all of it."""
    report: Digest
    model: str
    concept: Name
    classes: list[Name]
    maps: list[MapName]
    """Kinds of map."""
    seed: Count
    raters: Count
    tasks: Count
    """Of all raters together."""
    answered: Count
    """Raters who answered a task."""
    taken: Count
    """Tasks that are answered."""
    created_at: datetime
    closed_at: datetime | None
    analysis: State | None
    """Of the job that analyses the ratings once the study is closed; null while it is open."""
    problem: ProblemDetails | None
    """Why the analysis failed; null otherwise."""


class RaterLink(Document):
    """The link of one rater."""

    rater: Integer
    path: str
    """Under the URL of this service. Whoever has it answers as this rater, and can do nothing else."""


class StudyLinks(Document):
    """A new study with the links of its raters, which are shown only here, and to the same request with its key."""

    study: StudyRecord
    links: list[RaterLink]


class StudyPage(Document):
    """A page of studies, newest first."""

    studies: list[StudyRecord]
    next_page_token: str | None


class KeptRating(Rating):
    """An answer as it was kept."""

    of: Name
    """The class."""
    map: MapName
    at: datetime


class StudyRatings(Document):
    """Every answer of a study, by rater and task."""

    study: Digest
    """Of the protocol."""
    ratings: list[KeptRating]
