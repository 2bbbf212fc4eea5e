"""Text that a model chose cannot steer a terminal or a CI system, break out of a table, or become markup or a link."""

from __future__ import annotations

import io
import json
import logging
import re
import unicodedata
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from caveat import terminal
from caveat.console_output import show_note
from caveat.problems import problem
from caveat_reports import gitlab, html, junit, markdown, openmetrics, sarif
from caveat_spec.artifacts import Inspection
from caveat_spec.problem import Fault
from caveat_spec.report import Report
from caveat_spec.sanitize import json_text, log_lines, one_line
from caveat_telemetry import logs

ATTACKS = (
    "\n::error title=forged::text", "\r::add-mask::x", "::stop-commands::x", "  ::debug::x", "##[add-mask]x",
    "##vso[task.setvariable variable=x]y", "##teamcity[x]", "\x1b[2J\x1b[31m", "\x1b]8;;https://evil.example\x07x",
    "\x9b31m", "\x00", "\x08\x08", "\x7f", "\u202egnp.exe", "\u2066", "\u200b", "\u2028", "\x85", "\ud800",
    "\U000e0041", "|", "| a | b |", "\n| --- |", "`", "```\n", "*b*", "_i_", "# h", "- l",
    "[t](https://evil.example)", "![i](x)",
    "<script>", "</td>", "<!--", "]]>", "&amp;", "&#10;", "https://evil.example", "www.evil.example", "%0A::error::x",
    "\\", '"', "'", "{0}", "{{", "}}", "$x$", "~~s~~", "\t", "  ", "ordinary", "模型",
)  # fmt: skip
TEXT = st.lists(st.one_of(st.sampled_from(ATTACKS), st.text(max_size=3)), min_size=1, max_size=4).map("".join)
INVISIBLE = "\u200b\u202e\u2066\ufeff\U000e0041"
REPORTED = TEXT.map(lambda text: text.replace("\ud800", ""))
"""A report is canonical JSON, which has no lone surrogates."""
SIMPLE = "ordinary"
STYLE = re.compile("\x1b\\[[0-9;]*m")
"""What we write ourselves on a terminal."""
FUZZED = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@dataclass(repr=False)
class Held:
    """A report that Hypothesis does not spell out."""

    report: Report


@pytest.fixture(scope="module")
def held(watermark: Report) -> Held:
    return Held(watermark)


def saying(report: Report, text: str) -> Report:
    """A report in which a model, a table and a folder chose `text` wherever they may choose."""
    said: dict[str, Any] = {}
    test = report.associations[0]
    said["tests"] = [
        test.model_copy(
            update={"layer": text, "flags": [one.model_copy(update={"sentence": text}) for one in test.flags]}
        ),
        *report.interventions,
    ]
    said["rankings"] = [
        one.model_copy(
            update={"layer": text, "most": [example.model_copy(update={"example": text}) for example in one.most]}
        )
        for one in report.rankings
    ]
    group = report.comparisons[0]
    rows = [row.model_copy(update={"group": text}) for row in group.rows]
    said["comparisons"] = [group.model_copy(update={"decisions": text, "sensitive": [text], "rows": rows})]
    said["warnings"] = [text]
    targets = [one.model_copy(update={"sentence": text, "unit": text}) for one in report.plan.targets]
    layers = [
        one.model_copy(update={"layer": text, "tensor": text, "operator": text, "shape": [text]})
        for one in report.plan.layers
    ]
    said["plan"] = report.plan.model_copy(update={"targets": targets, "layers": layers})
    lines = [one.model_copy(update={"explanation": f"At {text}.", "subject": text}) for one in report.verdict.lines]
    said["verdict"] = report.verdict.model_copy(update={"lines": lines})
    return report.model_copy(update=said)


def inspection(text: str) -> Inspection:
    """A model that chose its names."""
    tensor = {"name": text, "dtype": "float32", "shape": [text, 3]}
    layer = {
        "tensor": text,
        "operator": text,
        "shape": [text],
        "auditable": False,
        "auto": False,
        "reason": text,
        "depth": 0,
    }
    document = {"inputs": [tensor], "outputs": [tensor], "layers": [layer], "target": text, "warnings": [text]}
    return Inspection.model_validate(document)


def printed(show: Callable[[], None]) -> str:
    """What a command prints to both streams."""
    written = io.StringIO()
    with redirect_stdout(written), redirect_stderr(written):
        show()
    return written.getvalue()


def shown(report: Report, text: str) -> dict[str, str]:
    """Every text for people, by its kind."""
    error = problem("invalid", 422, text, text, [Fault(pointer=text, detail=text)])
    return {
        "verdict": printed(lambda: terminal.show_verdict(report)),
        "problem": printed(lambda: terminal.show_problem(error)),
        "layers": printed(lambda: terminal.show_inspection(inspection(text), every=True)),
        "note": printed(lambda: show_note(text)),
    }


def assert_plain(text: str) -> None:
    """Every character is seen, or is a line feed of ours."""
    unseen = {
        character
        for character in text.replace("\n", "")
        if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
        or character in "\u200b\u202e\u2066\ufeff\U000e0041"
    }
    assert unseen == set(), unseen


def assert_no_command(text: str) -> None:
    for line in text.splitlines():
        assert not line.lstrip().startswith("::"), line
        assert not re.search(r"##(\[|vso\[|teamcity\[)", line), line


@FUZZED
@given(text=TEXT)
@pytest.mark.parametrize("styled", [False, True])
def test_a_terminal_shows_it_as_text(held: Held, text: str, styled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100000")
    if styled:
        monkeypatch.setenv("FORCE_COLOR", "1")
    usual, found = shown(saying(held.report, SIMPLE), SIMPLE), shown(saying(held.report, text), text)
    for kind, said in found.items():
        bare = STYLE.sub("", said) if styled else said
        assert_plain(bare)
        assert_no_command(bare)
        if text.strip():
            assert bare.count("\n") == usual[kind].count("\n"), (kind, said)


@FUZZED
@given(text=REPORTED)
def test_github_hears_the_commands_that_we_write_and_no_other(held: Held, text: str) -> None:
    report = saying(held.report, text)
    said = printed(lambda: terminal.annotate(report, None))
    assert_plain(said)
    lines = said.splitlines()
    levels = [{"fail": "error", "inconclusive": "warning"}.get(line.outcome) for line in report.verdict.lines]
    assert [line.split(" ")[0] for line in lines] == [f"::{level}" for level in levels if level]
    assert all(re.fullmatch(r"::(error|warning) title=[^:,]*::.*", line) for line in lines)


@FUZZED
@given(text=REPORTED)
def test_markdown_makes_no_markup_of_it(held: Held, text: str) -> None:
    def tags(report: Report) -> list[str]:
        rendered = markdown.render(report)
        assert_plain(rendered)
        page = MarkdownIt("gfm-like", {"linkify": False}).render(rendered)
        assert "evil.example" not in "".join(re.findall(r"<[^>]*>", page))
        return re.findall(r"</?([a-z0-9]+)", page)

    said = text if one_line(text).strip() else SIMPLE
    assert tags(saying(held.report, said)) == tags(saying(held.report, SIMPLE))


@FUZZED
@given(text=REPORTED)
def test_files_for_machines_hold_it_as_text(held: Held, text: str) -> None:
    report = saying(held.report, text)
    usual = saying(held.report, SIMPLE)
    for render in (sarif.render, gitlab.render):
        rendered = render(report)
        assert_plain(rendered)
        assert_no_command(rendered)
        assert len(json.loads(rendered)) == len(json.loads(render(usual)))
    messages = [one["message"]["text"] for one in json.loads(sarif.render(report))["runs"][0]["results"]]
    assert not any("](" in message for message in messages)
    found, expected = ([one.tag for one in ElementTree.fromstring(junit.render(of)).iter()] for of in (report, usual))
    assert found == expected
    assert_plain(junit.render(report))
    assert_plain(openmetrics.render(report))
    assert len(list(text_string_to_metric_families(openmetrics.render(report)))) > 0
    page = html.render(report)
    assert_plain(page.replace("\t", ""))
    assert "<script>" not in page


@FUZZED
@given(text=TEXT)
@pytest.mark.parametrize("on_a_terminal", [False, True])
def test_logs_keep_it_on_its_line(text: str, on_a_terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    before = root.handlers, root.level
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: on_a_terminal)
    monkeypatch.setattr("sys.stderr", stream)
    try:
        logs.begin("worker", "info")
        logging.getLogger("caveat").warning("the tensor %s", text, extra={"name_of_it": text})
    finally:
        root.handlers, root.level = before[0], before[1]
        logging.captureWarnings(False)
    said = STYLE.sub("", stream.getvalue())
    assert_plain(said)
    assert said.count("\n") == 1
    if not on_a_terminal:
        assert json.loads(said)["event"] == f"the tensor {text}"  # the escapes keep what it was


@given(text=TEXT)
def test_json_keeps_what_it_was(text: str) -> None:
    serialised = json_text(json.dumps({"name": text}, ensure_ascii=False))
    assert json.loads(serialised) == {"name": text}
    assert_plain(serialised)
    assert_no_command(serialised)


@given(text=TEXT)
def test_a_traceback_keeps_its_lines(text: str) -> None:
    said = log_lines(f"Traceback:\n  File\nValueError: {text}")
    assert_plain(said.replace("\t", ""))
    assert_no_command(said)
