"""Signed bars, one for each atom: columns of a table, channels of a layer, concepts."""

from __future__ import annotations

from markupsafe import Markup

from caveat_reports.chart import Scale
from caveat_reports.formatting import signed
from caveat_spec.explained import Atom, Figure, Panel
from caveat_spec.sanitize import sanitized

_BAR = Markup(
    '<li><span class="label">{name}</span>'
    '<svg class="bar-plot" aria-hidden="true" focusable="false">'
    '<line class="zero" x1="50%" x2="50%" y1="0" y2="26"/>'
    '<rect class="{sign}" x="{start}%" y="5" width="{width}%" height="16" rx="2"/>{spread}{confirmed}</svg>'
    '<span class="value">{value}</span></li>\n'
)
_SPREAD = Markup('<line class="whisker" x1="{}%" x2="{}%" y1="13" y2="13"/>')
_CONFIRMED = Markup('<line class="confirmed" x1="{}%" x2="{}%" y1="1" y2="25"/>')


def draw(figure: Figure, panel: Panel, key: str) -> Markup:
    """The bars, on the scale that all examples of the element share."""
    end = figure.scale or 1.0
    bars = Markup("").join(_bar(atom, Scale(-end, end)) for atom in figure.atoms)
    return Markup('<ul class="atoms" aria-label="{}">\n{}</ul>').format(sanitized(figure.title), bars)


def _bar(atom: Atom, scale: Scale) -> Markup:
    span = scale.span((min(0.0, atom.value), max(0.0, atom.value)))
    spread = None if atom.spread is None else scale.span(atom.spread)
    confirmed = None if atom.confirmed is None else scale.at(atom.confirmed)
    return _BAR.format(
        name=sanitized(atom.id),
        sign="raises" if atom.value >= 0 else "lowers",
        start=span.start,
        width=span.width,
        spread=Markup("") if spread is None else _SPREAD.format(spread.start, spread.end),
        confirmed=Markup("") if confirmed is None else _CONFIRMED.format(confirmed, confirmed),
        value=signed(atom.value),
    )
