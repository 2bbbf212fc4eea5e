"""pytest: a marker for audits, and one line for each audit at the end of a run, also under xdist.

The plugin is loaded with pytest wherever Caveat is installed, so it imports nothing of Caveat before an audit runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from caveat.result import AuditResult

PROPERTY = "caveat"
"""The property of a test's report that holds the sentence of one of its audits; JUnit files show it too."""


def pytest_configure(config: pytest.Config) -> None:
    """Registers the marker."""
    config.addinivalue_line(
        "markers", "caveat: audits a model; `-m caveat` selects these tests, `-m 'not caveat'` none"
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Notes each audit that a test runs among the test's properties."""
    import caveat.audit_observers as running

    def note(result: AuditResult) -> None:
        item.user_properties.append((PROPERTY, sentence(result)))

    running.observers.append(note)
    try:
        return (yield)
    finally:
        running.observers.remove(note)


def sentence(result: AuditResult) -> str:
    """An audit in one line: its verdict, and how it came about."""
    from caveat_reports import summary

    return f"{summary.headline(result.report)}: {summary.explanation(result.report)}"


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Lists every audit of the run under the test that ran it."""
    said = [
        (report.nodeid, value)
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", None) == "call"
        for key, value in report.user_properties
        if key == PROPERTY
    ]
    if said:
        terminalreporter.section("audits")
    for nodeid, words in said:
        terminalreporter.write_line(f"{nodeid}: {words}")
