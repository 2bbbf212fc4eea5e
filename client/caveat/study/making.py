"""`caveat study make`: deals a report's pictures and maps out to raters, and writes their forms."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path

from caveat.gate import read_report
from caveat.outputs import writing
from caveat.problems import ProblemError, problem
from caveat.study.folder import (
    FORMS,
    MATERIAL,
    STUDY,
    TEMPLATE,
    TOKENS,
    by_rater,
    require_new,
    template,
    write_secret,
)
from caveat_reports.canonical import canonical
from caveat_reports.study import forms
from caveat_reports.study.dealing import Design, UnfitReportError
from caveat_reports.study.dealing import plan as dealt
from caveat_spec.base import digest_of_bytes
from caveat_spec.report import Report
from caveat_spec.study import Material, Study

TOKEN_BYTES = 18


@dataclass(frozen=True)
class Made:
    """A study that was written."""

    study: Study
    path: Path


def make_study(report: Path, design: Design, path: Path) -> Made:
    """Writes a study about the report into a new folder; raises a `ProblemError` where the report does not allow it."""
    require_new(path)
    study, material = plan(read_report(report), design)
    pages = {
        forms.file_name(sheet.rater, len(study.sheets)): forms.printable(study, material, sheet).encode()
        for sheet in study.sheets
    }
    study = study.model_copy(update={"forms": {name: digest_of_bytes(page) for name, page in pages.items()}})
    with writing(path / STUDY, "Give --output a folder that you may write to."):
        (path / FORMS).mkdir()
        for name, page in pages.items():
            (path / FORMS / name).write_bytes(page)
        (path / MATERIAL).write_bytes(canonical(material))
        (path / TEMPLATE).write_text(template(study), encoding="utf-8", newline="")
        tokens = [secrets.token_urlsafe(TOKEN_BYTES) for _ in study.sheets]
        write_secret(path / TOKENS, by_rater("token", tokens))
        (path / STUDY).write_bytes(canonical(study))  # the last: a folder that has it is complete
    return Made(study, path)


def plan(report: Report, design: Design) -> tuple[Study, Material]:
    """The study of a design and what its raters see; raises a `ProblemError` where the report does not allow it."""
    try:
        return dealt(report, design)
    except UnfitReportError as unfit:
        raise ProblemError(unfit.problem) from None


def consent_in(path: Path) -> str:
    """The text that raters read before they begin, from a file."""
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise problem(
            "unreadable-consent", 422, f"{path} cannot be read: {reason}.", "Name a file of plain text with --consent."
        ) from None
    if not 0 < len(text) <= 10_000:
        raise problem(
            "unreadable-consent", 422, f"{path} has {len(text):,} characters.", "Write between 1 and 10,000 of them."
        )
    return text
