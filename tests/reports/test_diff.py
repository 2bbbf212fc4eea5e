"""What moved since a baseline: the same words in the terminal and in Markdown."""

from __future__ import annotations

import json
from typing import Any
from xml.etree import ElementTree

import html5lib
import pytest

from caveat_reports import diff, gitlab, html, junit, markdown, sarif
from caveat_reports.canonical import digest
from caveat_spec.audit import Audit
from caveat_spec.gate import decide
from caveat_spec.report import ExampleSetSummary, Report
from tests.api_spec import handmade

BASELINE = handmade.report(
    handmade.row(in_sd=0.1, interval=(0.05, 0.15)),
    handmade.row(in_sd=0.0, interval=(-0.05, 0.05), layer="deep"),
    interventions=(handmade.intervention(in_sd=0.2, interval=(0.1, 0.3)),),
    groups=(handmade.group(selection_rate_ratio=0.7),),
)
NOW = handmade.report(
    handmade.row(in_sd=0.12, interval=(0.07, 0.17)),
    handmade.row(in_sd=0.6, interval=(0.5, 0.7), layer="deep", p=0.001),
    interventions=(handmade.intervention(in_sd=-0.3, interval=(-0.4, -0.2)),),
    groups=(handmade.group(selection_rate_ratio=0.72),),
)


def growing() -> Report:
    """`NOW`, with a gate that fails because an effect grew."""
    gate = [{"concept": "mark", "target": "carton", "must": "not_grow"}]
    audit = Audit.model_validate(handmade.AUDIT | {"gate": gate})
    return NOW.model_copy(update={"audit": audit, "verdict": decide(NOW, audit.gate, BASELINE)})


def test_what_moved_most_for_its_noise_comes_first() -> None:
    found = diff.shown_diff(NOW, BASELINE)
    assert [(one.figure, one.verdict) for one in found] == [
        ("effect of mark → carton at deep", "beyond noise"),
        ("intervention of mark → carton", "beyond noise"),
        ("effect of mark → carton at block", "within noise"),
        ("selection rate ratio of race", "within noise"),
    ]
    assert (found[1].before, found[1].after, found[1].change) == ("+0.200", "−0.300", "−0.500")


def test_sentences_say_what_stands_in_the_way() -> None:
    assert diff.sentences(NOW, BASELINE) == [
        "Since the baseline 2 of 4 figures moved beyond noise.",
        "The baseline is of the same model.",
    ]
    other = Audit.model_validate(handmade.AUDIT | {"model": "sha256:" + "9" * 64})
    sets = [ExampleSetSummary(name="photos", source="sha256:" + "1" * 64, count=9, kind="images")]
    now = NOW.model_copy(update={"audit": other, "plan": NOW.plan.model_copy(update={"examples": sets})})
    assert diff.sentences(now, handmade.report()) == [
        "The baseline has no figure in common with this report.",
        "The baseline was made on other examples: photos.",
    ]


def test_markdown_folds_what_is_within_noise() -> None:
    shown = markdown.render(NOW, baseline=BASELINE)
    assert "| effect of mark → carton at deep | 0.000 | +0.600 | +0.600 | ±0.112 | beyond noise |" in shown
    assert "<details><summary>Within noise: 2</summary>" in shown
    assert "beyond noise" not in markdown.render(NOW)


def test_the_page_shows_what_moved_and_folds_what_is_within_noise() -> None:
    page = html.render(NOW, baseline=BASELINE)
    tree = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(page)
    (section,) = [one for one in tree.iter("section") if one.get("id") == "baseline"]
    said = " ".join("".join(section.itertext()).split())
    assert "Since the baseline 2 of 4 figures moved beyond noise. The baseline is of the same model." in said
    assert digest(BASELINE).removeprefix("sha256:")[:8] in said
    (folded,) = section.iter("details")
    hidden = {id(row) for row in folded.iter("tr")}
    rows = [
        [" ".join("".join(cell.itertext()).split()) for cell in row]
        for row in section.iter("tr")
        if id(row) not in hidden
    ]
    assert rows[1] == ["effect of mark → carton at deep", "0.000", "+0.600", "+0.600", "±0.112"]
    assert len(rows) == 3
    assert len(hidden) == 3
    assert 'href="#baseline"' in page
    assert "Since the baseline" not in html.render(NOW)


def test_junit_tells_what_moved(junit_schema: Any) -> None:
    shown = junit.render(NOW, baseline=BASELINE)
    junit_schema.validate(shown)
    suite = ElementTree.fromstring(shown).find("testsuite")
    assert suite is not None
    assert {one.get("name"): one.get("value") for one in suite.iter("property")}["baseline"] == digest(BASELINE)
    said = suite.findtext("system-out", "").splitlines()
    assert "Since the baseline 2 of 4 figures moved beyond noise." in said
    assert "effect of mark → carton at deep: 0.000 before, +0.600 now, +0.600 with noise ±0.112: beyond noise" in said


@pytest.mark.parametrize("render", [html.render, markdown.render, sarif.render, gitlab.render])
def test_every_format_knows_a_line_that_must_not_grow(render: object) -> None:
    assert callable(render)
    assert "must not matter more to carton than in the baseline" in render(growing())


def test_findings_stand_where_the_gates_line_stands() -> None:
    report = growing()
    (result,) = json.loads(sarif.render(report, places=[(12, 5)]))["runs"][0]["results"]
    assert result["ruleId"] == "concept/must-not-grow"
    assert result["locations"][0]["physicalLocation"]["region"] == {"startLine": 12, "startColumn": 5}
    (issue,) = json.loads(gitlab.render(report, places=[(12, 5)]))
    assert issue["location"]["lines"] == {"begin": 12}
