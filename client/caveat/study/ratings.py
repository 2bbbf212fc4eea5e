"""Files of ratings, row by row: what is taken, and why each other row is not."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from caveat.problems import problem
from caveat_spec.sanitize import one_line
from caveat_spec.study import (
    RATINGS,
    Answer,
    InvalidRating,
    RefusedRow,
    Study,
    answer_in,
    quoted,
    rating_in,
)

NEEDED = ("rater", "task", *RATINGS)
LARGEST_FILE = 50_000_000


@dataclass
class Ratings:
    """What was taken of all files, by rater and number of the task."""

    answers: dict[tuple[int, int], Answer] = field(default_factory=dict)
    refused: list[RefusedRow] = field(default_factory=list)
    places: dict[tuple[int, int], str] = field(default_factory=dict)
    """Where each answer was read."""


def read_ratings(path: Path, study: Study, into: Ratings) -> int:
    """Reads a file into what was read before; returns how many rows it took."""
    taken = 0
    for line, row in _rows(path):
        if not any(row.get(name, "").strip() for name in RATINGS):
            continue  # a task of the template that nobody has filled
        try:
            key, answer = _answer(row, study)
            before = into.answers.get(key)
            if before is not None:
                same = "the same numbers" if before == answer else "other numbers"
                raise InvalidRating(
                    f"rater {key[0]} has answered task {key[1]} in {into.places[key]}, with {same}; the first is kept"
                )
        except InvalidRating as reason:
            into.refused.append(RefusedRow(file=one_line(path.name), line=line, reason=str(reason)))
            continue
        into.answers[key] = answer
        into.places[key] = f"line {line} of {one_line(path.name)}"
        taken += 1
    return taken


def _answer(row: Mapping[str, str], study: Study) -> tuple[tuple[int, int], Answer]:
    """Whose answer a row is, and to which task; raises `InvalidRating`."""
    if row.get("…"):
        raise InvalidRating("it has more cells than the file has columns")
    rater, number = _key(row, study)
    task = study.sheets[rater - 1].tasks[number - 1]
    for name, wanted in {"class": task.of, "map": task.map, "model": study.model}.items():
        said = row.get(name, "").strip()
        if said and said != wanted:
            raise InvalidRating(f"{name} is {quoted(said)}, and task {number} of rater {rater} is about {wanted}")
    answer, faults = answer_in(row)
    if answer is None:
        raise InvalidRating("; ".join(faults.values()))
    return (rater, number), answer


def _key(row: Mapping[str, str], study: Study) -> tuple[int, int]:
    try:
        rater = rating_in(row["rater"], "rater", len(study.sheets))
    except InvalidRating:
        said = row["rater"].strip()
        raise InvalidRating(
            f"the study has no rater {quoted(said)}; they are 1 to {len(study.sheets)}" if said else "rater is missing"
        ) from None
    tasks = len(study.sheets[rater - 1].tasks)
    return rater, rating_in(row["task"], "task", tasks)


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Each row of a CSV file with the line on which it begins; cells beyond the head are under `…`."""
    text = _text(path)
    head, _, _ = text.partition("\n")
    delimiter = max(",;\t", key=head.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    names = None
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise _unreadable(path, f"line {line} is no CSV: {error}") from None
        if cells is None:
            break
        if not any(cell.strip() for cell in cells):
            continue
        if names is None:
            names = [cell.strip().lower() for cell in cells]
            _check_head(path, names)
            continue
        row = dict(zip(names, cells, strict=False))
        if len(cells) > len(names) and any(cell.strip() for cell in cells[len(names) :]):
            row["…"] = "more"
        yield line, {name: row.get(name, "") for name in {*names, "…"}}
    if names is None:
        raise _unreadable(path, "it is empty")


def _check_head(path: Path, names: list[str]) -> None:
    """Raises a `ProblemError` for columns that are missing or there twice."""
    lacking = [name for name in NEEDED if name not in names]
    twice = [name for name in NEEDED if names.count(name) > 1]
    if lacking or twice:
        fault = f"it has no column {', '.join(lacking)}" if lacking else f"it has the column {', '.join(twice)} twice"
        raise _unreadable(path, fault)


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise _unreadable(path, f"it is larger than {LARGEST_FILE // 1_000_000} MB")
        return path.read_text(encoding="utf-8-sig", errors="strict")
    except OSError as error:
        raise _unreadable(path, str(error.strerror)) from None
    except UnicodeDecodeError:
        raise _unreadable(path, "it is not UTF-8") from None


def _unreadable(path: Path, reason: str) -> Exception:
    return problem(
        "unreadable-ratings",
        422,
        f"The ratings in {path} cannot be read: {reason}.",
        f"Fill the file that `caveat study make` wrote, a CSV with the columns {', '.join(NEEDED)}.",
    )
