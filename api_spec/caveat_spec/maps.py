"""What a file of maps has inside: a `.npz` of plain arrays beside a report, and their contents in one document.

It holds every number of the figures that a report draws, before they are taken over blocks, cut to the strongest, or
written as whole numbers of a scale, and the concept activation vectors of the audit, where it keeps them. A figure that
is withheld has no array, and its sentence stands in the contents.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from caveat_spec.base import Count, Digest, Document, Integer, Name
from caveat_spec.explain import Atoms

CONTENTS = "contents"
"""The name of the array that holds the contents: one text, a `MapsContents` as JSON."""
DIGITS = 6
"""Significant digits of each number, as many as a report has, so that the same audit gives the same bytes."""
NUMBER_BYTES = 4
"""Of a number in a file of maps."""
LARGEST_MAPS = 256 << 20
"""Bytes that a file of maps may have."""

Axis = Literal[
    "depth",
    "row",
    "column",
    "position",
    "token",
    "channel",
    "proposal",
    "neuron",
    "part",
    "concept",
    "group",
    "component",
    "example",
    "kind of example",
    "upper atom",
]
"""What an axis counts; `part` is a column of a table; kinds of examples are those of the class, and of others."""
Kept = Literal["values", "standard_errors", "pairs", "upper", "maps", "upper_maps"]


class KeptArray(Document):
    """One array of the file."""

    name: str
    """Its name in the file: explanation, element, panel and what it is, such as `why/0/2/values`."""
    what: Kept
    """`values` of the atoms; their `standard_errors`; `pairs`: what each atom does for each of the atoms of an upper
    layer; `upper`: the numbers of those atoms, the largest first; `maps`: what each channel or group does, or
    each component is, at each place, and `upper_maps`: the same of a later layer's groups."""
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


class KeptCav(Document):
    """A concept activation vector, and its array: of length 1, from the reference examples to those of the concept."""

    concept: Name
    layer: str
    tensor: str
    reduce: str
    name: str
    """Of its array in the file, such as `cavs/stripes/conv4`."""
    shape: list[Count]
    """Of the layer, or one number for each channel or feature where the layer is pooled."""
    step: float
    """How far the mean of the concept's examples lies from the mean of the reference examples along it."""
    origin: float
    """The mean of the reference examples along it."""
    n_concept: Count
    n_reference: Count


class MapsContents(Document):
    """The array `contents` of a file of maps."""

    schema_version: Literal["1"] = "1"
    figures: list[KeptFigure]
    cavs: list[KeptCav] = Field(default_factory=list)


class CavPlace(Document):
    """Where the numbers of a concept activation vector lie in the file: float32, little-endian, the last axis first."""

    concept: Name
    layer: str
    shape: list[Count]
    at: Count
    """The first of its bytes."""

    @property
    def end(self) -> int:
        """The byte behind its last one."""
        return self.at + NUMBER_BYTES * math.prod(self.shape)


class MapsFile(Document):
    """The file of maps that belongs to a report."""

    digest: Digest
    size: Annotated[Integer, Field(ge=0, le=LARGEST_MAPS)]
    figures: Count
    """How many figures have arrays in it."""
    cavs: list[CavPlace] = Field(default_factory=list)

    @model_validator(mode="after")
    def _vectors_lie_in_it(self) -> Self:
        if any(one.end > self.size for one in self.cavs):
            raise ValueError("a concept activation vector ends behind the file")
        return self


def npy_head(shape: Sequence[int]) -> bytes:
    """What stands before the numbers of a float32 array in NumPy's format (.npy, version 1.0)."""
    said = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {tuple(shape)!r}, }}"
    magic, aligned = b"\x93NUMPY\x01\x00", 64
    size = -(-(len(magic) + 2 + len(said) + 1) // aligned) * aligned - len(magic) - 2
    return magic + size.to_bytes(2, "little") + f"{said:<{size - 1}}\n".encode("latin1")
