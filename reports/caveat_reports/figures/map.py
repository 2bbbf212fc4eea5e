"""A map over what the model sees: blue places raise the number, orange ones lower it."""

from __future__ import annotations

from markupsafe import Markup

from caveat_reports.figures.shades import picture
from caveat_spec.explained import LEVELS, Figure, Panel
from caveat_spec.sanitize import raster, sanitized

_BELOW = Markup(
    '<svg class="below" viewBox="0 0 224 224" aria-hidden="true" focusable="false"><use href="#{key}"/></svg>'
)
"""The example's picture, which the page holds once however many maps lie over it."""


def below(key: str) -> Markup:
    """The example's picture under a map."""
    return _BELOW.format(key=key)


def draw(figure: Figure, panel: Panel, key: str) -> Markup:
    """The map as a picture over the example's, which hover and focus uncover; alone where there is none."""
    assert figure.map is not None, "a figure that is drawn as a map has one"
    there = raster(panel.thumbnail)
    seen = below(key) if there else Markup("")
    height, width = figure.map.shape
    return Markup(
        '<div class="stage{alone}" role="img" tabindex="0" aria-label="{what}">{seen}'
        '<img class="cells" src="{cells}" alt="" width="{width}" height="{height}"></div>'
    ).format(
        alone="" if there else " alone",
        what=sanitized(f"{figure.title}. {figure.sentence}"),
        seen=seen,
        cells=picture(figure.map.rows(), LEVELS),
        width=width,
        height=height,
    )
