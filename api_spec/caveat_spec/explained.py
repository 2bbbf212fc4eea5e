"""What an explanation found, as data: panels of examples, figures of a method, atoms, and the checks they passed.

A figure is drawn by every format from these documents alone. One that fails a check carries the sentence that takes its
place, and neither map nor atoms.
"""

from __future__ import annotations

from base64 import b64decode
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from caveat_spec.base import Count, Document, Integer, Interval, Name, Probability
from caveat_spec.explain import Atoms, Element, Presentation

LEVELS = 127
"""A cell is a whole number from -127 to 127: its share of the scale."""
MOST_CELLS = 28
"""Cells on the longer side of a map: as many as a person tells apart; a larger map is taken over blocks."""
MOST_PAIR_CELLS = 14
"""The same of the small maps of a grid."""


class Grid(Document):
    """A map of numbers, row by row; each is `cell * scale / 127`."""

    shape: tuple[Integer, Integer]
    """Rows and columns."""
    scale: Annotated[float, Field(ge=0)]
    """The number at which cells end on either side of 0; the same for every example of an element."""
    cells: str
    """int8, in base64."""

    @field_validator("cells")
    @classmethod
    def _base64(cls, cells: str) -> str:
        b64decode(cells, validate=True)
        return cells

    @model_validator(mode="after")
    def _a_cell_for_each_place(self) -> Grid:
        if len(b64decode(self.cells)) != self.shape[0] * self.shape[1]:
            raise ValueError(f"cells are not {self.shape[0]} x {self.shape[1]} numbers")
        return self

    def rows(self) -> list[list[int]]:
        """The cells, row by row, from -127 to 127."""
        flat = [byte - 256 if byte > LEVELS else byte for byte in b64decode(self.cells)]
        height, width = self.shape
        return [flat[y * width : (y + 1) * width] for y in range(height)]


class Check(Document):
    """A figure's own test: a number against a bound, and a sentence for whichever came of it."""

    code: str
    value: float | None
    """Null where it could not be computed."""
    bound: float | None
    ok: bool
    sentence: str


class Rest(Document):
    """What is not shown, so that nothing is dropped in silence."""

    count: Count
    sum: float
    """The values of all of them together."""


class Atom(Document):
    """One part of what is explained: a place, a channel, a word, a column, with its part of the number."""

    id: str
    """Its name to a reader: a column, a token, `channel 17`, `row 3, column 5`."""
    place: list[Integer] = Field(default_factory=list)
    """Its position in the layer, where it has one."""
    value: float
    spread: Interval | None = None
    """How the value varies where the method says so."""
    confirmed: float | None = None
    """What the number really changes by when the atom is removed."""
    map: Grid | None = None
    """Where in the layer it comes from."""
    note: str | None = None
    """What else was found of it, in sentences."""


class Link(Document):
    """How much of an atom of one layer comes from an atom of another."""

    source: str
    """In the earlier layer."""
    sink: str
    """In the later layer."""
    value: float


class Icon(Document):
    """An example of a set, at one place of their order by how strongly an atom responds to them."""

    share: Probability
    """Of the examples at or below it in that order: 1 is the highest, 0 the lowest."""
    example: str
    position: Count
    """In the set."""
    value: float
    picture: str | None = None
    """What the atom sees there, as a data URI, where the audit allows it: all of the example where it sees all."""
    box: tuple[Integer, Integer, Integer, Integer] | None = None
    """First row, first column, last row and last column of the model's input that the atom sees there, from 0; null
    where it sees everything, or the input is no picture."""
    words: list[str] = Field(default_factory=list)
    """Of a text, the tokens around the place; of a row, its first columns."""
    mark: Integer | None = None
    """Which of the words is at the place itself."""
    place: list[Integer] = Field(default_factory=list)
    """Of an informative patch: row and column of the place in the layer, or its number, from 0."""
    label: str | None = None
    """Of an informative patch: the example's own class, where labels are given."""
    whole: float | None = None
    """Of an informative patch: the target's number for the whole example, which is the mean over all its places."""


class Spectrum(Document):
    """What an atom looks for: examples from the highest to the lowest."""

    atom: str
    icons: list[Icon]
    highest: list[str]
    """The names of the examples to which it responds most, from above the middle: enough to adopt them as a concept."""


class Icons(Document):
    """The icons of a figure, and where they are from."""

    set: Name
    examples: Count
    """In the set."""
    measure: str
    """What the examples are ordered by, in words."""
    unit: str
    sees: tuple[Integer, Integer] | None = None
    """Rows and columns of the input that one place of the layer sees; null where it sees everything, or the input is no
    picture."""
    spectra: list[Spectrum]


class Patch(Document):
    """A place of a layer by the example of a set that has a place most like it."""

    place: list[Integer]
    """Row and column, or the number of a place that has neither."""
    value: float
    """Its number: the area at which the patch is drawn."""
    like: Icon | None
    """The patch; its value is the cosine between the activations of both places. Null where they are all 0."""


class Patches(Document):
    """What the places of a layer are like, and where the patches are from."""

    set: Name
    examples: Count
    """In the set."""
    shape: list[Integer]
    """Rows and columns of places, or their number where they have neither."""
    sees: tuple[Integer, Integer] | None = None
    """As of icons."""
    places: list[Patch]


class Focus(Document):
    """How much of a map lies in the rectangle where an example differs from its match."""

    share: Probability
    """Of the map's absolute values."""
    area: Probability
    """Of the places: what a map that says nothing would have."""
    value: float
    """The map's values there: all together where they are parts of a whole, else their mean."""


class Figure(Document):
    """One element of an explanation at one example."""

    element: Element
    """As asked, with every default filled in."""
    presentation: Presentation
    layer: str
    """The tensor whose atoms are shown."""
    atoms_of: Atoms
    title: str
    sentence: str
    """What it shows, for a reader who has not read the code."""
    signed: bool = True
    """Whether its numbers say for or against; the size of a derivative does not."""
    additive: bool = True
    """Whether its numbers are parts of a whole, so that they may be added up."""
    unit: str | None = None
    """Of its numbers, where that is not the target's."""
    withheld: str | None = None
    """Why it is not drawn: the sentence of the check that it fails."""
    map: Grid | None = None
    atoms: list[Atom] = Field(default_factory=list)
    """At most eight, or every token of a text; the others are in `rest`."""
    links: list[Link] = Field(default_factory=list)
    upper: list[Atom] = Field(default_factory=list)
    """Of a grid: atoms of the upper layer, each with the map of what comes to it from the lower layer's places, or from
    those `atoms` of it that are shown. Of a flow between groups: those of the upper layer, each with where it is."""
    icons: Icons | None = None
    """What its atoms look for, where it is drawn so; of a flow, those at which links begin."""
    upper_icons: Icons | None = None
    """What the atoms of the upper layer look for at which links end."""
    patches: Patches | None = None
    """What the places of its layer are like, where it is drawn so."""
    words: list[str] = Field(default_factory=list)
    """A text's tokens in their order, where each is drawn with a patch or a colour."""
    upper_shape: list[Integer] = Field(default_factory=list)
    """Rows and columns of the upper layer's places, where it has some."""
    rest: Rest = Rest(count=0, sum=0.0)
    scale: Annotated[float, Field(ge=0)] = 0.0
    """The end of the scale that all its examples share, on either side of 0."""
    total: float | None = None
    """All its parts together."""
    focus: Focus | None = None
    checks: list[Check] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)
    """The settings that it depends on: baseline, fill, seed, and what was simplified."""
    entries: list[str] = Field(default_factory=list)
    """What an audit file needs, in YAML, to audit what was found: each is of one atom."""


class Panel(Document):
    """One example, with the model's number for it and the figures that explain that number."""

    example: str
    position: Count
    """In its example set."""
    set: Name
    match_of: str | None = None
    """The example that it is the match of, which is the panel before it."""
    thumbnail: str | None = None
    """What the model sees, as a data URI, where the audit allows it."""
    value: float
    """The number that is explained, in the target's unit."""
    figures: list[Figure]


class Explained(Document):
    """One question of an audit's `explain`, answered."""

    name: Name
    target: Name
    unit: str
    selection: str
    """Which examples are shown, of how many, by which rule."""
    reading: list[str]
    """What each method shows, in a sentence."""
    panels: list[Panel]
    passes: Count
    """Passes of one example through the model that it took, a backward pass counted as four more; none of them is
    counted again where an earlier audit had the answer."""

    @property
    def figures(self) -> list[tuple[Panel, Figure]]:
        """Every figure with its panel."""
        return [(panel, figure) for panel in self.panels for figure in panel.figures]
