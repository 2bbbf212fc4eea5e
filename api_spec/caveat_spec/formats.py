"""The formats of a report: one row each. A format's `render` is in the module of its name in `caveat_reports`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Format:
    """One form that a report can have."""

    name: str
    words: str
    """What it is, after "Write the report as"."""
    media_type: str | None = None
    """How HTTP clients ask for it; null where they cannot."""
    compares: bool = False
    """Whether it shows what moved since a baseline."""
    locates: bool = False
    """Whether its findings point to lines of the audit file."""
    timed: bool = False
    """Whether it says how long the audit took, where that is known."""


FORMATS = (
    Format("json", "canonical JSON, for --report and --baseline", media_type="application/json"),
    Format("html", "a self-contained HTML page", media_type="text/html", compares=True),
    Format("markdown", "Markdown, for comments on a pull request", media_type="text/markdown", compares=True),
    Format(
        "junit",
        "JUnit XML, with a test case for each line of the gate",
        media_type="application/xml",
        compares=True,
        timed=True,
    ),
    Format("sarif", "SARIF 2.1.0, for code scanning", media_type="application/sarif+json", locates=True),
    Format("gitlab", "a GitLab code quality report", locates=True),
    Format("openmetrics", "a GitLab metrics report (OpenMetrics)"),
)
