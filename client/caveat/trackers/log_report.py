"""Logs a report to an experiment tracker, and says in a sentence why it could not."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

from caveat.installation import require
from caveat.problems import problem
from caveat.trackers import TRACKERS
from caveat.trackers.run_record import run_record
from caveat_spec.report import Report

LONGEST_REASON = 300
"""Characters of the first sentence that a tracker says about a failure."""


def require_tracker(name: str) -> None:
    """Raises a `ProblemError` where the tracker is unknown or its package is not installed."""
    if name not in TRACKERS:
        raise problem("no-such-tracker", 422, f"'{name}' is no tracker.", f"Use one of: {', '.join(TRACKERS)}.")
    tracker = TRACKERS[name]
    require(f"Logging to {tracker.words}", tracker.modules, tracker.extra)


def log_report(
    name: str,
    report: Report,
    canonical: bytes,
    seconds: float | None = None,
    written: Mapping[str, Path] | None = None,
) -> str:
    """Logs a report, and the files `written` beside it, to the tracker `name`; says where.

    Raises a `ProblemError` where it could not be logged, or not as a whole.
    """
    require_tracker(name)
    tracker, module = TRACKERS[name], import_module(f"caveat.trackers.{name}")
    record = run_record(report, canonical, seconds, written)
    try:
        return f"{tracker.words}, {without_credentials(module.log(record))}"
    except Exception as error:  # each tracker has its own, and those of the libraries below
        said = without_credentials(str(error)).strip() or type(error).__name__
        reason = re.split(r"(?<=[.!?])\s|\n", said)[0][:LONGEST_REASON].rstrip(".")
        raise problem(
            "tracker-failed",
            503,
            f"The verdict stands, but it could not be logged to {tracker.words} ({reason}).",
            f"{tracker.remedy} `caveat gate --report report.json --log-to {name}` logs a report that --json wrote.",
        ) from error


def without_credentials(words: str) -> str:
    """A text whose URLs have lost user and password."""
    return re.sub(r"(?<=://)[^\s/]*@", "", words)
