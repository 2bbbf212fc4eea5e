"""A report as JUnit XML: one test case a line of the gate; a line that could not be settled is an error, not a pass."""

from __future__ import annotations

from xml.etree import ElementTree

from caveat_reports.canonical import digest
from caveat_reports.diff import sentences, shown_diff
from caveat_reports.summary import Line, explanation, lines, title
from caveat_spec.report import Report
from caveat_spec.sanitize import one_line


def render(report: Report, baseline: Report | None = None, seconds: float | None = None) -> str:
    """One suite, its cases in the order of the gate; what it says at its end tells what moved since a `baseline`.

    A report holds no clock: `seconds` are how long the audit took for whoever ran it. They stand at the suite, because
    no line of the gate has a time of its own.
    """
    cases = lines(report)
    counts = {
        "tests": str(len(cases)),
        "failures": str(sum(case.outcome == "fail" for case in cases)),
        "errors": str(sum(case.outcome == "inconclusive" for case in cases)),
        **({} if seconds is None else {"time": f"{seconds:.3f}"}),
    }
    suites = ElementTree.Element("testsuites", {"name": "caveat", **counts})
    suite = ElementTree.SubElement(suites, "testsuite", {"name": title(report), **counts, "skipped": "0"})
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in _properties(report, baseline).items():
        ElementTree.SubElement(properties, "property", {"name": name, "value": one_line(value)})
    for case in cases:
        _case(suite, case)
    ElementTree.SubElement(suite, "system-out").text = "\n".join(
        map(one_line, [explanation(report), *report.warnings, *_moves(report, baseline)])
    )
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=False).join(
        ['<?xml version="1.0" encoding="UTF-8"?>\n', "\n"]
    )


def _case(suite: ElementTree.Element, case: Line) -> None:
    element = ElementTree.SubElement(
        suite,
        "testcase",
        {"name": f"{case.number}. {one_line(case.subject)}", "classname": "caveat.gate", "time": "0"},
    )
    reason = one_line(case.reason)
    if case.outcome == "fail":
        ElementTree.SubElement(element, "failure", {"type": "gate", "message": reason}).text = reason
    elif case.outcome == "inconclusive":
        message = f"Inconclusive: {reason}"
        ElementTree.SubElement(element, "error", {"type": "inconclusive", "message": message}).text = message
    else:
        ElementTree.SubElement(element, "system-out").text = reason


def _moves(report: Report, baseline: Report | None) -> list[str]:
    if baseline is None:
        return []
    return sentences(report, baseline) + [
        f"{one.figure}: {one.before} before, {one.after} now, {one.change} with noise {one.noise}: {one.verdict}"
        for one in shown_diff(report, baseline)
    ]


def _properties(report: Report, baseline: Report | None) -> dict[str, str]:
    return {
        "model": report.audit.model,
        "report": digest(report),
        "outcome": report.verdict.outcome or "none",
        "caveat": report.engine.caveat,
        "seed": str(report.audit.method.seed),
        **({} if baseline is None else {"baseline": digest(baseline)}),
    }
