"""The formats that other programs read, held against their published schemas and against what is known of them.

`junit-10.xsd` is the Jenkins xUnit plugin's (MIT, as shipped by pytest); `sarif-2.1.0-rtm.5.json` is the schema as
shipped by @microsoft/jest-sarif (MIT). GitLab publishes no schema for code quality: what its documentation asks for
is written out here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from email.message import Message
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import pytest
from jsonschema import Draft4Validator
from markdown_it import MarkdownIt
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from caveat_reports import gitlab, html, junit, markdown, openmetrics, sarif
from caveat_reports.canonical import digest
from caveat_spec.report import Report, Verdict

SCHEMAS = Path(__file__).parent / "schemas"


@pytest.fixture(scope="session")
def sarif_schema() -> Draft4Validator:
    return Draft4Validator(json.loads((SCHEMAS / "sarif-2.1.0-rtm.5.json").read_text()))


def test_junit_fits_its_schema(report: Report, junit_schema: Any) -> None:
    assert list(junit_schema.iter_errors(junit.render(report))) == []


def test_junit_counts_what_could_not_be_settled_as_an_error(watermark: Report) -> None:
    suite = ElementTree.fromstring(junit.render(watermark).partition("\n")[2]).find("testsuite")
    assert suite is not None
    assert {name: suite.get(name) for name in ("tests", "failures", "errors")} == {
        "tests": "5",
        "failures": "2",
        "errors": "1",
    }
    outcomes = [case[0].tag for case in suite.findall("testcase")]
    assert outcomes == ["failure", "error", "system-out", "failure", "system-out"]


def test_junit_says_how_long_the_audit_took(watermark: Report, junit_schema: Any) -> None:
    timed = junit.render(watermark, seconds=61.25)
    assert list(junit_schema.iter_errors(timed)) == []
    root = ElementTree.fromstring(timed.partition("\n")[2])
    assert [one.get("time") for one in (root, root[0])] == ["61.250", "61.250"]
    assert "time" not in ElementTree.fromstring(junit.render(watermark).partition("\n")[2]).attrib


@pytest.mark.parametrize("module", [html, markdown, junit, sarif, gitlab], ids=lambda module: module.__name__)
def test_a_concept_that_no_layer_encodes_and_a_caution_are_told_in_every_format(
    watermark: Report, module: ModuleType
) -> None:
    line = watermark.verdict.lines[0].model_copy(
        update={"outcome": "inconclusive", "finding": "not_encoded", "caution": "Association says otherwise."}
    )
    judged = watermark.model_copy(update={"verdict": Verdict(outcome="inconclusive", lines=[line])})
    text = module.render(judged)
    assert "Caution: Association says otherwise." in text
    assert module in (junit, gitlab) or re.search("not[ _]encoded", text)


def test_sarif_fits_its_schema(report: Report, sarif_schema: Draft4Validator) -> None:
    document = json.loads(sarif.render(report))
    errors = [error.message for error in sarif_schema.iter_errors({**document, "$schema": SARIF_RTM})]
    assert errors == []


SARIF_RTM = "https://schemastore.azurewebsites.net/schemas/json/sarif-2.1.0-rtm.5.json"


def test_sarif_has_an_alert_for_each_line_that_does_not_hold(watermark: Report) -> None:
    (run,) = json.loads(sarif.render(watermark, audit_file="audits/a b.yaml"))["runs"]
    assert [(one["ruleId"], one["level"]) for one in run["results"]] == [
        ("concept/must-not-matter", "error"),
        ("concept/must-not-matter", "warning"),
        ("group/metric", "error"),
    ]
    places = {one["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for one in run["results"]}
    assert places == {"audits/a%20b.yaml"}
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert all(rules[one["ruleIndex"]] == one["ruleId"] for one in run["results"])


def test_sarif_s_rules_say_what_to_do_and_the_tool_where_it_is_from(
    watermark: Report, monkeypatch: pytest.MonkeyPatch, sarif_schema: Draft4Validator
) -> None:
    published = Message()
    published["Project-URL"] = "Homepage, https://caveat.example/"
    published["Project-URL"] = "Documentation, https://caveat.example/docs"
    monkeypatch.setattr(sarif, "metadata", lambda name: published)
    document = json.loads(sarif.render(watermark))
    assert list(sarif_schema.iter_errors({**document, "$schema": SARIF_RTM})) == []
    driver = document["runs"][0]["tool"]["driver"]
    assert driver["informationUri"] == "https://caveat.example/docs"
    for rule in driver["rules"]:
        assert rule["help"]["markdown"].count("\n- ") >= 2, "steps that a person can take"
        assert rule["shortDescription"]["text"] in rule["help"]["markdown"]
    monkeypatch.setattr(sarif, "metadata", lambda name: Message())
    assert "informationUri" not in json.loads(sarif.render(watermark))["runs"][0]["tool"]["driver"]


def test_a_line_keeps_its_fingerprint_when_its_figures_move(watermark: Report) -> None:
    moved = watermark.model_copy(
        update={
            "verdict": watermark.verdict.model_copy(
                update={"lines": [line.model_copy(update={"reason": "Another."}) for line in watermark.verdict.lines]}
            )
        }
    )

    def prints(report: Report) -> list[str]:
        (run,) = json.loads(sarif.render(report))["runs"]
        return [one["partialFingerprints"]["caveatGateLine/v1"] for one in run["results"]]

    assert prints(watermark) == prints(moved)
    assert len(set(prints(watermark))) == 3


def test_gitlab_gets_what_its_documentation_asks_for(report: Report) -> None:
    issues = json.loads(gitlab.render(report))
    assert len({issue["fingerprint"] for issue in issues}) == len(issues)
    for issue in issues:
        assert issue["description"]
        assert issue["check_name"].startswith("caveat/")
        assert issue["severity"] in {"info", "minor", "major", "critical", "blocker"}
        assert re.fullmatch(r"[^./][^:]*", issue["location"]["path"])
        assert issue["location"]["lines"]["begin"] == 1


def test_a_gate_that_passes_raises_nothing(groups_only: Report) -> None:
    assert json.loads(gitlab.render(groups_only)) == []
    assert json.loads(sarif.render(groups_only))["runs"][0]["results"] == []


def test_openmetrics_is_read_by_prometheus(report: Report) -> None:
    families = {family.name: family for family in text_string_to_metric_families(openmetrics.render(report))}
    effects = families["caveat_effect_sd"].samples if "caveat_effect_sd" in families else []
    assert [sample.value for sample in effects] == [row.effect.in_sd for row in report.associations]


def test_markdown_folds_figures_away_and_names_the_digest(watermark: Report) -> None:
    text = markdown.render(watermark)
    assert text.startswith("## ✗ Fails: audit of model ")
    assert text.count("<details>") == text.count("</details>") == 7
    assert digest(watermark) in text


def test_markdown_makes_tables_of_what_the_report_holds(report: Report) -> None:
    html = MarkdownIt("gfm-like", {"linkify": False}).render(markdown.render(report))
    for table in re.findall("<table>.*?</table>", html, re.S):
        assert {len(re.findall("<t[hd]>", row)) for row in re.findall("<tr>.*?</tr>", table, re.S)} == {
            table.count("<th>")
        }


def test_markdown_lets_no_name_become_markup(hostile: Report) -> None:
    html = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(markdown.render(hostile))
    assert "<script" not in html
    assert "<a " not in html
    assert set(re.findall(r"</?([a-z0-9]+)", html)) <= {
        "h2", "p", "table", "thead", "tbody", "tr", "th", "td", "ul", "ol", "li", "strong", "code", "details",
        "summary",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "render"),
    [
        ("watermark.md", markdown.render),
        ("watermark.junit.xml", junit.render),
        ("watermark.sarif", sarif.render),
        ("watermark.codequality.json", gitlab.render),
        ("watermark.openmetrics.txt", openmetrics.render),
    ],
)
def test_goldens(
    watermark: Report, name: str, render: Callable[[Report], str], golden: Callable[[str, str], str]
) -> None:
    text = render(watermark).replace(digest(watermark), "sha256:of-the-report")
    assert text == golden(name, text)
