"""What explanations say in words, for every format: the strongest findings, the scale, the rule and the checks."""

from __future__ import annotations

from caveat_reports.formatting import count, percent, plain, signed
from caveat_spec.explained import Explained, Figure, Panel, Patches
from caveat_spec.report import Report

MOST_FINDINGS = 3
"""Findings that a page or a terminal puts into words; the figures have the others."""

ROOM = 2_000_000
"""Characters that the panels of a page may take; with the report that it carries, it stays under five million."""
_FIGURE, _ATOM, _SMALL, _ICON = 2_500, 120, 1_000, 500
"""About as many characters as a figure takes besides maps and parts, and as a part, a small map and an icon do."""


class Room:
    """What is left of a page for panels: the examples beyond it are named and not drawn."""

    def __init__(self) -> None:
        self._left = ROOM

    def of(self, one: Explained) -> list[Panel]:
        """The panels of an explanation that still have room, in their order."""
        sizes = (len(panel.thumbnail or "") + sum(map(_size, panel.figures)) for panel in one.panels)
        for drawn, size in enumerate(sizes):
            if size > self._left:
                return one.panels[:drawn]
            self._left -= size
        return one.panels


def _size(figure: Figure) -> int:
    maps = sum(_SMALL + 4 * len(atom.map.cells) for atom in figure.upper if atom.map is not None)
    maps += sum(_SMALL + 2 * len(atom.map.cells) for atom in figure.atoms if atom.map is not None)
    spectra = [each for icons in (figure.icons, figure.upper_icons) if icons is not None for each in icons.spectra]
    maps += sum(_ICON + len(one.picture or "") for each in spectra for one in each.icons)
    maps += sum(len(name) + 4 for each in spectra for name in each.highest)
    places = [] if figure.patches is None else figure.patches.places
    maps += sum(_ICON + len(one.like.picture or "") for one in places if one.like is not None)
    return _FIGURE + _ATOM * len(figure.atoms) + maps + (0 if figure.map is None else 2 * len(figure.map.cells))


def findings(one: Explained) -> list[str]:
    """The strongest findings, one for each example at most, and what was withheld where nothing else is left."""
    found = [
        (strength, sentence) for panel in one.panels if not panel.match_of for strength, sentence in _best(one, panel)
    ]
    strongest = sorted(found, key=lambda told: -told[0])[:MOST_FINDINGS]
    withheld = dict.fromkeys(figure.withheld for _, figure in one.figures if figure.withheld)
    return [sentence for _, sentence in strongest] or [sentence for sentence in withheld if sentence][:MOST_FINDINGS]


def _best(one: Explained, panel: Panel) -> list[tuple[float, str]]:
    """The figure of an example that singles out most, in words: beside its match where there is one."""
    drawn = [(number, figure) for number, figure in enumerate(panel.figures) if figure.withheld is None]
    if not drawn:
        return []
    number, best = max(drawn, key=lambda told: _strength(told[1]))
    matched = next((other for other in one.panels if other.match_of == panel.example), None)
    beside = None if matched is None else matched.figures[number].focus
    if best.focus is None or beside is None:
        return [(_strength(best), f"{best.title}: {best.sentence}")]
    comes = "comes to" if best.additive else "averages"
    inside, outside = (
        f" and {comes} {signed(at.value)} {best.unit or one.unit}" if best.signed else "" for at in (best.focus, beside)
    )
    sentence = (
        f"{best.title}: in {panel.example} the place that differs from its match, {percent(best.focus.area)} of the "
        f"picture, has {percent(best.focus.share)} of the map{inside}; without the difference the same place has "
        f"{percent(beside.share)}{outside}."
    )
    return [(_strength(best), sentence)]


def all_findings(report: Report) -> list[tuple[Explained, list[str]]]:
    """Each explanation with its findings."""
    return [(one, findings(one)) for one in report.explanations]


def of_atoms(one: Explained) -> list[str]:
    """What was found of single atoms, each by its name."""
    shown = [figure for _, figure in one.figures if figure.withheld is None]
    return [f"{atom.id}: {atom.note}" for figure in shown for atom in figure.atoms if atom.note]


def withheld_words(one: Explained) -> str | None:
    """How many figures failed their checks; None where all are drawn."""
    figures = one.figures
    failed = sum(figure.withheld is not None for _, figure in figures)
    return f"{failed} of {len(figures)} figures failed a check and are not drawn." if failed else None


def scale_words(figure: Figure, unit: str) -> str:
    """The ends of the scale, which all examples of an element share."""
    if figure.presentation == "icons":
        return icons_words(figure)
    if figure.patches is not None:
        return patches_words(figure.patches, plain(figure.scale), unit)
    if figure.presentation == "colours":
        return (
            "Red, green and blue are high where a place lies far along the first, second and third component; grey is "
            "the mean. One scale for all three, and for every example here."
        )
    per, end = " a cell" if figure.map is not None else "", plain(figure.scale)
    per_unit = "" if figure.unit else " per unit of what is explained"
    ends = f"−{end} to +{end} {unit}" if figure.signed else f"0 to {end} {unit}{per_unit}"
    beside = f" {icons_words(figure)}" if figure.icons is not None else ""
    return f"Scale from {ends}{per}, the same for every example here.{beside}"


def icons_words(figure: Figure) -> str:
    """What icons are: where they are from, what they are ordered by, and how much of an example one shows."""
    if figure.icons is None:
        return ""
    icons = figure.icons
    size = "" if icons.sees is None else f"{icons.sees[0]} x {icons.sees[1]}"
    sees = f" Each shows the {size} pixels that the strongest place sees." if size else ""
    shown = "Patches" if figure.atoms_of == "patches" else "Icons"
    return f"{shown}: of {count(icons.examples)} examples of {icons.set}, in the order of their {icons.measure}.{sees}"


def patches_words(patches: Patches, end: str, unit: str) -> str:
    """What patches are: where they are from, how large they are drawn, and how much of an example one shows."""
    sees = "" if patches.sees is None else f", the {patches.sees[0]} x {patches.sees[1]} pixels that a place sees"
    return (
        f"Each place is drawn as the place most like it among {count(patches.examples)} examples of {patches.set}"
        f"{sees}. Its area is its number: a whole square is {end} {unit}, for every example here."
    )


def value_words(panel: Panel, one: Explained) -> str:
    """The number that is explained."""
    matched = f", in {panel.set}, the match of the example before" if panel.match_of else f", in {panel.set}"
    return f"{one.target} {plain(panel.value)} {one.unit}{matched}"


def _strength(figure: Figure) -> float:
    """How far a map singles out the place that is asked about; 0 where no place is, so that the first figure counts."""
    return 0.0 if figure.focus is None else 1 + figure.focus.share - figure.focus.area
