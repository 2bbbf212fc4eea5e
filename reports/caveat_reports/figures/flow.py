"""How much of each atom of one layer comes from which atoms of the layer before: ribbons as wide as their parts.

Where atoms are groups, a small map of each stands below, first of the layer before. Where an example set is named, each
atom stands beside the example of it to which it responds most, and the others stand below.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from caveat_reports.figures.icons import row
from caveat_reports.figures.map import below, cells
from caveat_reports.formatting import signed
from caveat_spec.explained import Atom, Figure, Icons, Link, Panel
from caveat_spec.sanitize import raster, sanitized

WIDTH, LABEL, BAND, GAP = 520, 130, 220, 10
"""Of the drawing, of the names at either side, of all ribbons together, and between two atoms."""
ICON = 32
"""The side of an atom's icon, beside its name."""

_DRAWING = Markup(
    '<svg class="flow" viewBox="0 0 {width} {height}" aria-hidden="true" focusable="false">\n'
    "{ribbons}{names}{icons}</svg>"
)
_RIBBON = Markup(
    '<path class="ribbon {sign}" d="M{x0} {y0}C{mid} {y0} {mid} {y1} {x1} {y1}" stroke-width="{width}"/>\n'
)
_IMAGE = Markup(
    '<image href="{source}" x="{x}" y="{y}" width="32" height="32" preserveAspectRatio="xMidYMid slice"/>\n'
)
_NAME = Markup('<text x="{x}" y="{y}" text-anchor="{anchor}" dominant-baseline="middle">{name}</text>\n')
_GROUPS = Markup(
    '<p class="small soft">{what}</p>\n<div class="spectra" role="group" aria-label="{what}">\n{maps}</div>\n'
)
_LOOKED_FOR = Markup(
    '<details{open}><summary>{what}</summary>\n<div class="spectra" role="group" aria-label="{what}">\n{rows}</div>'
    "</details>\n"
)
_GROUP = Markup(
    '<div class="spectrum"><p class="of">{name}<span class="value">{value}</span></p>'
    '<div class="stage{alone}" role="img" tabindex="0" aria-label="{name}: {value}">{seen}{cells}</div></div>\n'
)


@dataclass
class Side:
    """The atoms of one layer, from top to bottom, each as tall as its links are wide."""

    tops: dict[str, float]
    heights: dict[str, float]
    height: float

    @classmethod
    def of(cls, names: Sequence[str], sizes: Sequence[float], scale: float, gap: int) -> Side:
        """The atoms in the order of their first link."""
        heights: dict[str, float] = {}
        for name, size in zip(names, sizes, strict=True):
            heights[name] = heights.get(name, 0.0) + size * scale
        tops, at = {}, gap / 2
        for name, height in heights.items():
            tops[name] = at
            at += height + gap
        return cls(tops, heights, at)

    def middle(self, name: str) -> float:
        """Where an atom's name stands."""
        return self.tops[name] + self.heights[name] / 2


def draw(figure: Figure, panel: Panel, key: str) -> Markup:
    """The strongest links; blue ones raise the later atom, orange ones lower it."""
    sizes = [abs(link.value) for link in figure.links]
    scale = BAND / (sum(sizes) or 1.0)
    seen = [_pictures(figure.icons), _pictures(figure.upper_icons)]
    gap = ICON + 4 if any(seen) else GAP
    left = Side.of([link.source for link in figure.links], sizes, scale, gap)
    right = Side.of([link.sink for link in figure.links], sizes, scale, gap)
    icons = (
        _IMAGE.format(source=pictures[name], x=x, y=round(side.middle(name) - ICON / 2, 1))
        for side, pictures, x in ((left, seen[0], 0), (right, seen[1], WIDTH - ICON))
        for name in side.tops
        if name in pictures
    )
    names = [(name, LABEL - 8, left.middle(name), "end") for name in left.tops]
    names += [(name, WIDTH - LABEL + 8, right.middle(name), "start") for name in right.tops]
    drawing = _DRAWING.format(
        width=WIDTH,
        height=round(max(left.height, right.height)),
        ribbons=_ribbons(figure.links, left, right, scale),
        names=Markup("").join(
            _NAME.format(name=sanitized(name), x=x, y=round(y, 1), anchor=anchor) for name, x, y, anchor in names
        ),
        icons=Markup("").join(icons),
    )
    if figure.icons is not None and figure.upper_icons is not None:
        low, high = (
            {name: sum(link.value for link in figure.links if getattr(link, end) == name) for name in side.tops}
            for end, side in (("source", left), ("sink", right))
        )
        earlier = _looked_for("earlier", figure.atoms, figure.icons, low, panel, key)
        return drawing + earlier + _looked_for("later", figure.upper, figure.upper_icons, high, panel, key)
    earlier = _maps("Where the groups of the earlier layer are", figure.atoms, panel, key)
    return drawing + earlier + _maps("Where those of the later layer are", figure.upper, panel, key)


def _pictures(icons: Icons | None) -> dict[str, str]:
    """The picture of the example to which each atom responds most, where there are pictures."""
    spectra = [] if icons is None else icons.spectra
    sources = {one.atom: raster(one.icons[0].picture) for one in spectra if one.icons}
    return {atom: source for atom, source in sources.items() if source}


def _looked_for(
    which: str, atoms: Sequence[Atom], icons: Icons, through: Mapping[str, float], panel: Panel, key: str
) -> Markup:
    """The atoms of a layer with what they look for; groups have their map, and others the sum of their links."""
    known, seen = {atom.id: atom for atom in atoms if atom.map is not None}, below(panel, key)
    several = [known.get(one.atom, Atom(id=one.atom, value=through.get(one.atom, 0.0))) for one in icons.spectra]
    rows = (row(atom, one, signed(atom.value), seen) for atom, one in zip(several, icons.spectra, strict=True))
    what = sanitized(f"What those of the {which} layer look for in {icons.set}")
    shown = Markup(" open") if known else Markup("")  # where groups are is the figure; an icon stands beside each name
    return _LOOKED_FOR.format(open=shown, what=what, rows=Markup("").join(rows))


def _maps(what: str, atoms: Sequence[Atom], panel: Panel, key: str) -> Markup:
    """Where the groups of a layer are; nothing for atoms without maps."""
    seen, shown = below(panel, key), [(atom, atom.map) for atom in atoms if atom.map is not None]
    if not shown:
        return Markup("")
    maps = (
        _GROUP.format(
            name=sanitized(atom.id),
            value=signed(atom.value),
            alone="" if seen else " alone",
            seen=seen,
            cells=cells(where),
        )
        for atom, where in shown
    )
    return _GROUPS.format(what=what, maps=Markup("").join(maps))


def _ribbons(links: Sequence[Link], left: Side, right: Side, scale: float) -> Markup:
    """Each link from its place on the left to its place on the right, one below the other."""
    start, end, drawn = dict(left.tops), dict(right.tops), []
    for link in links:
        width = abs(link.value) * scale
        drawn.append(
            _RIBBON.format(
                sign="raises" if link.value >= 0 else "lowers",
                x0=LABEL,
                x1=WIDTH - LABEL,
                mid=WIDTH // 2,
                y0=round(start[link.source] + width / 2, 1),
                y1=round(end[link.sink] + width / 2, 1),
                width=round(max(width, 0.5), 1),
            )
        )
        start[link.source] += width
        end[link.sink] += width
    return Markup("").join(drawn)
