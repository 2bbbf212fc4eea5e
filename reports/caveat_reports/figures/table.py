"""Atoms as a table of numbers: a presentation of its own, and what stands behind every other one."""

from __future__ import annotations

import json
import re

from markupsafe import Markup

from caveat_reports.formatting import count, plain, signed
from caveat_spec.explained import Atom, Figure, Icon, Icons, Panel, Spectrum
from caveat_spec.sanitize import sanitized

_TABLE = Markup(
    '<div class="scroll" role="region" aria-label="{title}" tabindex="0"><table>\n'
    '<thead><tr><th scope="col">{of}</th>{heads}</tr></thead>\n<tbody>\n{rows}</tbody></table></div>'
)
_HEAD = Markup('<th scope="col" class="number">{}</th>')
_CELL = Markup('<td class="number">{}</td>')
_ADOPT = Markup(
    '<p class="small">To make a concept of what a name responds to, add its examples to <code>examples</code>:</p>\n'
    '<pre class="adopt" tabindex="0"><code>{}</code></pre>'
)
PLACES = {1.0: "highest", 0.75: "75 %", 0.5: "median", 0.25: "25 %", 0.0: "lowest"}
"""How a reader calls a place in the order of a set's examples."""
_ROW = Markup('<tr><th scope="row">{}</th>{}</tr>\n')
NOUNS = {"map": "Place", "strip": "Word", "flow": "From → to", "grid": "From → to", "patches": "Place"}
"""How a reader calls an atom, by the presentation; a name in all others."""


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
    table = _TABLE.format(
        title=sanitized(f"Figures of: {figure.title}, {panel.example}"),
        of=NOUNS.get(figure.presentation, "Name"),
        heads=Markup("").join(_HEAD.format(head) for head in heads),
        rows=Markup("").join(
            _ROW.format(sanitized(name), Markup("").join(_CELL.format(cell) for cell in cells)) for name, cells in rows
        ),
    )
    if figure.atoms_of == "patches" and figure.icons is not None:
        return table + _of_patches(figure.icons)
    both = (one for one in (figure.icons, figure.upper_icons) if one is not None and one.spectra)
    return table + Markup("").join(map(_of_icons, both))


def _of_patches(icons: Icons) -> Markup:
    """Every patch with its example, label, place and evidence."""
    rows = (
        _ROW.format(
            sanitized(icon.example),
            Markup("").join(_CELL.format(sanitized(cell)) for cell in _patch(one.atom, icon)),
        )
        for one in icons.spectra
        for icon in one.icons
    )
    return _TABLE.format(
        title=sanitized(f"Patches of {icons.set}"),
        of="Example",
        heads=Markup("").join(map(_HEAD.format, ("Among", "Label", "Place, from 0", "Evidence", "The whole"))),
        rows=Markup("").join(rows),
    )


def _patch(kind: str, icon: Icon) -> tuple[str, ...]:
    whole = "–" if icon.whole is None else signed(icon.whole)
    return kind, icon.label or "–", ", ".join(map(str, icon.place)), signed(icon.value), whole


def _of_icons(icons: Icons) -> Markup:
    """The examples of every icon with their numbers, and the highest as example sets that an audit can have."""
    rows = (
        _ROW.format(
            sanitized(one.atom),
            Markup("").join(_CELL.format(sanitized(f"{icon.example} ({plain(icon.value)})")) for icon in one.icons),
        )
        for one in icons.spectra
    )
    table = _TABLE.format(
        title=sanitized(f"Examples of {icons.set}"),
        of="Name",
        heads=Markup("").join(_HEAD.format(PLACES[icon.share]) for icon in icons.spectra[0].icons),
        rows=Markup("").join(rows),
    )
    sets = Markup("\n").join(sanitized(adopted(icons, one)) for one in icons.spectra)
    return table + _ADOPT.format(sets)


def adopted(icons: Icons, one: Spectrum) -> str:
    """An audit's example set of the examples that an atom responds to most, in YAML."""
    name = re.sub(r"[^A-Za-z0-9]+", "_", one.atom).strip("_")
    listed = ", ".join(json.dumps(example, ensure_ascii=False) for example in one.highest)
    return f"{name}: {{of: {icons.set}, only: [{listed}]}}"


def _cells(atom: Atom, *, spread: bool, confirmed: bool) -> list[str]:
    cells = [signed(atom.value)]
    if spread:
        cells.append("–" if atom.spread is None else f"{signed(atom.spread[0])} to {signed(atom.spread[1])}")
    if confirmed:
        cells.append("–" if atom.confirmed is None else signed(atom.confirmed))
    return cells
