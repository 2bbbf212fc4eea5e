"""Writes what a command was asked to write: the report in the requested formats, GitHub's step summary, models."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from caveat.pack import Archive, Content
from caveat.positions import Positions
from caveat.problems import problem
from caveat_spec.formats import FORMATS
from caveat_spec.report import Report

LOCATED = {form.name for form in FORMATS if form.locates}
COMPARING = {form.name for form in FORMATS if form.compares}
TIMED = {form.name for form in FORMATS if form.timed}


def write_outputs(
    report: Report,
    canonical: bytes,
    wanted: dict[str, Path],
    positions: Positions | None,
    baseline: Report | None,
    seconds: float | None = None,
) -> None:
    """Writes each wanted format to its path; `positions` locate the gate's lines for code scanning.

    `seconds` are how long the audit took, if it ran now.
    """
    for name, path in wanted.items():
        content = canonical if name == "json" else rendered(report, name, positions, baseline, seconds).encode()
        write(path, content, name)


def write(path: Path, content: bytes, option: str) -> None:
    """Writes a file that an option names, and the folders it is in."""
    with writing(path, f"Give --{option} a path in a folder that you may write to."):
        path.write_bytes(content)


@contextmanager
def writing(path: Path, remedy: str = "Give --write another path.") -> Iterator[None]:
    """Makes the folders that an output is in, and raises what the system says about it as a `ProblemError`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise problem("unwritable-output", 422, f"{path} cannot be written: {error.strerror}.", remedy) from None


def keep_apart(path: Path, model: Content) -> None:
    """Raises a `ProblemError` where writing a model would replace the one it is made of, or one of its data files."""
    files = model.files.values() if isinstance(model, Archive) else [model]
    if {path.resolve(), Path(f"{path}.data").resolve()} & {file.resolve() for file in files}:
        raise problem(
            "unwritable-output",
            422,
            f"Writing {path} would replace the model, or the file with its weights.",
            "Give --write another path.",
        )


def append_summary(report: Report, baseline: Report | None) -> None:
    """Appends the report as Markdown to `$GITHUB_STEP_SUMMARY`, if that is set."""
    if path := os.environ.get("GITHUB_STEP_SUMMARY"):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(rendered(report, "markdown", None, baseline) + "\n")


def rendered(
    report: Report,
    name: str,
    positions: Positions | None,
    baseline: Report | None,
    seconds: float | None = None,
) -> str:
    """The report in one format, rendered by the module of that name."""
    render = import_module(f"caveat_reports.{name}").render
    options: dict[str, Any] = {}
    if name in LOCATED and positions is not None:
        gate = (positions.of(f"/gate/{line}") for line in range(len(report.audit.gate)))
        options = {
            "audit_file": Path(os.path.relpath(positions.path)).as_posix(),
            "places": [(place.line, place.column) for place in gate],
        }
    if name in COMPARING:
        options = {"baseline": baseline}
    if name in TIMED:
        options["seconds"] = seconds
    text: str = render(report, **options)
    return text
