"""What is logged of a report: tags, figures by name, and files; the same for every tracker."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfile

import rfc8785

from caveat.outputs import rendered
from caveat_reports import summary
from caveat_reports.samples import samples
from caveat_spec.base import digest_of_bytes
from caveat_spec.report import Report

LONGEST_NAME = 240
"""Characters of a figure's name; MLflow takes 250."""
LONGEST_DESCRIPTION = 2000
"""Characters of the description, which are at most 8,000 bytes; MLflow takes 8,000."""
OWN_FORMATS = {"json", "html"}
"""The formats that are logged whether or not the command writes them."""


@dataclass(frozen=True)
class RunRecord:
    """A report as a run of a tracker."""

    name: str
    description: str
    """The verdict, and each line of the gate in a sentence."""
    tags: dict[str, str]
    """The verdict, and digests of model, audit and report."""
    metrics: dict[str, float]
    contents: dict[str, bytes]
    """Files by name: `report.json` has the canonical bytes, `report.html` the page."""
    files: dict[str, Path]
    """Further files by name, which the command has written."""


def run_record(
    report: Report, canonical: bytes, seconds: float | None = None, written: Mapping[str, Path] | None = None
) -> RunRecord:
    """What is logged of a report, of the seconds that its audit took, and of the files `written` beside it.

    `written` has the files by the options that named them.
    """
    digests = {"audit": rfc8785.dumps(report.audit.model_dump(mode="json")), "report": canonical}
    tags = {
        "caveat.verdict": report.verdict.outcome or "none",
        "caveat.model": report.audit.model,
        **{f"caveat.{name}": digest_of_bytes(content) for name, content in digests.items()},
        "caveat.version": report.engine.caveat,
    }
    contents = {"report.json": canonical, "report.html": rendered(report, "html", None, None).encode()}
    further = {option: path for option, path in (written or {}).items() if option not in OWN_FORMATS}
    taken = set(contents)
    files = {_unique(path.name, taken): path for path in further.values()}
    return RunRecord(
        f"Caveat: {summary.headline(report)}", _description(report), tags, _metrics(report, seconds), contents, files
    )


def write_files(record: RunRecord, folder: Path) -> None:
    """Writes every file of a record into a folder, which it makes."""
    folder.mkdir()
    for name, content in record.contents.items():
        (folder / name).write_bytes(content)
    for name, path in record.files.items():
        copyfile(path, folder / name)


def _description(report: Report) -> str:
    lines = (f"{summary.OUTCOME_SIGN[one.outcome]} {one.subject}: {one.reason}" for one in summary.lines(report))
    return "\n\n".join([f"{summary.headline(report)}: {summary.explanation(report)}", *lines])[:LONGEST_DESCRIPTION]


def _metrics(report: Report, seconds: float | None) -> dict[str, float]:
    """Every figure by its family and its labels: `caveat_effect_sd/striped/zebra/block15`."""
    taken: set[str] = set()
    found = {
        _unique("/".join([family, *map(_part, labels.values())])[:LONGEST_NAME], taken): value
        for family, labels, value in samples(report)
    }
    return found if seconds is None else {**found, "caveat_audit_seconds": seconds}


def _part(label: str) -> str:
    """A label as a part of a figure's name: letters, digits, spaces and `_.-`, which every tracker takes."""
    words = re.sub(r"[^\w.\- ]+", "_", label).strip("_ ")
    return words if words.strip(".") else words + "_"


def _unique(name: str, taken: set[str]) -> str:
    """The name, with a number where another one is called so; it is taken from then on."""
    found, number = name, 2
    while found in taken:
        found, number = f"{name}-{number}", number + 1
    taken.add(found)
    return found
