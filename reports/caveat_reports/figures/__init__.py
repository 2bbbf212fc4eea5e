"""How figures are drawn: one presentation a file, each a function from a figure to HTML without script or style."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from markupsafe import Markup

from caveat_spec.explain import Presentation
from caveat_spec.explained import Figure, Panel

PRESENTATIONS: dict[Presentation, str] = {
    "map": "caveat_reports.figures.map",
    "bars": "caveat_reports.figures.bars",
    "flow": "caveat_reports.figures.flow",
    "grid": "caveat_reports.figures.grid",
    "icons": "caveat_reports.figures.icons",
    "patches": "caveat_reports.figures.patches",
    "colours": "caveat_reports.figures.colours",
    "strip": "caveat_reports.figures.strip",
    "table": "caveat_reports.figures.table",
}
"""Presentation → the module whose `draw` shows it."""


def draw(figure: Figure, panel: Panel, key: str) -> Markup:
    """A figure as its presentation shows it; the page has the example's picture under `key`."""
    module = import_module(PRESENTATIONS[figure.presentation])
    drawn: Callable[[Figure, Panel, str], Markup] = module.draw
    return drawn(figure, panel, key)
