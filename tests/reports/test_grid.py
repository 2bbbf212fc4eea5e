"""A grid of two layers on the page: each place can be chosen by hand, key and touch, and its numbers are behind it."""

from __future__ import annotations

from base64 import b64encode
from xml.etree.ElementTree import Element

from caveat_reports import html
from caveat_spec.explained import Atom, Figure, Grid
from caveat_spec.report import Report
from tests.reports.test_html import parsed, text


def small(*levels: int, width: int) -> Grid:
    cells = b64encode(bytes(level % 256 for level in levels)).decode()
    return Grid(shape=(len(levels) // width, width), scale=0.5, cells=cells)


def with_grid(report: Report, **fields: object) -> Report:
    one = report.explanations[0]
    panel = one.panels[0]
    grid = panel.figures[0].model_copy(update={"presentation": "grid", **fields})
    panels = [panel.model_copy(update={"figures": [grid]})]
    return report.model_copy(update={"explanations": [one.model_copy(update={"panels": panels})]})


def atoms_on(page: Element) -> list[Element]:
    return [one for one in page.iter("label") if one.get("class") == "atom"]


def test_each_place_is_a_choice_with_a_name_and_its_map_over_the_example(explained: Report) -> None:
    upper = [
        Atom(id="row 1, column 2", place=[0, 1], value=0.25, map=small(127, 0, 0, -64, width=2)),
        Atom(id="row 2, column 1", place=[1, 0], value=-0.5, map=small(0, 127, 0, 0, width=2)),
    ]
    page = parsed(with_grid(explained, upper=upper, upper_shape=[2, 2]))
    places = next(one for one in page.iter("div") if one.get("class") == "places")
    assert [[cell.get("class") for cell in row] for row in places] == [["atom none", "atom"], ["atom", "atom none"]]
    chosen = [next(one.iter("input")) for one in atoms_on(page)]
    assert [one.get("aria-label") for one in chosen] == ["row 1, column 2: +0.25", "row 2, column 1: \u22120.5"]
    assert {one.get("type") for one in chosen} == {"radio"}
    assert len({one.get("name") for one in chosen}) == 1
    for atom in atoms_on(page):
        pictures = [one.get("src") for one in atom.iter("img")]
        assert len(pictures) == 2
        assert pictures[0] == pictures[1]
    behind = next(one for one in page.iter("details") if next(one.iter("table"), None) is not None)
    assert "All \u2192 row 2, column 1" in text(page)
    assert behind is not None


def test_channels_are_a_table_of_pairs_with_their_numbers(explained: Report) -> None:
    channels = [Atom(id=f"channel {n}", place=[n], value=0.1) for n in (3, 7)]
    upper = [Atom(id="channel 12", place=[12], value=0.3, map=small(127, -127, width=2))]
    page = parsed(with_grid(explained, map=None, atoms=channels, upper=upper, upper_shape=[]))
    (table,) = (one for one in page.iter("table") if one.get("class") == "pairs")
    assert [text(one) for one in table.iter("th")] == ["To \u2193, from \u2192", "channel 3", "channel 7", "channel 12"]
    assert [(text(one), one.get("class")) for one in table.iter("td")] == [
        ("+0.5", "number shade-p6"),
        ("\u22120.5", "number shade-n6"),
    ]


def test_a_page_of_grids_stays_small(explained: Report) -> None:
    cells = small(*([100] * 196), width=14)
    upper = [Atom(id=f"p{n}", place=[n // 14, n % 14], value=0.1, map=cells) for n in range(196)]
    report = with_grid(explained, upper=upper, upper_shape=[14, 14])
    one = report.explanations[0]
    many = [one.panels[0].model_copy(update={"example": f"{n}.png"}) for n in range(16)]
    page = html.render(report.model_copy(update={"explanations": [one.model_copy(update={"panels": many})]}))
    assert len(page) < 5_000_000
    assert "the report has them:" in page


def test_a_figure_is_a_document_that_reads_itself(explained: Report) -> None:
    upper = [Atom(id="p", place=[0, 0], value=0.1, map=small(1, width=1))]
    figure = with_grid(explained, upper=upper, upper_shape=[1, 1]).explanations[0].panels[0].figures[0]
    assert Figure.model_validate_json(figure.model_dump_json()) == figure
