"""Attributions of an element at several examples → figures on one scale, each with its sentence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Literal

import numpy as np

from caveat_spec.explain import Atoms, Element, Presentation
from caveat_spec.explained import MOST_PAIR_CELLS, Atom, Check, Figure, Focus, Link, Rest
from caveat_spec.explanations import MOST_GROUPS, UPPER_GROUPS
from caveat_worker.engine.base.arrays import AnyArray, Float64Array, Indices
from caveat_worker.engine.panels.grids import Box, block_side, blocks, focus, grid, rounded_up, weight

MOST_WORDS = 3
"""Tokens that a note names for each group."""
OF_KINDS, ALL = ("examples of the class", "examples of other classes"), "all examples"
"""What rows of patches are called, with labels and without."""
MOST_SINKS, MOST_LINKS = 6, 4
"""Atoms of an upper layer that are shown with what they come from, and how many links each of them has."""


@dataclass(frozen=True)
class Asked:
    """An element with everything about it settled."""

    element: Element
    presentation: Presentation
    layer: str
    atoms: Atoms
    title: str
    """The method in words."""
    target: str
    """What its numbers are about: the target, or the atoms of an upper layer."""
    signed: bool = True
    """Whether its numbers have signs: a saliency has none."""
    shape: tuple[int, ...] = ()
    """Of the layer, for one example."""
    upper: tuple[int, ...] = ()
    """Of the layer that its atoms are linked to, if they are."""
    unit: str | None = None
    """Of its numbers, where that is not the target's."""
    examples: Sequence[str] = ()
    """The names of the examples that its numbers are of, where they are of examples."""
    most: str = ""
    """What a sentence says of the atom with the largest number, where that is not that it moves the target."""


@dataclass(frozen=True)
class Found:
    """What a method found at one example."""

    whole: Float64Array
    """The values of all atoms in the shape that the method gives them."""
    atoms: Atoms = "pixels"
    checks: tuple[Check, ...] = ()
    additive: bool = True
    """Whether the values are parts of a whole."""
    spread: Float64Array | None = None
    """Standard errors in the shape of `whole`."""
    removed: Mapping[int, float] = field(default_factory=dict)
    """Position among the values → what the number really falls by without that atom."""
    pairs: Float64Array | None = None
    """What each atom does for each of the largest atoms of an upper layer [upper, *atoms], where there is one."""
    upper: Indices | None = None
    """The numbers of those atoms [upper], the largest first."""
    maps: Float64Array | None = None
    """What each atom does at each place [atoms, *positions], where it has places."""
    upper_maps: Float64Array | None = None
    """The same of the upper layer's atoms, where those are in its place."""
    directions: Float64Array | None = None
    """What other examples are measured by, to be in the order of this atom: of a concept, its vector and its origin
    [2, *layer]; of groups, their vectors [k, channels]."""
    upper_directions: Float64Array | None = None
    """The same of the upper layer's atoms, where those are groups."""
    patches: Float64Array | None = None
    """Informative patches of each kind of example, the highest first [kinds, count, 4]: the example's number, the
    place's, its evidence, and the target's number for the whole; the first are -1 where a kind has fewer."""
    signs: Literal["target", "classes"] = "target"
    """Whether the signs say for and against the target, or tell two groups of classes apart."""
    notes: tuple[str, ...] = ()
    of_atoms: tuple[str, ...] = ()
    """What else was found of each atom, in sentences."""
    entries: tuple[str, ...] = ()
    """What an audit file needs to audit what was found."""

    @property
    def values(self) -> Float64Array:
        """[h, w] for a map, [atoms] otherwise; volumes are summed over their depth."""
        return flat(self.whole, self.atoms)

    @property
    def links(self) -> Iterator[tuple[int, int, float]]:
        """The strongest links of the largest atoms of an upper layer: place, number of the upper atom, and value.

        Of groups, which are few, these are all links.
        """
        if self.pairs is None or self.upper is None:
            return
        most = MOST_GROUPS if self.atoms == "groups" else MOST_LINKS
        for row, number in list(zip(self.pairs, self.upper, strict=True))[:MOST_SINKS]:
            parts = row.ravel()
            for place in np.argsort(-np.abs(parts), kind="stable")[:most]:
                if parts[place]:
                    yield int(place), int(number), float(parts[place])


def flat(values: AnyArray, atoms: Atoms) -> Float64Array:
    """Values at positions [h, w], at atoms [k], or one alone; volumes are summed over their depth."""
    wide = np.asarray(values, float)
    if atoms in ("neurons", "channels", "concepts", "groups", "components", "examples", "proposals", "patches"):
        return wide.ravel()
    while wide.ndim > 2:
        wide = wide.sum(0)
    return np.atleast_1d(wide)


@dataclass(frozen=True)
class Subject:
    """The example that a figure is about."""

    name: str
    match_of: str | None = None
    names: Sequence[str] = field(default_factory=tuple)
    """Of its atoms: columns of a table, tokens of a text."""
    box: Box | None = None
    """Where it differs from its match."""


def figures(asked: Asked, found: Sequence[Found], subjects: Sequence[Subject]) -> list[Figure]:
    """A figure for each example, all on the scale that holds the largest number of any that is drawn."""
    cells = [blocks(one.values, additive=one.additive) if one.values.ndim == 2 else one.values for one in found]
    drawn = [part for part, one in zip(cells, found, strict=True) if _fault(asked, one) is None]
    scale = rounded_up(max((float(np.abs(part).max(initial=0.0)) for part in drawn), default=0.0))
    said = [
        _figure(asked, one, part, subject, scale) for one, part, subject in zip(found, cells, subjects, strict=True)
    ]
    if asked.presentation == "grid":
        return _with_grids(asked, said, found, subjects)
    if any(one.maps is not None and (one.maps.ndim > 2 or asked.atoms == "components") for one in found):
        said = _with_maps(said, found)
    else:
        said = [_with_words(*each) for each in zip(said, found, subjects, strict=True)]
    return _with_upper_groups(said, found) if any(one.upper_maps is not None for one in found) else said


def _with_words(figure: Figure, found: Found, subject: Subject) -> Figure:
    """A figure with a note of the tokens at which each of its atoms is most, where it says how much is at each."""
    if found.maps is None or figure.withheld or not subject.names:
        return figure
    named = []
    for atom in figure.atoms:
        sizes = np.abs(found.maps[atom.place[0]])[: len(subject.names)]
        most = [place for place in np.argsort(-sizes, kind="stable")[:MOST_WORDS] if sizes[place] > 0]
        named.append(f"{atom.id}: {', '.join(subject.names[place] for place in most)}")
    return figure.model_copy(update={"notes": [*figure.notes, f"Where each is most: {'; '.join(named)}."]})


def _with_maps(said: Sequence[Figure], found: Sequence[Found]) -> list[Figure]:
    """Figures whose atoms have a small map each, all on one scale."""
    maps = [
        [] if one.maps is None or figure.withheld else [_map_of(one, atom) for atom in figure.atoms]
        for figure, one in zip(said, found, strict=True)
    ]
    scale = rounded_up(max((float(np.abs(part).max(initial=0.0)) for several in maps for part in several), default=0.0))
    return [
        figure.model_copy(
            update={
                "atoms": [
                    atom.model_copy(update={"map": grid(cells, scale)})
                    for atom, cells in zip(figure.atoms, several, strict=True)
                ],
                "notes": [*figure.notes, f"The maps end at ±{scale:.3g} a cell."],
            }
        )
        if several
        else figure
        for figure, several in zip(said, maps, strict=True)
    ]


def _with_upper_groups(said: Sequence[Figure], found: Sequence[Found]) -> list[Figure]:
    """Figures with the groups of the upper layer, where each is on a scale of their own layer, and what each does."""
    several = [
        {} if one.upper_maps is None or figure.withheld else dict(enumerate(one.upper_maps))
        for figure, one in zip(said, found, strict=True)
    ]
    maps = [{number: _small(part) for number, part in one.items() if part.ndim > 1} for one in several]
    scale = rounded_up(
        max((float(np.abs(part).max(initial=0.0)) for one in maps for part in one.values()), default=0.0)
    )
    return [
        figure.model_copy(
            update={
                "upper": [
                    Atom(
                        id=_upper_name("groups", number, ()),
                        place=[number],
                        value=float(part.sum()),
                        map=grid(cells[number], scale) if number in cells else None,
                    )
                    for number, part in parts.items()
                ],
                "notes": [*figure.notes, *([f"Those of the later layer end at ±{scale:.3g} a cell."] if cells else [])],
            }
        )
        for figure, parts, cells in zip(said, several, maps, strict=True)
    ]


def _map_of(found: Found, atom: Atom) -> Float64Array:
    """Where an atom is: what a group does, added up over blocks, or a component's mean over them."""
    assert found.maps is not None, "asked for by whoever calls"
    values = found.maps[atom.place[0]]
    if found.atoms != "components":
        return _small(values)
    return values[None] if values.ndim == 1 else blocks(flat(values, "positions"), additive=False)


def _small(values: AnyArray) -> Float64Array:
    """A map [h, w] over blocks that add its places up; volumes are summed over their depth."""
    return blocks(flat(values, "positions"), additive=True, most=MOST_PAIR_CELLS)


def _with_grids(
    asked: Asked, said: Sequence[Figure], found: Sequence[Found], subjects: Sequence[Subject]
) -> list[Figure]:
    """Figures with a small map for each atom of the upper layer, all on one scale."""
    maps = [
        [] if figure.withheld or one.pairs is None else [_small_map(row, figure, one) for row in one.pairs]
        for figure, one in zip(said, found, strict=True)
    ]
    scale = rounded_up(max((float(np.abs(part).max(initial=0.0)) for several in maps for part in several), default=0.0))
    return [
        figure.model_copy(
            update={
                "upper": _upper(asked, one, several, subject, scale),
                "upper_shape": list(asked.upper[1:]) if len(asked.upper) == 3 else [],
                "notes": [*figure.notes, f"The small maps end at ±{scale:.3g}."],
            }
        )
        if several
        else figure
        for figure, one, several, subject in zip(said, found, maps, subjects, strict=True)
    ]


def _small_map(row: Float64Array, figure: Figure, found: Found) -> Float64Array:
    """What the lower layer's places do for one upper atom, over blocks; of other atoms those that are shown [1, k]."""
    if found.values.ndim == 2:
        return blocks(flat(row, found.atoms), additive=True, most=MOST_PAIR_CELLS)
    shown = [int(np.ravel_multi_index(atom.place, found.values.shape)) for atom in figure.atoms]
    return flat(row, found.atoms)[None, shown]


def _upper(asked: Asked, found: Found, maps: Sequence[Float64Array], subject: Subject, scale: float) -> list[Atom]:
    """The atoms of the upper layer, each with its map and what comes to it from the whole lower layer."""
    assert found.pairs is not None, "where there are maps there are pairs"
    assert found.upper is not None, "and the atoms that they are of"
    places = asked.upper[1:] if asked.atoms == "positions" else ()
    names = _names(asked, subject) if len(asked.upper) == 2 else ()
    return [
        Atom(
            id=names[number] if number < len(names) else _upper_name(asked.atoms, int(number), places),
            place=[int(axis) for axis in np.unravel_index(number, places)] if len(places) == 2 else [int(number)],
            value=float(row.sum()),
            map=grid(cells, scale),
        )
        for number, row, cells in zip(found.upper, found.pairs, maps, strict=True)
    ]


def _figure(asked: Asked, found: Found, cells: Float64Array, subject: Subject, scale: float) -> Figure:
    said = {
        "element": asked.element,
        "presentation": asked.presentation,
        "layer": asked.layer,
        "atoms_of": asked.atoms,
        "title": asked.title,
        "checks": list(found.checks),
        "notes": list(found.notes),
        "entries": list(found.entries),
        "signed": asked.signed,
        "additive": found.additive,
        "unit": asked.unit,
    }
    fault = _fault(asked, found)
    if fault is not None:
        return Figure(**said, sentence=fault, withheld=fault)
    atoms, rest = _atoms(asked, found, cells, subject)
    lies = None if subject.box is None or cells.ndim != 2 else focus(found.values, subject.box, additive=found.additive)
    sentence = (
        _map_sentence(asked, found, cells, subject)
        if cells.ndim == 2
        else _list_sentence(asked, found, atoms, rest, subject)
    )
    links = _links(asked, found)
    if links:
        first = links[0]
        sentence = f"{sentence} The largest, {first.sink}, gets most from {first.source} ({_signed(first.value)})."
    if lies is not None:
        sentence = f"{sentence} {_focus_sentence(lies, asked, found)}"
    return Figure(
        **said,
        sentence=sentence,
        map=grid(cells, scale) if cells.ndim == 2 else None,
        atoms=atoms,
        links=links,
        rest=rest,
        scale=scale,
        total=float(found.values.sum()) if found.additive else None,
        focus=lies,
    )


def _fault(asked: Asked, found: Found) -> str | None:
    """Why a figure may not be drawn: the first check that it fails, or numbers that say nothing."""
    failed = next((check.sentence for check in found.checks if not check.ok), None)
    if failed is not None:
        return failed
    if not np.isfinite(found.values).all():
        return "Some of its numbers are not finite, so that there is nothing to draw."
    if not found.values.any() and asked.atoms == "components":
        return "Its places are all the same, so that no direction tells them apart."
    if not found.values.any() and asked.most:
        return "All its numbers are 0: nothing in this example is active."
    if not found.values.any():
        return "All its numbers are 0: nothing in this example moves the number, to first order."
    return None


def _atoms(asked: Asked, found: Found, cells: Float64Array, subject: Subject) -> tuple[list[Atom], Rest]:
    """The atoms that are shown, the strongest first, and the others as a number and a sum.

    Proposals and rows of patches keep the order that their method gave them.
    """
    flat, given = cells.ravel(), asked.atoms in ("proposals", "patches")
    sizes = np.zeros(len(flat)) if given else flat if asked.element.sort == "signed" else np.abs(flat)
    order = np.argsort(-sizes, kind="stable")
    named = order[order < len(subject.names)] if _names(asked, subject) and cells.ndim == 1 else order
    shown = named if asked.presentation == "strip" else named[: asked.element.top]
    if asked.element.only:
        shown = order[np.isin(order, asked.element.only)]
    spread = None if found.spread is None or cells.ndim == 2 else found.spread.ravel()
    atoms = [
        Atom(
            id=_name(asked, int(place), found.values.shape, subject),
            place=[int(axis) for axis in np.unravel_index(place, cells.shape)],
            value=float(flat[place]),
            spread=None if spread is None else (float(flat[place] - spread[place]), float(flat[place] + spread[place])),
            confirmed=found.removed.get(int(place)) if cells.shape == found.values.shape else None,
            note=found.of_atoms[place] if found.of_atoms else None,
        )
        for place in shown
    ]
    hidden = np.setdiff1d(order, shown)
    return atoms, Rest(count=len(hidden), sum=float(flat[hidden].sum()))


def _names(asked: Asked, subject: Subject) -> Sequence[str]:
    """What the atoms are called: columns and tokens have names, also where a layer still has a position for each."""
    return subject.names if asked.atoms in ("pixels", "positions") else ()


def _name(asked: Asked, place: int, shape: Sequence[int], subject: Subject) -> str:
    """An atom as a reader calls it; rows and columns count from 1, at the upper left."""
    if len(shape) == 2:
        side = block_side(shape)
        y, x = divmod(place, -(-shape[1] // side))
        return f"{_stretch('row', y, side, shape[0])}, {_stretch('column', x, side, shape[1])}"
    if asked.atoms == "neurons" and len(asked.shape) > 1:
        behind = asked.shape[1:]  # the first axis may be one that the model leaves open, as a text's tokens
        return f"neuron {', '.join(map(str, np.unravel_index(place, (prod(shape) // prod(behind), *behind))))}"
    if asked.atoms == "concepts":
        return asked.element.concept or "concept"
    if asked.atoms == "examples":
        return asked.examples[place]
    if asked.atoms == "proposals":
        return f"proposal {place + 1}"
    if asked.atoms == "patches":
        return ALL if asked.element.options["labels"] is None else OF_KINDS[place]
    if asked.atoms in ("groups", "components"):
        return f"{asked.atoms.removesuffix('s')} {place + 1}"
    names = _names(asked, subject)
    return names[place] if place < len(names) else f"{asked.atoms.removesuffix('s')} {place}"


def _links(asked: Asked, found: Found) -> list[Link]:
    """The links between two layers, by the names of their atoms."""
    lower = found.values.shape if asked.atoms == "positions" else ()
    upper = asked.upper[1:] if asked.atoms == "positions" else ()
    return [
        Link(source=_lower_name(asked.atoms, low, lower), sink=_upper_name(asked.atoms, high, upper), value=value)
        for low, high, value in found.links
    ]


def _lower_name(atoms: Atoms, number: int, shape: Sequence[int]) -> str:
    """The name of an atom of the lower layer, whose groups are counted from 1."""
    return f"group {number + 1}" if atoms == "groups" else _plain_name(atoms, number, shape)


def _upper_name(atoms: Atoms, number: int, shape: Sequence[int]) -> str:
    """The name of an atom of the upper layer, whose groups have letters."""
    return f"group {UPPER_GROUPS[number]}" if atoms == "groups" else _plain_name(atoms, number, shape)


def _plain_name(atoms: Atoms, number: int, shape: Sequence[int]) -> str:
    """An atom's name without a reader's own: `channel 3`, or `row 2, column 5` on a grid."""
    if len(shape) == 2 and number < shape[0] * shape[1]:
        y, x = divmod(number, shape[1])
        return f"row {y + 1}, column {x + 1}"
    return f"{atoms.removesuffix('s')} {number}"


def _stretch(axis: str, cell: int, side: int, end: int) -> str:
    first, last = cell * side + 1, min((cell + 1) * side, end)
    return f"{axis} {first}" if first == last else f"{axis}s {first}–{last}"


def _map_sentence(asked: Asked, found: Found, cells: Float64Array, subject: Subject) -> str:
    """What a reader sees on the map: where its strongest places are, and which way they point."""
    heavy = weight(cells)
    if asked.most:
        return (
            f"In {subject.name}, what {asked.most} at {asked.layer} lies {heavy.where}: the strongest tenth of the "
            f"places holds {_percent(heavy.share)} of the map."
        )
    if found.signs == "classes":
        return (
            f"In {subject.name}, what tells two groups of classes apart most lies {heavy.where}: the strongest tenth "
            f"of the places holds {_percent(heavy.share)} of the map. Blue is the first group, orange the second."
        )
    way = ("raises" if heavy.signed > 0 else "lowers") if asked.signed else "moves"
    return (
        f"In {subject.name}, what {way} {asked.target} most lies {heavy.where}: the strongest tenth of the places "
        f"holds {_percent(heavy.share)} of the map."
    )


def _focus_sentence(lies: Focus, asked: Asked, found: Found) -> str:
    """How much of the map lies where the example differs from its match, beside what an even map would have there."""
    how = "in all" if found.additive else "on average"
    said = f", {_signed(lies.value)} {how}" if asked.signed else ""
    return (
        f"The rectangle in which it differs from its match is {_percent(lies.area)} of the picture and has "
        f"{_percent(lies.share)} of the map{said}."
    )


def _list_sentence(asked: Asked, found: Found, atoms: Sequence[Atom], rest: Rest, subject: Subject) -> str:
    """The strongest atom with its number, and the next ones by name."""
    first, *others = sorted(atoms, key=lambda atom: -abs(atom.value))
    way = ("raises" if first.value > 0 else "lowers") if asked.signed else "moves"
    number = _signed if asked.signed or not asked.most else _plain
    if asked.most and asked.atoms == "concepts":
        return f"In {subject.name}, {first.id} {asked.most} {number(first.value)} {asked.unit}."
    if asked.atoms == "components":
        return _varied(asked, found, subject)
    if asked.atoms == "proposals":
        return _proposed(asked, atoms, rest)
    if asked.atoms == "patches":
        return f"One place alone says at most {' and '.join(f'{_signed(one.value)} in {one.id}' for one in atoms)}."
    if asked.element.options.get("on") == "own_label":
        return _suspected(asked, atoms, len(atoms) + rest.count)
    following = " and ".join(f"{one.id} ({number(one.value)})" for one in others[:2])
    then = f", followed by {following}" if following else ""
    left = f" {rest.count} others come to {_signed(rest.sum)} together." if rest.count and rest.sum else ""
    does = asked.most or f"{way} {asked.target} most"
    among = " of those that are shown" if asked.most and asked.element.only else ""
    told = left if found.additive else ""
    return f"In {subject.name}, {first.id} {does}{among} ({number(first.value)}){then}.{told}"


def _suspected(asked: Asked, atoms: Sequence[Atom], count: int) -> str:
    """Whose label only the example itself speaks for, so that a person looks at it first."""
    first, *others = sorted(atoms, key=lambda atom: -atom.value)
    following = " and ".join(f"{one.id} ({_signed(one.value)})" for one in others[:2])
    then = f", followed by {following}" if following else ""
    return (
        f"Of {count} examples of {asked.element.asked_set}, {first.id} does most for its own label "
        f"({_signed(first.value)} of log p){then}. A label that little else speaks for may be wrong: look at these "
        "first."
    )


def _varied(asked: Asked, found: Found, subject: Subject) -> str:
    """How much of what tells places apart the components have."""
    shares = [share for share in found.values if share > 0]
    each = [_percent(share) for share in shares]
    listed = each[0] if len(each) == 1 else f"{', '.join(each[:-1])} and {each[-1]}"
    whole = f", together {_percent(sum(shares))}," if len(each) > 1 else ""
    return f"In {subject.name}, {listed}{whole} of what tells the places of {asked.layer} apart is along {_many(each)}."


def _many(each: Sequence[str]) -> str:
    return "one direction" if len(each) == 1 else f"{'two' if len(each) == 2 else 'three'} directions"


def _proposed(asked: Asked, atoms: Sequence[Atom], rest: Rest) -> str:
    """How many directions are proposed, and what the largest does."""
    first, count = atoms[0], len(atoms) + rest.count
    many = "One direction moves" if count == 1 else f"{count} directions move"
    return (
        f"{many} {asked.target} in {asked.element.asked_set} beyond what is known: one standard deviation of "
        f"{first.id} goes with {_signed(first.value)} sd."
    )


def _plain(value: float) -> str:
    return f"{value:.3g}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f}\u202f%"


def _signed(value: float) -> str:
    return f"{value:+.3g}".replace("-", "−") if value else "0"
