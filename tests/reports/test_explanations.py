"""Explanations on the page, in Markdown and in words: figures that say what they show, and none that failed a check."""

from __future__ import annotations

import struct
import zlib
from base64 import b64decode

import pytest

from caveat_reports import explanations, html, markdown
from caveat_reports.figures.shades import STEPS, picture, shade
from caveat_spec.explained import Atom, Link
from caveat_spec.report import Report
from caveat_spec.sanitize import sanitized
from tests.reports.conftest import HOSTILE, linked
from tests.reports.test_grid import small
from tests.reports.test_html import SVG, parsed, text


def articles(report: Report) -> list[str]:
    section = next(one for one in parsed(report).iter("section") if one.get("id") == "explanations")
    return [text(article) for article in section.iter("article")]


def test_each_question_is_an_article_with_its_rule_and_findings(explained: Report) -> None:
    first, second = articles(explained)
    assert "Why carton" in first
    assert "Of 45 examples of watermarked, the 1 example whose carton differs most." in first
    assert "1 example chosen by name." in second


def test_an_example_is_told_beside_its_match(explained: Report) -> None:
    found = explanations.findings(explained.explanations[0])
    assert found[0] == (
        "Gradient x input: in cat.png the place that differs from its match, 25\u202f% of the picture, has "
        "81\u202f% of the map and comes to +0.9 logit; without the difference the same place has 12\u202f% and "
        "comes to +0.9 logit."
    )
    assert len(found) == 2, "a match has no finding of its own"


def test_a_figure_that_failed_is_its_sentence_and_no_picture(explained: Report) -> None:
    first, _ = articles(explained)
    assert "Not drawn. The parts do not add up to the score: 3.53 of 5.42 is missing." in first
    assert "2 of 5 figures failed a check and are not drawn." in first
    withheld = [one for one in parsed(explained).iter("p") if "not-drawn" in (one.get("class") or "")]
    assert len(withheld) == 2


def test_under_each_figure_stand_its_scale_and_settings(explained: Report) -> None:
    first, second = articles(explained)
    assert "Scale from −0.42 to +0.42 logit a cell, the same for every example here." in first
    assert "The baseline is 0, which is mean grey." in first
    assert "Scale from −1.2 to +1.2 logit, the same for every example here." in second


def test_numbers_are_behind_every_figure_and_nothing_is_dropped(explained: Report) -> None:
    figures = [one for one in parsed(explained).iter("figure") if next(one.iter("details"), None) is not None]
    drawn = [one for one in figures if "Not drawn" not in text(one)]
    assert len(drawn) == 7
    for one in drawn:
        assert next(next(one.iter("details")).iter("table"), None) is not None
        assert "others together" in text(one)


def test_the_strongest_words_carry_their_number(explained: Report) -> None:
    words = next(one for one in parsed(explained).iter("p") if one.get("class") == "words")
    assert len(list(words.iter("sub"))) == 3


def test_ribbons_are_as_wide_as_their_parts_and_stay_on_their_atoms(explained: Report) -> None:
    drawing = next(one for one in parsed(explained).iter(f"{SVG}svg") if one.get("class") == "flow")
    ribbons = list(drawing.iter(f"{SVG}path"))
    widths = [float(one.get("stroke-width")) for one in ribbons]
    assert widths == [pytest.approx(width, abs=0.1) for width in (0.8 * 220 / 1.4, 0.4 * 220 / 1.4, 0.2 * 220 / 1.4)]
    assert [one.get("class") for one in ribbons] == ["ribbon raises", "ribbon lowers", "ribbon raises"]
    assert [text(one) for one in drawing.iter(f"{SVG}text")] == ["channel 3", "channel 4", "channel 12", "channel 9"]
    assert "channel 4 → channel 12−0.4" in articles(explained)[1]


def test_groups_of_two_layers_have_a_map_each_below_their_ribbons(explained: Report) -> None:
    cells = small(127, -127, 0, 64, width=2)
    here, there = (
        [Atom(id=f"group {name}", value=1.5, map=cells) for name in names] for names in (["1", "2"], ["A", HOSTILE])
    )
    links = [Link(source="group 1", sink="group A", value=1.0), Link(source="group 2", sink="group A", value=-0.5)]
    figure = linked().model_copy(update={"atoms": here, "upper": there, "links": links, "atoms_of": "groups"})
    one = explained.explanations[0]
    panel = one.panels[0].model_copy(update={"figures": [figure]})
    report = explained.model_copy(update={"explanations": [one.model_copy(update={"panels": [panel]})]})
    rows = [one for one in parsed(report).iter("div") if one.get("class") == "spectra"]
    assert [one.get("aria-label") for one in rows] == [
        "Where the groups of the earlier layer are",
        "Where those of the later layer are",
    ]
    for row, names in zip(rows, (["1", "2"], ["A", HOSTILE]), strict=True):
        stages = [one for one in row.iter("div") if (one.get("class") or "").startswith("stage")]
        assert [one.get("aria-label") for one in stages] == [f"group {sanitized(name)}: +1.5" for name in names]
    assert "<script>alert" not in html.render(report)


def test_markdown_tells_the_findings_in_words(explained: Report) -> None:
    page = markdown.render(explained)
    assert "**Explanation: why carton**" in page
    assert "has 81" in page


def test_a_map_is_a_picture_of_its_cells() -> None:
    uri = picture([[-127, 0], [64, 127]], 127)
    content = b64decode(uri.partition(",")[2])
    assert struct.unpack(">II", content[16:24]) == (2, 2)
    at = content.index(b"IDAT")
    (length,) = struct.unpack(">I", content[at - 4 : at])
    pixels = zlib.decompress(content[at + 4 : at + 4 + length])
    assert pixels == bytes([0, 0, STEPS, 0, STEPS + 12, 2 * STEPS])


def test_shades_are_even_on_both_sides() -> None:
    assert [shade(part) for part in (-2, -0.5, 0, 0.04, 0.5, 1)] == [
        "shade-n6", "shade-n3", "shade-0", "shade-0", "shade-p3", "shade-p6",
    ]  # fmt: skip


def test_a_report_without_explanations_has_no_section(watermark: Report) -> None:
    assert 'id="explanations"' not in html.render(watermark)


def test_a_picture_is_on_the_page_once_however_many_maps_lie_over_it(explained: Report) -> None:
    source = explained.explanations[0].panels[0].thumbnail
    assert source is not None
    one = explained.explanations[0].model_copy(update={"panels": [explained.explanations[0].panels[0]]})
    page = html.render(explained.model_copy(update={"explanations": [one], "rankings": []}))
    held = page.partition("Save the report")[0]
    assert held.count(source) == 1
    assert 'href="#seen-1-1"' in held


def test_a_page_names_the_examples_that_it_has_no_room_for(explained: Report) -> None:
    first = explained.explanations[0]
    large = [
        first.panels[0].model_copy(
            update={"example": f"{n}.png", "thumbnail": "data:image/png;base64," + "A" * 400_000}
        )
        for n in range(8)
    ]
    page = html.render(explained.model_copy(update={"explanations": [first.model_copy(update={"panels": large})]}))
    assert "the report has them: 4.png, 5.png, 6.png, 7.png." in page
    assert len(page) < 5_000_000
