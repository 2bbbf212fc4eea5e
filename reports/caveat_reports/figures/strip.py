"""The words of a text in their order, each shaded by its part, the strongest with their numbers."""

from __future__ import annotations

from markupsafe import Markup

from caveat_reports.figures.shades import shade
from caveat_reports.formatting import signed
from caveat_spec.explained import Atom, Figure, Panel
from caveat_spec.sanitize import sanitized

NUMBERED = 3
"""Words that carry their number, so that the sign is not in the colour alone."""


def draw(figure: Figure, panel: Panel, key: str) -> Markup:
    """The words, on the scale that all examples of the element share."""
    strongest = sorted(figure.atoms, key=lambda atom: -abs(atom.value))[:NUMBERED]
    words = [_word(atom, figure.scale or 1.0, atom in strongest) for atom in _in_order(figure.atoms)]
    return Markup('<p class="words">{}</p>').format(Markup(" ").join(words))


def _in_order(atoms: list[Atom]) -> list[Atom]:
    return sorted(atoms, key=lambda atom: atom.place)


def _word(atom: Atom, end: float, numbered: bool) -> Markup:
    number = Markup("<sub>{}</sub>").format(signed(atom.value, 2)) if numbered and atom.value else Markup("")
    return Markup('<span class="{}">{}{}</span>').format(shade(atom.value / end), sanitized(atom.id), number)
