"""What a file of maps has inside: a `.npz` of plain arrays beside a report, and their contents in one document.

It holds every number of the figures that a report draws, before they are taken over blocks, cut to the strongest, or
written as whole numbers of a scale. A figure that is withheld has no array, and its sentence stands in the contents.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from caveat_spec.base import Count, Digest, Document, Integer, Name
from caveat_spec.explain import Atoms

CONTENTS = "contents"
"""The name of the array that holds the contents: one text, a `MapsContents` as JSON."""
DIGITS = 6
"""Significant digits of each number, as many as a report has, so that the same audit gives the same bytes."""
LARGEST_MAPS = 256 << 20
"""Bytes that a file of maps may have."""

Axis = Literal[
    "depth", "row", "column", "position", "token", "channel", "neuron", "part", "concept", "group", "upper atom"
]
"""What an axis counts; `part` is a column of a table."""
Kept = Literal["values", "standard_errors", "pairs", "upper", "maps"]


class KeptArray(Document):
    """One array of the file."""

    name: str
    """Its name in the file: explanation, element, panel and what it is, such as `why/0/2/values`."""
    what: Kept
    """`values` of the atoms; their `standard_errors`; `pairs`: what each atom does for each of the atoms of an upper
    layer; `upper`: the numbers of those atoms, the largest first; `maps`: what each group does at each place."""
    axes: list[Axis]
    shape: list[Count]


class KeptFigure(Document):
    """One figure of a report, and its arrays."""

    explanation: Name
    element: Count
    """Its place in the explanation's `show`, from 0."""
    panel: Count
    """Its place among the explanation's panels in the report, from 0."""
    example: str
    set: Name
    position: Count
    """Of the example in its set."""
    method: str
    layer: str
    atoms_of: Atoms
    names: list[str] = Field(default_factory=list)
    """Of the atoms, where they have some: columns of a table, tokens of a text."""
    unit: str
    """Of the values; of a saliency and its like, of their change with the input."""
    additive: bool
    """Whether the values are parts of a whole."""
    withheld: str | None = None
    """Why there are no arrays: the check that the figure fails."""
    arrays: list[KeptArray] = Field(default_factory=list)


class MapsContents(Document):
    """The array `contents` of a file of maps."""

    schema_version: Literal["1"] = "1"
    figures: list[KeptFigure]


class MapsFile(Document):
    """The file of maps that belongs to a report."""

    digest: Digest
    size: Annotated[Integer, Field(ge=0, le=LARGEST_MAPS)]
    figures: Count
    """How many figures have arrays in it."""
