"""Icons on the page: each with its place in the order and its number, and the sets that make a concept of them."""

from __future__ import annotations

import pytest
import yaml

from caveat_reports import html
from caveat_reports.explanations import scale_words
from caveat_reports.figures.table import adopted
from caveat_spec.explained import Atom, Figure, Icon, Icons, Spectrum
from caveat_spec.report import Report
from tests.reports.conftest import HOSTILE, listed, thumbnail
from tests.reports.test_grid import small
from tests.reports.test_html import parsed, text

SHARES = (1.0, 0.75, 0.5, 0.25, 0.0)


def spectrum(atom: str, **shown: object) -> Spectrum:
    """From 4 down to 0, of examples whose names are to be escaped."""
    icons = [
        Icon(share=share, example=f"{HOSTILE}{place}", position=place, value=4.0 - place, **shown)
        for place, share in enumerate(SHARES)
    ]
    return Spectrum(atom=atom, icons=icons, highest=[HOSTILE, "b: {c}.png"])


def with_icons(report: Report, *spectra: Spectrum) -> Report:
    icons = Icons(
        set="photos", examples=45, measure="activation", unit="activation", sees=(31, 43), spectra=list(spectra)
    )
    atoms = [Atom(id=one.atom, place=[3], value=2.5) for one in spectra]
    figure = listed("icons", ["channel 3"], "channels").model_copy(update={"atoms": atoms, "icons": icons})
    one = report.explanations[0]
    panel = one.panels[0].model_copy(update={"figures": [figure]})
    return report.model_copy(update={"explanations": [one.model_copy(update={"panels": [panel]})]})


def figure_of(report: Report) -> Figure:
    return report.explanations[0].panels[0].figures[0]


def test_every_icon_says_where_in_the_order_it_is_and_its_number(explained: Report) -> None:
    page = parsed(with_icons(explained, spectrum("channel 3", picture=thumbnail(40, 10))))
    (row,) = (one for one in page.iter("div") if one.get("class") == "spectrum")
    assert [text(one) for one in row.iter("li")] == ["highest4", "75 %3", "median2", "25 %1", "lowest0"]
    pictures = [one.get("src") for one in row.iter("img")]
    assert len(pictures) == 5
    assert all(source == thumbnail(40, 10) for source in pictures)


def test_words_mark_the_place_and_nothing_is_markup(explained: Report) -> None:
    page = parsed(with_icons(explained, spectrum("channel 3", words=["the", HOSTILE, "is"], mark=1)))
    marked = list(page.iter("mark"))
    assert len(marked) == 5
    assert "alert('x')" in text(marked[0])
    assert "<script>alert" not in html.render(with_icons(explained, spectrum(HOSTILE)))


def test_examples_without_a_picture_are_named(explained: Report) -> None:
    page = parsed(with_icons(explained, spectrum("channel 3")))
    (row,) = (one for one in page.iter("div") if one.get("class") == "spectrum")
    assert not list(row.iter("img"))
    assert all("alert('x')" in text(one) for one in row.iter("li"))


def test_what_icons_are_stands_under_the_figure(explained: Report) -> None:
    figure = figure_of(with_icons(explained, spectrum("channel 3")))
    assert scale_words(figure, "logit") == (
        "Icons: of 45 examples of photos, in the order of their activation. Each shows the 31 x 43 pixels that the "
        "strongest place sees."
    )


def test_the_set_to_adopt_is_yaml_whatever_the_names(explained: Report) -> None:
    icons = figure_of(with_icons(explained, spectrum("channel 3"))).icons
    assert icons is not None
    read = yaml.safe_load(adopted(icons, spectrum("channel 3")).replace("\x07", "").replace("\u202e", ""))
    assert read["channel_3"]["of"] == "photos"
    assert read["channel_3"]["only"][1] == "b: {c}.png"


@pytest.mark.parametrize("count", [1, 8])
def test_numbers_are_behind_the_icons(explained: Report, count: int) -> None:
    page = parsed(with_icons(explained, *(spectrum(f"channel {n}") for n in range(count))))
    behind = next(one for one in page.iter("details") if next(one.iter("pre"), None) is not None)
    tables = [*behind.iter("table")]
    assert len(tables) == 2
    assert text(tables[1]).startswith("Namehighest75 %median25 %lowest channel 0")


def test_a_group_is_a_map_over_the_example_without_icons(explained: Report) -> None:
    figure = figure_of(with_icons(explained, spectrum("group 1")))
    cells = small(127, -127, 0, 64, width=2)
    atoms = [figure.atoms[0].model_copy(update={"map": cells, "id": f"group {n}"}) for n in (1, 2)]
    figure = figure.model_copy(update={"icons": None, "atoms": atoms, "atoms_of": "groups"})
    one = explained.explanations[0]
    panel = one.panels[0].model_copy(update={"figures": [figure]})
    page = parsed(explained.model_copy(update={"explanations": [one.model_copy(update={"panels": [panel]})]}))
    rows = [one for one in page.iter("div") if one.get("class") == "spectrum"]
    assert len(rows) == 2
    for row in rows:
        stage = next(one for one in row.iter("div") if one.get("class") == "stage")
        assert next(stage.iter("img")).get("src", "").startswith("data:image/png")
        assert not list(row.iter("ol"))
    assert scale_words(figure, "logit") == ""
