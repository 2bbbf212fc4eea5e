"""A map over what the model sees: blue places raise the number, orange ones lower it."""

from __future__ import annotations

from markupsafe import Markup

from caveat_reports.figures.shades import picture
from caveat_spec.explained import LEVELS, Figure, Grid, Panel
from caveat_spec.sanitize import raster, sanitized

_BELOW = Markup(
    '<svg class="below" viewBox="0 0 224 224" aria-hidden="true" focusable="false"><use href="#{key}"/></svg>'
)
"""The example's picture, which the page holds once however many maps lie over it."""
_CELLS = Markup('<img class="cells" src="{source}" alt="" width="{width}" height="{height}">')
_STAGE = Markup('<div class="stage{alone}" role="img" tabindex="0" aria-label="{what}">{seen}{cells}</div>')


def below(panel: Panel, key: str) -> Markup:
    """The example's picture under a map; empty where it has none."""
    return _BELOW.format(key=key) if raster(panel.thumbnail) else Markup("")


def cells(grid: Grid) -> Markup:
    """A grid as a picture, one point for each cell."""
    height, width = grid.shape
    return _CELLS.format(source=picture(grid.rows(), LEVELS), width=width, height=height)


def draw(figure: Figure, panel: Panel, key: str) -> Markup:
    """The map as a picture over the example's, which hover and focus uncover; alone where there is none."""
    assert figure.map is not None, "a figure that is drawn as a map has one"
    seen = below(panel, key)
    return _STAGE.format(
        alone="" if seen else " alone",
        what=sanitized(f"{figure.title}. {figure.sentence}"),
        seen=seen,
        cells=cells(figure.map),
    )
