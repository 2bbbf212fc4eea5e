"""The columns of a CSV file or a dataset, or the fields of JSON lines, judged by the first rows."""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TextIO

from caveat.scaffold.datasets import is_dataset, plain_columns
from caveat_spec.csv_form import LOOKED_AT, csv_form

TABLES = (".csv", ".tsv", ".jsonl", ".parquet", ".arrow")
"""Suffixes of files that hold tables."""
ROWS_READ = 50_000
MOST_VALUES = 50
"""Distinct values of a column that are counted; more make it a column of free text or of many numbers."""
MISSING = frozenset(
    {"", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "N/A", "NA", "NULL"}
    | {"NaN", "n/a", "nan", "null", "<NA>"}
)


WORKBOOK = "is a workbook: save its sheet as CSV (UTF-8)"
OTHER = "is not read: save it as CSV or Parquet"
UNREAD = {
    **dict.fromkeys((".xlsx", ".xls", ".ods"), WORKBOOK),
    **dict.fromkeys((".feather", ".dta", ".sav", ".sas7bdat", ".pkl", ".pickle", ".gz"), OTHER),
    ".json": "is JSON: write JSON lines, one object a line, and name the file .jsonl",
}
"""Files that people keep tables in and that no reader here takes: what to do with each."""


class NoTableError(ValueError):
    """A file that can be read and holds no table."""


@dataclass(frozen=True)
class Column:
    """A column: whether it has numbers, how many rows lack it, its numbers in order, and how often each value is."""

    name: str
    numeric: bool
    missing: int
    numbers: tuple[float, ...]
    values: dict[str, int]
    """Distinct values, the most frequent first; empty if there are more than `MOST_VALUES`."""
    distinct: int

    def number(self, text: str) -> float | str:
        """A value as an audit writes it."""
        return float(text) if self.numeric else text

    @property
    def free_text(self) -> bool:
        """Whether it holds texts that hardly repeat."""
        return not self.numeric and not self.values and self.distinct > 0

    def quantile(self, share: float) -> float:
        """A number of the column below which this share of its rows lies."""
        return self.numbers[min(int(share * len(self.numbers)), len(self.numbers) - 1)]


@dataclass(frozen=True)
class Columns:
    """The columns of a file by name, and its number of rows as far as they were read."""

    path: Path
    columns: dict[str, Column]
    rows: int
    cells: dict[str, list[str]]
    """Every column's cells as texts, as far as they were read."""


def read_columns(path: Path) -> Columns | None:
    """The columns of a file; None where it cannot be read, or has no row."""
    try:
        return _columns(path)
    except (OSError, ValueError, csv.Error, RecursionError):
        return None


def why_unread(path: Path) -> str | None:
    """What keeps a file from being read as a table, after its name; None where nothing does."""
    if path.suffix.lower() in UNREAD:
        settings = path.suffix.lower() == ".json" and not path.read_bytes()[:99].lstrip().startswith(b"[")
        return None if settings else UNREAD[path.suffix.lower()]
    try:
        _columns(path)
    except UnicodeDecodeError:
        return f"is not UTF-8 text (line {_first_other_line(path):,}): save it as UTF-8"
    except NoTableError as error:
        return str(error)
    except (OSError, ValueError, csv.Error, RecursionError) as error:
        return f"cannot be read ({(str(error).splitlines() or [''])[0]})"
    return None


def _first_other_line(path: Path) -> int:
    """The first line of a file that is not UTF-8; a decoder counts from the block that it is at."""
    with path.open("rb") as file:
        return next((number for number, line in enumerate(file, 1) if not _is_utf_8(line)), 1)


def _is_utf_8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _columns(path: Path) -> Columns:
    """The columns of a file; raises `NoTableError` with the reason, or what the libraries raise."""
    if is_dataset(path):
        header, values = plain_columns(path, ROWS_READ)
        rows = [list(map(_cell, row)) for row in values]
    else:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header, rows = _of_json_lines(file) if path.suffix.lower() == ".jsonl" else _of_csv(file)
    repeated = next((name for name, times in Counter(header).items() if times > 1), None)
    if repeated is not None:
        names = "; its first line has to hold the names of the columns" if _number(repeated) is not None else ""
        raise NoTableError(f"has the column '{repeated}' more than once{names}")
    if not rows:
        raise NoTableError("has no row below its header")
    cells = {name: [row[place] if place < len(row) else "" for row in rows] for place, name in enumerate(header)}
    return Columns(path, {name: column_of(name, column) for name, column in cells.items()}, len(rows), cells)


def _of_csv(file: TextIO) -> tuple[list[str], list[list[str]]]:
    form = csv_form(file.read(LOOKED_AT))
    file.seek(0)
    lines = csv.reader(file, delimiter=form.separator)
    header = next(lines, [])
    return header, [[form.plain(cell) for cell in row] for row in islice(lines, ROWS_READ) if row]


def _of_json_lines(file: TextIO) -> tuple[list[str], list[list[str]]]:
    """The fields that hold texts, numbers or truth values, as a CSV would have them; raises ValueError for others."""
    objects = [json.loads(line) for line in islice(file, ROWS_READ) if line.strip()]
    if not all(isinstance(one, dict) for one in objects):
        raise ValueError("a line is no object")
    header = list(dict.fromkeys(key for one in objects for key in one))
    return header, [[_cell(one.get(key)) for key in header] for one in objects]


def _cell(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def column_of(name: str, cells: list[str]) -> Column:
    """A column by its cells as texts."""
    present = [cell for cell in cells if cell.strip() not in MISSING]
    if {cell.lower() for cell in present} <= {"true", "false"}:  # which readers take as 1 and 0
        present = ["1" if cell.lower() == "true" else "0" for cell in present]
    numbers = [value for cell in present if (value := _number(cell)) is not None]
    numeric = bool(present) and len(numbers) == len(present)
    counts = Counter(f"{value:.17g}" for value in numbers) if numeric else Counter(present)
    return Column(
        name=name,
        numeric=numeric,
        missing=len(cells) - len(present),
        numbers=tuple(sorted(numbers)) if numeric else (),
        values=dict(sorted(counts.items(), key=lambda one: (-one[1], one[0]))) if len(counts) <= MOST_VALUES else {},
        distinct=len(counts),
    )


def _number(cell: str) -> float | None:
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) and "_" not in cell else None
