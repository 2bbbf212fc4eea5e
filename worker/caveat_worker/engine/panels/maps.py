"""The numbers of an audit's figures and vectors as one file of plain arrays, whose bytes depend on nothing else."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from caveat_spec.base import digest_of_bytes
from caveat_spec.explained import Explained, Figure
from caveat_spec.maps import (
    CONTENTS,
    DIGITS,
    LARGEST_MAPS,
    Axis,
    CavPlace,
    Kept,
    KeptArray,
    KeptCav,
    KeptFigure,
    MapsContents,
    MapsFile,
)
from caveat_worker.engine.base.arrays import AnyArray, Float32Array
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.panels.figures import Found, Subject

_PLACES: dict[int, tuple[Axis, ...]] = {1: ("position",), 2: ("row", "column"), 3: ("depth", "row", "column")}
_ALONE: dict[str, Axis] = {
    "channels": "channel",
    "concepts": "concept",
    "groups": "group",
    "components": "component",
    "examples": "example",
    "proposals": "proposal",
    "patches": "kind of example",
}
"""Atoms that have one axis, and what that counts."""
_NEURONS: dict[int, tuple[Axis, ...]] = {1: ("neuron",), 2: ("position", "channel")}


@dataclass(frozen=True)
class Drawn:
    """What one element found at each example, in the order of an explanation's panels."""

    found: Sequence[Found]
    subjects: Sequence[Subject]
    text: bool
    """Whether the examples are texts."""


def maps_file(
    explained: Sequence[Explained], drawn: Sequence[Sequence[Drawn]], cavs: Sequence[tuple[KeptCav, AnyArray]] = ()
) -> tuple[bytes, MapsFile]:
    """A `.npz` of what each element of each explanation found and of CAVs, and what a report says of it.

    Raises InvalidInput for one that is larger than a report's file of maps may be.
    """
    arrays: dict[str, AnyArray] = {}
    figures = [
        _figure(one, number, element, arrays)
        for one, elements in zip(explained, drawn, strict=True)
        for number, element in enumerate(elements)
    ]
    arrays |= {one.name: _rounded(vector) for one, vector in cavs}
    contents = MapsContents(
        figures=[figure for several in figures for figure in several], cavs=[one for one, _ in cavs]
    )
    size = sum(array.nbytes for array in arrays.values())
    if size > LARGEST_MAPS:
        raise too_large(size)
    written, ends = _npz({CONTENTS: np.array(contents.model_dump_json()), **arrays})
    there = sum(bool(figure.arrays) for figure in contents.figures)
    digest = digest_of_bytes(written)
    places = [
        CavPlace(concept=one.concept, layer=one.layer, shape=one.shape, at=ends[one.name] - arrays[one.name].nbytes)
        for one in contents.cavs
    ]
    return written, MapsFile(digest=digest, size=len(written), figures=there, cavs=places)


def _npz(arrays: Mapping[str, AnyArray]) -> tuple[bytes, dict[str, int]]:
    """Arrays as NumPy keeps several in a file, without the date, the compression and the pickles that it may have.

    With it goes the byte behind each array.
    """
    file, ends = io.BytesIO(), dict[str, int]()
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            one = io.BytesIO()
            np.lib.format.write_array(one, array, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), one.getvalue())
            ends[name] = file.tell()
    return file.getvalue(), ends


def too_large(size: int) -> InvalidInput:
    """The refusal of maps of so many bytes."""
    return InvalidInput(
        "maps-too-large",
        f"`keep` would write {size / 2**20:,.0f} MiB of maps and vectors, and {LARGEST_MAPS >> 20} are allowed.",
        "Explain fewer examples, leave large layers out or pool them (`@mean`), or leave `keep` out.",
        "/keep",
    )


def _figure(one: Explained, element: int, drawn: Drawn, arrays: dict[str, AnyArray]) -> list[KeptFigure]:
    """An element's figures, whose arrays are added to those of the file."""
    kept = []
    for number, (panel, found, subject) in enumerate(zip(one.panels, drawn.found, drawn.subjects, strict=True)):
        figure = panel.figures[element]
        stored = []
        for what, (array, axes) in ({} if figure.withheld else dict(_arrays(figure, found, drawn))).items():
            name = f"{one.name}/{element}/{number}/{what}"
            arrays[name] = array
            stored.append(KeptArray(name=name, what=what, axes=list(axes), shape=list(array.shape)))
        kept.append(
            KeptFigure(
                explanation=one.name,
                element=element,
                panel=number,
                example=panel.example,
                set=panel.set,
                position=panel.position,
                method=figure.element.by,
                layer=figure.layer,
                atoms_of=figure.atoms_of,
                names=list(subject.names) if _named(figure, found, subject) else [],
                unit=figure.unit or one.unit,
                additive=figure.additive,
                withheld=figure.withheld,
                arrays=stored,
            )
        )
    return kept


def _named(figure: Figure, found: Found, subject: Subject) -> bool:
    """Whether the atoms have the names of columns or tokens."""
    return figure.atoms_of in ("pixels", "positions") and found.whole.ndim == 1 and bool(subject.names)


def _arrays(figure: Figure, found: Found, drawn: Drawn) -> Iterator[tuple[Kept, tuple[AnyArray, tuple[Axis, ...]]]]:
    """Each array of a figure, with its axes."""
    axes = _axes(figure, found, drawn)
    yield "values", (_rounded(found.whole), axes)
    if found.spread is not None:
        yield "standard_errors", (_rounded(found.spread), axes)
    if found.pairs is not None and found.upper is not None:
        yield "pairs", (_rounded(found.pairs), ("upper atom", *axes))
        yield "upper", (found.upper.astype(np.int64), ("upper atom",))
    if found.maps is not None:
        yield "maps", (_rounded(found.maps), (*axes, *_PLACES[found.maps.ndim - 1]))
    if found.upper_maps is not None:
        yield "upper_maps", (_rounded(found.upper_maps), ("upper atom", *_PLACES[found.upper_maps.ndim - 1]))


def _axes(figure: Figure, found: Found, drawn: Drawn) -> tuple[Axis, ...]:
    """What the axes of an element's values count."""
    count = found.whole.ndim
    if figure.atoms_of in _ALONE:
        return (_ALONE[figure.atoms_of],)
    if figure.atoms_of == "neurons":
        return _NEURONS.get(count, ("channel", *_PLACES.get(count - 1, ())))
    if count == 1 and drawn.text:
        return ("token",)
    return ("part",) if count == 1 and figure.atoms_of == "pixels" else _PLACES[count]


def _rounded(values: AnyArray) -> Float32Array:
    """Numbers to so many significant digits that the last bits of a processor do not show."""
    wide = np.asarray(values, float)
    size = np.abs(wide)
    exponent = np.floor(np.log10(np.where(size > 0, size, 1.0)))
    scale = 10.0 ** (DIGITS - 1 - exponent)
    return np.asarray(np.where(size > 0, np.rint(wide * scale) / scale, 0.0), np.float32)
