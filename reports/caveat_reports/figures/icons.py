"""What atoms look for: for each, the examples of a set at which it is highest, lowest, and in between."""

from __future__ import annotations

from markupsafe import Markup

from caveat_reports.figures.map import below, cells
from caveat_reports.figures.table import PLACES
from caveat_reports.formatting import plain, signed
from caveat_spec.explained import Atom, Figure, Icon, Panel, Spectrum
from caveat_spec.sanitize import raster, sanitized

_SPECTRA = Markup('<div class="spectra" role="group" aria-label="{what}">\n{rows}</div>')
_SPECTRUM = Markup(
    '<div class="spectrum"><div><p class="of">{name}<span class="value">{value}</span></p>{map}</div>{icons}</div>\n'
)
_ICONS = Markup('<ol{ranked} aria-label="{name}">{icons}</ol>')
_MAP = Markup('<div class="stage{alone}" role="img" tabindex="0" aria-label="{what}">{seen}{cells}</div>')
_ICON = Markup('<li>{shown}<span class="at">{at}</span><span>{value}</span></li>')
_PATCH = Markup('<li>{shown}<span>{value}</span><span class="at">{at}</span></li>')
_PICTURE = Markup('<img src="{source}" alt="{name}">')
_WORD, _MARK, _OF_A_TEXT, _OF_A_ROW = map(Markup, ("{}", "<mark>{}</mark>", " ", ", "))
_WORDS = Markup('<span class="words">{}</span>')


def draw(figure: Figure, panel: Panel, key: str) -> Markup:
    """A row for each atom: its number in this example, where it is there, and its icons, each with its own number."""
    spectra = {} if figure.icons is None else {one.atom: one for one in figure.icons.spectra}
    number, seen = signed if figure.signed else plain, below(panel, key)
    rows = Markup("").join(row(atom, spectra.get(atom.id), number(atom.value), seen) for atom in figure.atoms)
    return _SPECTRA.format(what=sanitized(figure.title), rows=rows)


def row(atom: Atom, spectrum: Spectrum | None, value: str, seen: Markup) -> Markup:
    """An atom with its number, where it is in the example, and its icons."""
    name = sanitized(atom.id)
    icons = Markup("")
    if spectrum is not None:
        icons = ordered(spectrum)
    return _SPECTRUM.format(name=name, value=value, icons=icons, map=_map(atom, f"{name}: {value}", seen))


def ordered(spectrum: Spectrum) -> Markup:
    """The examples of an atom from the highest to the lowest, each with its number."""
    ranked = Markup(' class="ranked"') if any(icon.place for icon in spectrum.icons) else ""
    icons = Markup("").join(map(_patch if ranked else _icon, spectrum.icons))
    return _ICONS.format(ranked=ranked, name=sanitized(spectrum.atom), icons=icons)


def _map(atom: Atom, what: str, seen: Markup) -> Markup:
    """Where an atom is in the example; nothing for atoms without a map."""
    if atom.map is None:
        return Markup("")
    return _MAP.format(alone="" if seen else " alone", what=what, seen=seen, cells=cells(atom.map))


def _icon(icon: Icon) -> Markup:
    return _ICON.format(shown=_shown(icon), at=PLACES[icon.share], value=plain(icon.value))


def _patch(icon: Icon) -> Markup:
    """What a place sees of an example, what that says alone, and which example it is."""
    label = "" if icon.label is None else f", labelled {icon.label}"
    whole = "" if icon.whole is None else f"; the whole {signed(icon.whole)}"
    return _PATCH.format(shown=_shown(icon), at=sanitized(f"{icon.example}{label}{whole}"), value=signed(icon.value))


def _shown(icon: Icon) -> Markup:
    """The example's picture, its words with the place marked, or its name where the audit shows neither."""
    source = raster(icon.picture)
    if source:
        return _PICTURE.format(source=source, name=sanitized(icon.example))
    return words_of(icon)


def words_of(icon: Icon) -> Markup:
    """An example's words with the place marked, or its name."""
    words = [(_MARK if place == icon.mark else _WORD).format(sanitized(word)) for place, word in enumerate(icon.words)]
    between = _OF_A_TEXT if icon.mark is not None else _OF_A_ROW
    return _WORDS.format(between.join(words) if words else sanitized(icon.example))
