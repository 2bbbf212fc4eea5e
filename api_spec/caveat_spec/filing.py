"""What the person who files an annex states beside a report."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field, StringConstraints

from caveat_spec.base import Document

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
