"""An annex as CSV, one row for each value: field, clause, table, row, column, value and source."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from io import StringIO

from caveat_reports.annexes.form import BY_THE_FILER, NOT_RECORDED, Annex, Entry, Table
from caveat_spec.sanitize import one_line

HEAD = ("field", "title", "clause", "table", "row", "column", "value", "source")
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What makes a cell a formula in a spreadsheet."""


def render(annex: Annex) -> str:
    """The rows, under a line that names the columns."""
    file = StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(HEAD)
    for line in annex.cover:
        source = "cover" if line.value is not None else line.remedy
        writer.writerow(map(_cell, ("cover", line.title, "", "", "", "", line.value or NOT_RECORDED, source)))
    for entry in annex.entries:
        named = (entry.field.id, entry.field.title, entry.field.clause)
        for row in _rows(entry):
            writer.writerow(map(_cell, (*named, *row)))
    return file.getvalue()


def _rows(entry: Entry) -> Iterator[tuple[str, ...]]:
    """Table, row, column, value and source of each value."""
    if not entry.recorded:
        yield "", "", "", NOT_RECORDED, entry.remedy or ""
    if entry.answer is not None:
        for sentence in entry.answer.sentences:
            yield "", "", "", sentence, entry.answer.source
        for table in entry.answer.tables:
            for row in _cells(table):
                yield *row, entry.answer.source
    if entry.stated is not None:
        yield "", "", "", entry.stated, BY_THE_FILER


def _cells(table: Table) -> Iterator[tuple[str, ...]]:
    for first, *rest in table.rows:
        for column, value in zip(table.head[1:], rest, strict=True):
            yield table.caption, first, column, value
    for note in table.notes:
        yield table.caption, "", "note", note


def _cell(text: str) -> str:
    """Text on one line; an apostrophe before what a spreadsheet would compute."""
    line = one_line(text)
    return f"'{line}" if line.startswith(FORMULA) else line
