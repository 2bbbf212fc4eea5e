"""Annexes: published forms that a report can fill, one row each, and what the person who files one states beside it.

An annex's form and its fields are in the module of its name in `caveat_reports.annexes`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, StringConstraints

from caveat_spec.base import Document

AnnexKind = Literal["ll144", "annex-iv", "model-card", "sr-11-7"]


@dataclass(frozen=True)
class AnnexRow:
    """One kind of annex."""

    kind: AnnexKind
    words: str
    """What it is, for help."""


ANNEXES = (
    AnnexRow("ll144", "summary of a bias audit under New York City's Local Law 144"),
    AnnexRow("annex-iv", "technical documentation under Annex IV of the EU AI Act"),
    AnnexRow("model-card", "model card (Mitchell et al. 2019)"),
    AnnexRow("sr-11-7", "model risk summary after SR 11-7"),
)

Said = Annotated[
    str,
    BeforeValidator(lambda value: str(value) if type(value) in (int, float) else value),
    StringConstraints(min_length=1, max_length=10_000),
]
"""Words; a bare number, such as a year, is taken as text."""


class Columns(Document):
    """Which columns of the audit's tables hold the categories that Local Law 144 asks about."""

    sex: str = "sex"
    race: str = "race"


class Filing(Document):
    """What the person who files an annex states; an annex marks all of it as theirs, never as the report's."""

    fields: dict[str, Said] = Field(default_factory=dict)
    """Words for fields of the form, by their ids: what the report cannot know."""
    columns: Columns = Columns()
    labels: dict[str, dict[str, Said]] = Field(default_factory=dict)
    """Column → value → what the form calls it, such as `{sex: {"1": Male}}`."""
    unknown: dict[str, list[str]] = Field(default_factory=dict)
    """Column → values that stand for an unknown category, beside empty cells."""
    exclude_small: Said | None = None
    """The independent auditor's justification for leaving categories under 2 % out of impact ratios."""
