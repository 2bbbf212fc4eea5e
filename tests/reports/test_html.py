"""The page: self-contained, well-formed, readable by everyone, and inert whatever a model calls its layers."""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from functools import cache
from hashlib import sha256
from importlib.resources import files
from itertools import pairwise
from typing import Any

import html5lib
import pytest

from caveat_reports import html, markdown
from caveat_reports.canonical import canonical, digest
from caveat_spec.report import LayerFindings, Report
from caveat_spec.results import FiniteStep, SpatialMap
from tests.reports.conftest import HOSTILE

SVG = "{http://www.w3.org/2000/svg}"


def parsed(report: Report) -> Any:
    """The page's tree, as a browser builds it; a parse error is an error."""
    return tree_of(html.render(report))


@cache
def tree_of(page: str) -> Any:
    return html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(page)


def text(element: Any) -> str:
    return " ".join("".join(element.itertext()).split())


def outer_svgs(tree: Any) -> list[Any]:
    inner = {id(child) for svg in tree.iter(f"{SVG}svg") for child in svg.iter(f"{SVG}svg") if child is not svg}
    return [svg for svg in tree.iter(f"{SVG}svg") if id(svg) not in inner]


def test_it_is_the_same_page_each_time(report: Report) -> None:
    assert html.render(report) == html.render(report)


def test_ids_are_unique_and_whatever_is_pointed_at_exists(report: Report) -> None:
    tree = parsed(report)
    ids = [element.get("id") for element in tree.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    named = [key for element in tree.iter() for key in (element.get("aria-labelledby") or "").split()]
    linked = [a.get("href")[1:] for a in tree.iter("a") if a.get("href").startswith("#")]
    assert set(named + linked) <= set(ids)


def test_it_loads_nothing_and_runs_nothing(report: Report) -> None:
    tree = parsed(report)
    tags = {element.tag for element in tree.iter() if isinstance(element.tag, str)}
    assert not tags & {"script", "link", "iframe", "object", "embed", "form", "base", "video", "audio", "source"}
    for element in tree.iter():
        names = set(element.attrib)
        assert not {name for name in names if name.startswith("on")}
        assert "style" not in names, "the policy allows no style attribute"
        for name in names & {"href", "src", "action", "{http://www.w3.org/1999/xlink}href"}:
            assert re.match(
                r"#|data:image/(png|jpeg|webp|gif);base64,|data:application/json;base64,", element.get(name)
            )
    style = text(next(tree.iter("style")))
    assert "url(" not in style
    assert "@import" not in style


def test_its_policy_allows_its_own_style_and_pictures_only(watermark: Report) -> None:
    tree = parsed(watermark)
    policy = next(meta.get("content") for meta in tree.iter("meta") if meta.get("http-equiv"))
    style = next(tree.iter("style")).text
    hashed = b64encode(sha256(style.encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{hashed}'; img-src data:; base-uri 'none'; form-action 'none'"
    )


def is_named_picture(element: Any) -> bool:
    """Whether an element is a picture as a whole, with a name, whatever pictures it is made of."""
    return element.get("role") == "img" and bool(element.get("aria-label"))


def test_every_picture_says_what_it_shows(report: Report) -> None:
    tree = parsed(report)
    for svg in outer_svgs(tree):
        if svg.get("aria-hidden") == "true":
            continue
        assert svg.get("role") == "img"
        assert text(svg.find(f"{SVG}title"))
        assert text(svg.find(f"{SVG}desc"))
    named = [one for one in tree.iter() if one.get("aria-hidden") == "true" or is_named_picture(one)]
    parts = {id(image) for one in named for image in one.iter("img")}
    assert all(image.get("alt") or id(image) in parts for image in tree.iter("img"))


def test_a_table_is_behind_every_chart(report: Report) -> None:
    for article in parsed(report).iter("article"):
        if any(svg.get("role") == "img" for svg in article.iter(f"{SVG}svg")):
            details = list(article.iter("details"))
            assert any(next(one.iter("table"), None) is not None for one in details)
            assert all(text(one.find("summary")) for one in details)


def test_headings_descend_one_by_one(report: Report) -> None:
    levels = [int(element.tag[1]) for element in parsed(report).iter() if re.fullmatch("h[1-6]", str(element.tag))]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_tables_have_headed_columns_and_can_be_scrolled_by_keyboard(report: Report) -> None:
    tree = parsed(report)
    assert all(header.get("scope") in {"row", "col"} for header in tree.iter("th"))
    for region in tree.iter("div"):
        if "scroll" in (region.get("class") or "").split():
            assert (region.get("role"), region.get("tabindex")) == ("region", "0")
            assert region.get("aria-label")


def test_the_verdict_comes_first_and_never_by_colour_alone(watermark: Report) -> None:
    tree = parsed(watermark)
    main = next(tree.iter("main"))
    assert text(main[0].find("h1")) == "Fails"
    said = [text(li.find("div")) for li in next(tree.iter("ol")).findall("li")]
    assert said == ["Fails influential", "Fails", "Inconclusive", "Passes not influential", "Passes"]


def test_empty_sections_are_left_out(watermark: Report, one_row: Report, groups_only: Report) -> None:
    def sections(report: Report) -> list[str]:
        return [section.get("id") for section in parsed(report).iter("section") if section.get("id")]

    assert sections(watermark) == [
        "caveats", "concepts", "groups", "examples", "entanglement", "method", "glossary", "provenance",
    ]  # fmt: skip
    assert sections(one_row) == ["caveats", "concepts", "method", "glossary", "provenance"]
    assert sections(groups_only) == ["groups", "method", "glossary", "provenance"]
    for report in (watermark, one_row, groups_only):
        nav = [a.get("href")[1:] for a in next(parsed(report).iter("nav")).iter("a")]
        assert nav == sections(report)


def test_many_pairs_are_summed_up(sixty_rows: Report) -> None:
    tree = parsed(sixty_rows)
    assert len(list(tree.iter("article"))) == 15
    assert "The strongest effect of each concept" in text(next(tree.iter("table")))


def test_names_stay_words(hostile: Report) -> None:
    page = html.render(hostile)
    assert "<script" not in page
    assert "\u202e" not in page
    assert "\x07" not in page
    shown = HOSTILE.replace("\x07", "\ufffd").replace("\u202e", "\ufffd")
    assert shown in text(next(parsed(hostile).iter("main")))


def test_a_thumbnail_that_would_be_fetched_or_could_run_is_left_out(hostile: Report) -> None:
    assert list(parsed(hostile).iter("img")) == []
    assert "evil.example/pixel" not in html.render(hostile)


def test_examples_without_pictures_are_a_list_of_names(hostile: Report, watermark: Report) -> None:
    lists = [ol for ol in parsed(hostile).iter("ol") if ol.get("class") == "ids"]
    assert len(lists) == 2
    assert not [ol for ol in parsed(watermark).iter("ol") if ol.get("class") == "ids"]
    assert len(list(parsed(watermark).iter("img"))) == 32


def test_the_report_can_be_saved_and_is_what_its_digest_says(watermark: Report) -> None:
    tree = parsed(watermark)
    (link,) = [a for a in tree.iter("a") if a.get("download")]
    content = b64decode(link.get("href").partition(",")[2])
    assert content == canonical(watermark)
    assert f"sha256:{sha256(content).hexdigest()}" == digest(watermark)
    assert digest(watermark) in text(tree)
    assert Report.model_validate_json(content, strict=False) == watermark


def test_a_large_report_is_named_but_not_carried(watermark: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html, "DOWNLOAD_LIMIT", 10)
    tree = parsed(watermark)
    assert not [a for a in tree.iter("a") if a.get("download")]
    assert digest(watermark) in text(tree)


def test_a_target_that_does_not_vary_has_no_null_to_draw(watermark: Report) -> None:
    targets = [one.model_copy(update={"sd": 0.0}) for one in watermark.plan.targets]
    constant = watermark.model_copy(update={"plan": watermark.plan.model_copy(update={"targets": targets})})
    plots = [svg for svg in outer_svgs(parsed(constant)) if text(svg.find(f"{SVG}title") or svg).startswith("Effect")]
    assert all(svg.find(f".//{SVG}path") is None for svg in plots)


def test_a_tolerance_in_logits_is_drawn_on_the_scale_of_the_target(watermark: Report) -> None:
    line = watermark.audit.gate[0].model_copy(update={"unit": "logit", "tolerance": 0.8})
    audit = watermark.audit.model_copy(update={"gate": [line, *watermark.audit.gate[1:]]})
    card, *_ = html.cards(watermark.model_copy(update={"audit": audit}))
    band = card.layers[0].effect.band
    assert card.tolerance == "±0.8 logit"
    assert band is not None
    assert band.width == pytest.approx(100 * 0.5 / 2)  # ±0.8 logit are ±0.5 sd, of a scale from -2 to 2


def channel(value: int) -> float:
    part = value / 255
    return part / 12.92 if part <= 0.04045 else float(((part + 0.055) / 1.055) ** 2.4)


def luminance(colour: tuple[float, ...]) -> float:
    return sum(weight * channel(round(part)) for weight, part in zip((0.2126, 0.7152, 0.0722), colour, strict=True))


def contrast(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Contrast ratio of WCAG 2.2."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def themes() -> dict[str, dict[str, tuple[float, ...]]]:
    """The custom colours of each theme, read from the style itself."""
    style = files("caveat_reports").joinpath("templates/report.css").read_text()
    light, dark, printed = re.findall(r":root \{(.*?)\n *\}", style, re.S)

    def colours(block: str) -> dict[str, tuple[float, ...]]:
        found = {}
        for name, value in re.findall(r"--([\w-]+): (#[0-9a-f]{3,6}|\d+, \d+, \d+);", block):
            digits = value[1:] if len(value) == 7 else "".join(digit * 2 for digit in value[1:])
            found[name] = (
                tuple(float(int(digits[i : i + 2], 16)) for i in (0, 2, 4))
                if value.startswith("#")
                else tuple(map(float, value.split(", ")))
            )
        return found

    return {"light": colours(light), "dark": colours(light) | colours(dark), "print": colours(light) | colours(printed)}


@pytest.mark.parametrize("theme", ["light", "dark", "print"])
def test_contrast_is_enough_for_everyone(theme: str) -> None:
    colour = themes()[theme]
    outcomes = ("pass", "fail", "inconclusive", "none")
    words = [(word, ground) for word in ("ink", "soft", "link", *outcomes) for ground in ("paper", "panel")]
    words += [(word, f"{outcome}-tint") for outcome in outcomes for word in ("ink", "soft", outcome)]
    for word, ground in words:
        assert contrast(colour[word], colour[ground]) >= 4.5, f"{word} on {ground}"
    for mark, ground in [
        ("mark", "paper"), ("mark", "null-fill"), ("mark", "band-fill"), ("null-line", "paper"), ("band-line", "paper"),
        ("zero", "paper"), ("bar", "paper"), ("bar-below", "paper"), ("bar", "panel"),
        ("ink", "bar"), ("ink", "bar-below"),
    ]:  # fmt: skip
        assert contrast(colour[mark], colour[ground]) >= 3, f"{mark} on {ground}"
    for shade in ("blue-shade", "orange-shade"):
        blended = tuple(0.43 * over + 0.57 * under for over, under in zip(colour[shade], colour["paper"], strict=True))
        assert contrast(colour["ink"], blended) >= 4.5, shade


def test_a_metric_that_the_gate_asks_about_comes_first(watermark: Report) -> None:
    first, *others = watermark.comparisons
    turned = first.model_copy(update={"metrics": dict(reversed(first.metrics.items()))})
    tree = parsed(watermark.model_copy(update={"comparisons": [turned, *others]}))
    assert [text(term) for term in next(tree.iter("dl")).iter("dt")] == [
        "Selection rate ratio",
        "Conditional selection rate difference",
        "Selection rate difference",
    ]


def test_positions_are_a_map_with_its_strongest_place_in_words(one_row: Report) -> None:
    parts = [0.0] * 400
    parts[21] = -2.0  # second row, second column of 20 x 20: in the first cell of a map of blocks of 2 x 2
    parts[-1] = 0.5
    row = one_row.associations[0].model_copy(update={"spatial_map": SpatialMap(shape=[20, 20], parts=parts)})
    (figure,) = parsed(one_row.model_copy(update={"tests": [row]})).iter("figure")
    cells = [[cell.get("class") for cell in line.iter("td")] for line in figure.iter("tr")]
    assert (len(cells), {len(line) for line in cells}) == (10, {10})
    assert (cells[0][0], cells[-1][-1], cells[4][4]) == ("shade-n6", "shade-p2", "shade-0")
    assert "row 1 of 10, column 1 of 10" in text(figure)


def test_what_rows_do_not_say_alone_is_said(one_row: Report) -> None:
    (row,) = one_row.associations
    asked = one_row.audit.concepts[row.concept].model_copy(update={"controlling_for": ["rust", "dust"]})
    audit = one_row.audit.model_copy(update={"concepts": one_row.audit.concepts | {row.concept: asked}})
    both = LayerFindings(
        concept=row.concept, target=row.target, encoding=[], raising=[], lowering=[], sentence="No layer encodes it."
    )
    report = one_row.model_copy(update={"audit": audit, "layer_findings": [both]})
    for page in (text(parsed(report)), markdown.render(report)):
        assert "Controls for rust and dust: their directions were taken out first. No layer encodes it." in page


def test_a_finite_step_stands_beside_its_slope(one_row: Report) -> None:
    step = FiniteStep(value=3.2, interval=(2.8, 3.6), in_sd=2.0, interval_in_sd=(1.75, 2.25))
    row = one_row.associations[0].model_copy(update={"finite_step": step})
    report = one_row.model_copy(update={"tests": [row]})
    page = text(parsed(report))
    assert "finite step +2.00" in page
    assert "+1.75 to +2.25" in page
    assert "| +2.00 sd |" in markdown.render(report)
    assert "finite step" not in text(parsed(one_row))


def test_two_sensitive_columns_make_a_table_with_every_cell(watermark: Report) -> None:
    cells = [("white", "female", 400), ("white", "male", 1281), ("black", "female", 12)]
    group = watermark.comparisons[0]
    row = group.rows[0]
    rows = [
        row.model_copy(update={"group": f"race={one} and sex={two}", "values": [one, two], "n": n, "small": n < 30})
        for one, two, n in cells
    ]
    crossed = {"sensitive": ["race", "sex"], "rows": rows, "empty": ["race=black and sex=male"]}
    found = watermark.model_copy(update={"comparisons": [group.model_copy(update=crossed)]})
    page, comment = text(parsed(found)), markdown.render(found)
    for shown in (page, comment):
        assert "12 people, few" in shown
        assert "nobody" in shown
        assert "1 of 3 groups has fewer than 30 people (12 in all)" in shown
        assert "Nobody is in race=black and sex=male." in shown
