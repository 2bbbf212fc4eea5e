"""The files a run leaves behind: the report in every format that was asked for, and GitHub's step summary."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any

from api_spec.report import Report
from caveat.document import Positions
from caveat.problems import problem

SHOWN_IN_THE_AUDIT_FILE = {"sarif", "gitlab"}
"""Formats whose findings are shown at lines of the audit file."""
COMPARES = {"html", "junit", "markdown"}
"""Formats that show what moved since a baseline."""


def write_outputs(
    report: Report,
    canonical: bytes,
    wanted: dict[str, Path],
    positions: Positions | None,
    baseline: Report | None,
) -> None:
    """Writes each wanted format to its path; `positions` are where code scanning shows what it found."""
    for name, path in wanted.items():
        write(path, canonical if name == "json" else _shown(report, name, positions, baseline).encode(), name)


def write(path: Path, content: bytes, option: str) -> None:
    """Writes what an option asked for."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        raise problem(
            "unwritable-output",
            422,
            f"{path} cannot be written: {error.strerror}.",
            f"Give --{option} a path in a folder that you may write to.",
        ) from None


def append_summary(report: Report, baseline: Report | None) -> None:
    """Appends the report to `$GITHUB_STEP_SUMMARY`, where that is set."""
    if path := os.environ.get("GITHUB_STEP_SUMMARY"):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(_shown(report, "markdown", None, baseline) + "\n")


def _shown(report: Report, name: str, positions: Positions | None, baseline: Report | None) -> str:
    """The report in one of the formats, made by the module of that name."""
    render = import_module(f"reports.{name}").render
    told: dict[str, Any] = {}
    if name in SHOWN_IN_THE_AUDIT_FILE and positions is not None:
        gate = (positions.of(f"/gate/{line}") for line in range(len(report.audit.gate)))
        told = {
            "audit_file": Path(os.path.relpath(positions.path)).as_posix(),
            "places": [(place.line, place.column) for place in gate],
        }
    if name in COMPARES:
        told = {"baseline": baseline}
    text: str = render(report, **told)
    return text
