"""The files a run leaves behind: the report in every format that was asked for, and GitHub's step summary."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path

from api_spec.report import Report
from caveat.problems import problem

NEEDS_AUDIT_FILE = {"sarif", "gitlab"}
"""Formats whose findings are shown in the audit file."""


def write_outputs(report: Report, canonical: bytes, wanted: dict[str, Path], audit_file: Path | None) -> None:
    """Writes each wanted format to its path; `audit_file` is where code scanning shows what it found."""
    for name, path in wanted.items():
        text = canonical if name == "json" else _shown(report, name, audit_file).encode()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text)
        except OSError as error:
            raise problem(
                "unwritable-output",
                422,
                f"{path} cannot be written: {error.strerror}.",
                f"Give --{name} a path in a folder that you may write to.",
            ) from None


def append_summary(report: Report) -> None:
    """Appends the report to `$GITHUB_STEP_SUMMARY`, where that is set."""
    if path := os.environ.get("GITHUB_STEP_SUMMARY"):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(_shown(report, "markdown", None) + "\n")


def _shown(report: Report, name: str, audit_file: Path | None) -> str:
    """The report in one of the formats, made by the module of that name."""
    render = import_module(f"reports.{name}").render
    where = {"audit_file": Path(os.path.relpath(audit_file)).as_posix()} if audit_file else {}
    text: str = render(report, **where) if name in NEEDS_AUDIT_FILE else render(report)
    return text
