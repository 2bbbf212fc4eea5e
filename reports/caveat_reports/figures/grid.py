"""Two layers: a small map for each atom of the upper one, at its own place, of what comes to it from the lower one."""

from __future__ import annotations

from collections.abc import Iterator

from markupsafe import Markup

from caveat_reports.figures.map import below, cells
from caveat_reports.figures.shades import shade
from caveat_reports.formatting import signed
from caveat_spec.explained import LEVELS, Atom, Figure, Grid, Panel
from caveat_spec.sanitize import sanitized

_LINKED = Markup(
    '<div class="linked" role="group" aria-label="{what}"><div class="over all{alone}">{seen}{cells}</div>\n'
    '<div class="places">{rows}</div></div>'
)
_ATOM = Markup(
    '<label class="atom"><input type="radio" name="{group}" aria-label="{name}">{small}'
    '<span class="over{alone}">{seen}{cells}<span class="said">{name}</span></span></label>'
)
_MATRIX = Markup(
    '<div class="scroll" role="region" aria-label="{what}" tabindex="0"><table class="pairs">\n'
    '<thead><tr><th scope="col">To ↓, from →</th>{heads}</tr></thead>\n<tbody>\n{rows}</tbody></table></div>'
)
_HEAD = Markup('<th scope="col" class="number">{}</th>')
_ROW = Markup('<tr><th scope="row">{}</th>{}</tr>\n')
_CELL = Markup('<td class="number {}">{}</td>')
IN_A_ROW = 7
"""Upper atoms without a place."""
MOST_ROWS = 8
"""Upper atoms of a table: as many as a person compares."""


def draw(figure: Figure, panel: Panel, key: str) -> Markup:
    """Small maps where the lower layer has rows and columns of places, and a table of pairs elsewhere."""
    return _matrix(figure) if figure.map is None else _places(figure, panel, key)


def _places(figure: Figure, panel: Panel, key: str) -> Markup:
    """The upper layer's places, each a choice that lays its map over the example; none chosen, it is all together."""
    assert figure.map is not None, "asked for by whoever calls"
    seen = below(panel, key)
    alone = "" if seen else " alone"
    group = f"{key}-{figure.layer}-{figure.title}"
    rows = (
        Markup("<div>{}</div>\n").format(Markup("").join(_place(atom, group, seen, alone) for atom in row))
        for row in _laid_out(figure)
    )
    return _LINKED.format(
        what=sanitized(f"{figure.title}. {figure.sentence}"),
        alone=alone,
        seen=seen,
        cells=cells(figure.map),
        rows=Markup("").join(rows),
    )


def _laid_out(figure: Figure) -> list[list[Atom | None]]:
    """The upper atoms at their own places, or in rows where their layer has no rows and columns."""
    if figure.upper_shape:
        atoms, (height, width) = {tuple(atom.place): atom for atom in figure.upper}, figure.upper_shape
        return [[atoms.get((y, x)) for x in range(width)] for y in range(height)]
    return [[*figure.upper[start : start + IN_A_ROW]] for start in range(0, len(figure.upper), IN_A_ROW)]


def _place(atom: Atom | None, group: str, seen: Markup, alone: str) -> Markup:
    """One place of the upper layer: its map, or nothing where it is not among the largest."""
    if atom is None or atom.map is None:
        return Markup('<span class="atom none"></span>')
    small = cells(atom.map)
    return _ATOM.format(
        group=sanitized(group),
        name=sanitized(f"{atom.id}: {signed(atom.value)}"),
        small=small,
        seen=seen,
        cells=small,
        alone=alone,
    )


def _matrix(figure: Figure) -> Markup:
    """Upper atoms in rows, and those of the lower layer that are shown in columns."""
    return _MATRIX.format(
        what=sanitized(f"{figure.title}. {figure.sentence}"),
        heads=Markup("").join(_HEAD.format(sanitized(atom.id)) for atom in figure.atoms),
        rows=Markup("").join(
            _ROW.format(sanitized(atom.id), Markup("").join(_pairs(atom.map)))
            for atom in figure.upper[:MOST_ROWS]
            if atom.map is not None
        ),
    )


def _pairs(grid: Grid) -> Iterator[Markup]:
    """One row of pairs: each number on the shade of its share of the scale."""
    for level in grid.rows()[0]:
        yield _CELL.format(shade(level / LEVELS), signed(level * grid.scale / LEVELS) if level else "0")
