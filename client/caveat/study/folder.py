"""The files of a study: what each is called, and how it is read again."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from caveat.problems import ProblemError, problem
from caveat_reports.study.table import rating_row, rows
from caveat_spec.base import Document, digest_of_bytes
from caveat_spec.study import COLUMNS, Material, Study

STUDY, MATERIAL, TOKENS, LINKS, TEMPLATE, ANSWERS, FORMS = (
    "study.json", "material.json", "tokens.csv", "links.csv", "ratings.csv", "answers.csv", "forms",
)  # fmt: skip
Read = TypeVar("Read", bound=Document)
_TOKEN = re.compile(r"[A-Za-z0-9_-]{20,}")


@dataclass(frozen=True)
class StudyFolder:
    """A study that was read, and where it lies."""

    path: Path
    study: Study
    digest: str
    """Of the file that describes it."""

    @property
    def answers(self) -> Path:
        """Where served forms leave their answers."""
        return self.path / ANSWERS

    @property
    def template(self) -> Path:
        """The file of ratings that somebody fills from paper."""
        return self.path / TEMPLATE


def open_study(path: Path) -> StudyFolder:
    """Reads the study in a folder; raises a `ProblemError` where there is none."""
    content = _bytes(path / STUDY, path)
    return StudyFolder(path, _document(Study, content, path / STUDY), digest_of_bytes(content))


def material_of(folder: StudyFolder) -> Material:
    """What raters see, compared with the digest that the study names."""
    place = folder.path / MATERIAL
    content = _bytes(place, folder.path)
    if digest_of_bytes(content) != folder.study.material:
        raise problem(
            "material-changed",
            422,
            f"{place} is not the file that was made with the study: its digest is another one.",
            "Restore it, or make the study again in a new folder; ratings of other pictures do not belong together.",
        )
    return _document(Material, content, place)


def template(study: Study) -> str:
    """A file of ratings with a row for every task, whose ratings are to be filled in."""
    asked = [
        rating_row(study, sheet.rater, number) for sheet in study.sheets for number in range(1, len(sheet.tasks) + 1)
    ]
    return rows([COLUMNS, *asked])


def by_rater(column: str, secrets: Sequence[str]) -> str:
    """A file with a secret of each rater, in their order."""
    return rows([("rater", column), *enumerate(secrets, 1)])


def write_secret(path: Path, text: str) -> None:
    """Writes a file that only its owner reads; one that is there is replaced."""
    path.unlink(missing_ok=True)
    opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(opened, "w", encoding="utf-8", newline="") as file:
        file.write(text)


def require_new(path: Path) -> None:
    """Raises a `ProblemError` for a folder that has something in it: it may be somebody's ratings."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise problem(
            "study-exists",
            422,
            f"{path} exists and is not an empty folder.",
            "Give --output another folder; a study is never written over, because ratings may belong to it.",
        )


def raters_by_token(folder: StudyFolder) -> dict[str, int]:
    """Token of a link → its rater; raises a `ProblemError` for a file that is not the study's."""
    place = folder.path / TOKENS
    try:
        found = list(csv.DictReader(io.StringIO(_bytes(place, folder.path).decode())))
        tokens = {one["token"]: int(one["rater"]) for one in found}
    except (KeyError, TypeError, ValueError, csv.Error):
        tokens = {}
    if sorted(tokens.values()) != [sheet.rater for sheet in folder.study.sheets] or not all(
        _TOKEN.fullmatch(token) for token in tokens
    ):
        raise problem(
            "tokens-changed",
            422,
            f"{place} does not have one token of at least 20 characters for each rater of the study.",
            "Restore the file that `caveat study make` wrote.",
        )
    return tokens


def _bytes(file: Path, folder: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise problem(
            "no-study",
            422,
            f"{folder} is not a study: {file.name} cannot be read: {error.strerror}.",
            "Name a folder that `caveat study make report.json -o FOLDER` wrote.",
        ) from None


def _document(kind: type[Read], content: bytes, file: Path) -> Read:
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        raise _not_a_study(file, error) from None


def _not_a_study(file: Path, error: ValidationError) -> ProblemError:
    first = error.errors()[0]
    pointer = "".join(f"/{part}" for part in first["loc"])
    return problem(
        "no-study",
        422,
        f"{file} is not of a study of this version of Caveat: {pointer or 'the file'}: {first['msg']}.",
        "Restore the file that `caveat study make` wrote, or make the study again.",
    )
