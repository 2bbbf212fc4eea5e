"""Activation grids and colours on the page: areas are numbers, each place can be chosen, and colours can be read."""

from __future__ import annotations

import struct
import zlib
from base64 import b64decode
from xml.etree.ElementTree import Element

import pytest

from caveat_reports.explanations import scale_words
from caveat_reports.figures.shades import mixed, mixture
from caveat_spec.explained import Atom, Figure, Icon, Patch, Patches
from caveat_spec.report import Report
from tests.reports.conftest import HOSTILE, listed, thumbnail
from tests.reports.test_grid import small
from tests.reports.test_html import parsed, text


def like(cosine: float, **shown: object) -> Icon:
    return Icon(share=1.0, example=HOSTILE, position=4, value=cosine, **shown)


def with_patches(report: Report, places: list[Patch], shape: list[int], **fields: object) -> Report:
    patches = Patches(set="photos", examples=45, shape=shape, sees=(31, 43), places=places)
    figure = listed("patches", ["row 1, column 1"], "positions").model_copy(
        update={"patches": patches, "scale": 4.0, **fields}
    )
    return with_figure(report, figure)


def with_figure(report: Report, figure: Figure) -> Report:
    one = report.explanations[0]
    panel = one.panels[0].model_copy(update={"figures": [figure]})
    return report.model_copy(update={"explanations": [one.model_copy(update={"panels": [panel]})]})


def svg(element: Element, kind: str) -> list[Element]:
    return [one for one in element.iter() if one.tag.rpartition("}")[2] == kind]


def test_the_area_of_a_patch_is_its_number_and_hover_shows_it_large(explained: Report) -> None:
    picture = thumbnail(40, 10)
    places = [
        Patch(place=[0, 0], value=4.0, like=like(0.9, picture=picture)),
        Patch(place=[0, 1], value=1.0, like=like(0.3, picture=picture)),
        Patch(place=[1, 0], value=-2.0, like=like(0.8, picture=picture)),
        Patch(place=[1, 1], value=0.0, like=None),
    ]
    page = parsed(with_patches(explained, places, [2, 2]))
    (grid,) = (one for one in page.iter("div") if one.get("class") == "places")
    kinds = [[cell.get("class") for cell in row] for row in grid]
    assert kinds == [["atom", "atom pale"], ["atom", "atom none"]]
    images = svg(grid, "image")
    sides = [float(one.get("width", "")) for one in images]
    areas = [side**2 / sides[0] ** 2 for side in sides]
    assert areas == pytest.approx([1, 0.25, 0.5], abs=1e-3)
    ids = [one.get("id") for one in images]
    assert len(set(ids)) == 3
    assert [one.get("href") for one in svg(grid, "use")] == [f"#{one}" for one in ids]
    assert [one.get("class") for one in svg(grid, "rect")] == ["sign raises", "sign raises", "sign lowers"]
    names = [one.get("aria-label") for one in grid.iter("input")]
    assert names[2].startswith("row 2, column 1: −2, like ")
    assert "(cosine 0.80)" in names[2]
    assert "whole square is 4 logit" in text(page)
    assert "31 x 43 pixels" in text(page)


def test_places_without_pictures_are_blocks_with_the_name_of_what_they_are_like(explained: Report) -> None:
    page = parsed(with_patches(explained, [Patch(place=[0, 0], value=4.0, like=like(0.9))], [1, 1], signed=False))
    (grid,) = (one for one in page.iter("div") if one.get("class") == "places")
    assert [one.get("class") for one in svg(grid, "rect")] == ["block"]
    (said,) = (one for one in grid.iter("span") if one.get("class") == "words")
    assert "script" in text(said), "the name is there, as text"


def test_a_text_is_a_list_of_its_words(explained: Report) -> None:
    places = [Patch(place=[k], value=4.0 / (k + 1), like=like(0.9 - k / 2, words=["a", "b"], mark=1)) for k in range(2)]
    page = parsed(with_patches(explained, places, [2], words=["no", HOSTILE], signed=False))
    (tokens,) = (one for one in page.iter("ol") if one.get("class") == "tokens")
    assert [text(one) for one in tokens.iter("mark")] == ["b", "b"]
    assert [one.get("class") for one in tokens] == ["", "pale"]
    assert text(tokens[0]).startswith("no4")


def pixels(source: str) -> list[tuple[int, ...]]:
    """The colours of a PNG of one row."""
    content = b64decode(source.partition(",")[2])
    start = content.index(b"IDAT") + 4
    (length,) = struct.unpack(">I", content[start - 8 : start - 4])
    line = zlib.decompress(content[start : start + length])[1:]
    return [tuple(line[i : i + 3]) for i in range(0, len(line), 3)]


def test_colours_mix_three_components_and_nothing_is_grey() -> None:
    drawn = mixed([[127, 0, -127]], [[0, 0, -127]], [[0, 0, 127]], 127)
    assert pixels(drawn) == [(255, 128, 128), (128, 128, 128), (1, 1, 255)]
    assert mixture(0, 127, 0, 127) == (128, 255, 128)


def components(*, width: int, **fields: object) -> Figure:
    atoms = [
        Atom(id=f"component {k + 1}", place=[k], value=0.4 / (k + 1), map=small(127, -127, 0, 64, width=width))
        for k in range(3)
    ]
    shown = {"atoms": [atoms[1], atoms[0], atoms[2]], "signed": False, "unit": "of the variance", **fields}
    return listed("colours", ["component 1"], "components").model_copy(update=shown)


def test_the_legend_says_how_much_each_colour_is(explained: Report) -> None:
    page = parsed(with_figure(explained, components(width=2)))
    (legend,) = (one for one in page.iter("ul") if one.get("class") == "legend")
    assert [text(one).strip() for one in legend] == ["component 1: 40 %", "component 2: 20 %", "component 3: 13 %"]
    fills = [one.get("fill") for one in svg(legend, "rect")]
    assert fills == ["#ff8080", "#80ff80", "#8080ff"]
    assert "grey is the mean" in scale_words(components(width=2), "logit")


def test_words_stand_over_their_colours(explained: Report) -> None:
    page = parsed(with_figure(explained, components(width=4, words=["not", "very", HOSTILE, "good"])))
    (words,) = (one for one in page.iter("p") if one.get("class") == "words toned")
    assert text(words).startswith("not very ")
    assert len({one.get("fill") for one in svg(words, "rect")}) == 4
