"""Atoms as a table of numbers: a presentation of its own, and what stands behind every other one."""

from __future__ import annotations

from markupsafe import Markup

from caveat_reports.formatting import count, signed
from caveat_spec.explained import Atom, Figure, Panel
from caveat_spec.sanitize import sanitized

_TABLE = Markup(
    '<div class="scroll" role="region" aria-label="{title}" tabindex="0"><table>\n'
    '<thead><tr><th scope="col">{of}</th>{heads}</tr></thead>\n<tbody>\n{rows}</tbody></table></div>'
)
_HEAD = Markup('<th scope="col" class="number">{}</th>')
_CELL = Markup('<td class="number">{}</td>')
_ROW = Markup('<tr><th scope="row">{}</th>{}</tr>\n')
NOUNS = {"map": "Place", "strip": "Word", "flow": "From → to", "grid": "From → to", "bars": "Name", "table": "Name"}


def draw(figure: Figure, panel: Panel, key: str) -> Markup:
    """Every shown atom, what the others are together, and the total."""
    spread, confirmed = (
        any(getattr(atom, field) is not None for atom in figure.atoms) for field in ("spread", "confirmed")
    )
    heads = ["Part", *(["Range"] if spread else []), *(["When removed"] if confirmed else [])]
    empty = ["–"] * (len(heads) - 1)
    rows = [(atom.id, _cells(atom, spread=spread, confirmed=confirmed)) for atom in figure.atoms]
    if figure.rest.count:
        rows.append((f"{count(figure.rest.count)} others together", [signed(figure.rest.sum), *empty]))
    rows += [(f"{link.source} → {link.sink}", [signed(link.value), *empty]) for link in figure.links]
    rows += [(f"All → {atom.id}", [signed(atom.value), *empty]) for atom in figure.upper]
    if figure.total is not None:
        rows.append(("All together", [signed(figure.total), *empty]))
    return _TABLE.format(
        title=sanitized(f"Figures of: {figure.title}, {panel.example}"),
        of=NOUNS[figure.presentation],
        heads=Markup("").join(_HEAD.format(head) for head in heads),
        rows=Markup("").join(
            _ROW.format(sanitized(name), Markup("").join(_CELL.format(cell) for cell in cells)) for name, cells in rows
        ),
    )


def _cells(atom: Atom, *, spread: bool, confirmed: bool) -> list[str]:
    cells = [signed(atom.value)]
    if spread:
        cells.append("–" if atom.spread is None else f"{signed(atom.spread[0])} to {signed(atom.spread[1])}")
    if confirmed:
        cells.append("–" if atom.confirmed is None else signed(atom.confirmed))
    return cells
