"""Three components in one colour: how far each place lies along them, as red, green and blue."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from markupsafe import Markup

from caveat_reports.figures.map import below
from caveat_reports.figures.shades import mixed, mixture
from caveat_reports.formatting import percent
from caveat_spec.explained import LEVELS, Figure, Panel
from caveat_spec.sanitize import sanitized

_STAGE = Markup(
    '<div class="stage{alone}" role="img" tabindex="0" aria-label="{what}">{seen}'
    '<img class="cells" src="{source}" alt="" width="{width}" height="{height}"></div>\n'
)
_LEGEND = Markup('<ul class="legend">{entries}</ul>')
_ENTRY = Markup('<li><svg class="swatch" viewBox="0 0 1 1" aria-hidden="true">{}</svg> {}: {}</li>')
_WORDS = Markup('<p class="words toned" role="group" aria-label="{what}">{words}</p>\n')
_WORD = Markup('<span>{}<svg viewBox="0 0 1 1" preserveAspectRatio="none" aria-hidden="true">{}</svg></span> ')
_FILL = Markup('<rect width="1" height="1" fill="#{:02x}{:02x}{:02x}"/>')
_PURE = ((LEVELS, 0, 0), (0, LEVELS, 0), (0, 0, LEVELS))


def draw(figure: Figure, panel: Panel, key: str) -> Markup:
    """The places in their rows and columns over what the model sees, or a text's words each over its colour."""
    what = sanitized(f"{figure.title}. {figure.sentence}")
    rows = _maps(figure)
    shown = _words(figure, rows, what) if figure.words else _stage(rows, panel, key, what)
    entries = (
        _ENTRY.format(_FILL.format(*mixture(*pure, LEVELS)), sanitized(atom.id), percent(atom.value))
        for pure, atom in zip(_PURE, sorted(figure.atoms, key=lambda one: one.place), strict=False)
    )
    return shown + _LEGEND.format(entries=Markup("").join(entries))


def _maps(figure: Figure) -> list[list[list[int]]]:
    """The cells of three components, of which those that are not shown are 0."""
    found = {atom.place[0]: atom.map.rows() for atom in figure.atoms if atom.map is not None}
    nothing = [[0] * len(row) for row in next(iter(found.values()))]
    return [found.get(number, nothing) for number in range(3)]


def _stage(rows: Sequence[list[list[int]]], panel: Panel, key: str, what: str) -> Markup:
    red, green, blue = rows
    flat = len(red) == 1  # places without rows and columns lie over no picture
    seen = Markup("") if flat else below(panel, key)
    return _STAGE.format(
        alone="" if seen else " alone",
        what=what,
        seen=seen,
        source=mixed(red, green, blue, LEVELS),
        width=len(red[0]),
        height=len(red),
    )


def _words(figure: Figure, rows: Sequence[list[list[int]]], what: str) -> Markup:
    """Each word with its colour below it, so that it can be read on any."""

    def each() -> Iterator[Markup]:
        for word, *parts in zip(figure.words, *(one[0] for one in rows), strict=False):
            yield _WORD.format(sanitized(word), _FILL.format(*mixture(parts[0], parts[1], parts[2], LEVELS)))

    return _WORDS.format(what=what, words=Markup("").join(each()))
