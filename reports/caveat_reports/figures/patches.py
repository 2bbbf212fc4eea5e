"""An activation grid: each place of a layer as the part of an example that is most like it, as large as its number."""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt
from zlib import crc32

from markupsafe import Markup

from caveat_reports.figures.icons import words_of
from caveat_reports.figures.map import below
from caveat_reports.formatting import plain, signed
from caveat_spec.explained import Figure, Panel, Patch
from caveat_spec.sanitize import raster, sanitized

UNLIKE = 0.5
"""The cosine below which a patch is drawn pale, because nothing in the set is like the place."""
IN_A_ROW = 14
"""Places without rows and columns."""
_SIDE = 40

_GRID = Markup(
    '<div class="linked patches" role="group" aria-label="{what}"><div class="over all{alone}">{seen}</div>\n'
    '<div class="places">{rows}</div></div>'
)
_PLACE = Markup(
    '<label class="atom{pale}"><input type="radio" name="{group}" aria-label="{name}">{small}'
    '<span class="over">{large}<span class="said">{name}</span></span></label>'
)
_NOTHING = Markup('<span class="atom none"></span>')
_SMALL = Markup(
    '<svg class="patch" viewBox="0 0 40 40" aria-hidden="true" focusable="false">'
    '<image id="{id}" href="{source}" x="{at}" y="{at}" width="{side}" height="{side}" '
    'preserveAspectRatio="xMidYMid slice"/>{sign}</svg>'
)
_LARGE = Markup('<svg viewBox="{at} {at} {side} {side}" aria-hidden="true" focusable="false"><use href="#{id}"/></svg>')
"""The same picture, which the page holds once."""
_BLOCK = Markup(
    '<svg class="patch" viewBox="0 0 40 40" aria-hidden="true" focusable="false">'
    '<rect class="block" x="{at}" y="{at}" width="{side}" height="{side}"/>{sign}</svg>'
)
_SIGN = Markup('<rect class="sign {sign}" x="{at}" y="{at}" width="{side}" height="{side}"/>')
_TOKENS = Markup('<ol class="tokens" aria-label="{what}">\n{rows}</ol>')
_TOKEN = Markup('<li class="{pale}"><span class="word">{word}</span>{block}<span>{value}</span>{like}</li>\n')


def draw(figure: Figure, panel: Panel, key: str) -> Markup:
    """Places in their rows and columns, each a choice that shows its patch large; or a text's tokens in their order."""
    if figure.patches is None:
        return Markup("")
    return _tokens(figure) if figure.words else _places(figure, panel, key)


def _places(figure: Figure, panel: Panel, key: str) -> Markup:
    assert figure.patches is not None, "asked for by whoever calls"
    seen, places = below(panel, key), figure.patches.places
    width = figure.patches.shape[1] if len(figure.patches.shape) == 2 else IN_A_ROW
    group = f"{key}-{crc32(f'{figure.layer} {figure.title}'.encode()):x}"
    drawn = [_place(one, figure, f"{group}-{number}", group) for number, one in enumerate(places)]
    rows = (
        Markup("<div>{}</div>\n").format(Markup("").join(drawn[start : start + width]))
        for start in range(0, len(drawn), width)
    )
    return _GRID.format(
        what=sanitized(f"{figure.title}. {figure.sentence}"),
        alone="" if seen else " alone",
        seen=seen,
        rows=Markup("").join(rows),
    )


def _place(one: Patch, figure: Figure, number: str, group: str) -> Markup:
    """One place: its patch, or a block of its size where the set's examples have no pictures."""
    source = raster(one.like.picture) if one.like is not None else None
    name = sanitized(f"{_where(one)}: {_said(one, figure)}")
    if one.like is None:
        return _NOTHING
    return _PLACE.format(
        pale=" pale" if one.like.value < UNLIKE else "",
        group=group,
        name=name,
        small=_scaled(one, figure, source, number),
        large=_large(one, figure, number) if source else words_of(one.like),
    )


def _square(one: Patch, figure: Figure) -> tuple[str, str]:
    """Where the square begins whose area is a place's share of the scale, down and across, and how long its sides are.

    The least is a point that can still be seen.
    """
    side = max(_SIDE * sqrt(min(abs(one.value) / figure.scale, 1.0)) if figure.scale else 0.0, 1.0)
    return f"{(_SIDE - side) / 2:.2f}", f"{side:.2f}"


def _large(one: Patch, figure: Figure, number: str) -> Markup:
    at, side = _square(one, figure)
    return _LARGE.format(id=number, at=at, side=side)


def _scaled(one: Patch, figure: Figure, source: str | None, number: str = "") -> Markup:
    """A patch, or a block, whose area is its share of the scale."""
    at, length = _square(one, figure)
    sign = _SIGN.format(sign="raises" if one.value > 0 else "lowers", at=at, side=length) if figure.signed else ""
    if source is None:
        return _BLOCK.format(at=at, side=length, sign=sign)
    return _SMALL.format(id=number, source=source, at=at, side=length, sign=sign)


def _where(one: Patch) -> str:
    return f"row {one.place[0] + 1}, column {one.place[1] + 1}" if len(one.place) == 2 else f"place {one.place[0]}"


def _said(one: Patch, figure: Figure) -> str:
    number = (signed if figure.signed else plain)(one.value)
    return number if one.like is None else f"{number}, like {one.like.example} (cosine {one.like.value:.2f})"


def _tokens(figure: Figure) -> Markup:
    """The tokens of a text, each with its size and with the words of the place that it is like."""
    assert figure.patches is not None, "asked for by whoever calls"

    def each() -> Iterator[Markup]:
        for one in figure.patches.places if figure.patches else ():
            yield _TOKEN.format(
                pale="pale" if one.like is not None and one.like.value < UNLIKE else "",
                word=sanitized(figure.words[one.place[0]]),
                block=_scaled(one, figure, None),
                value=(signed if figure.signed else plain)(one.value),
                like="" if one.like is None else words_of(one.like),
            )

    return _TOKENS.format(what=sanitized(figure.title), rows=Markup("").join(each()))
