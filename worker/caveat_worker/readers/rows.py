"""Rows of a table as files hold them: CSV, JSON lines, Parquet, Arrow, and a tar of Parquet or Arrow files."""

from __future__ import annotations

import re
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import IO
from weakref import WeakValueDictionary

import pyarrow as pa
import pyarrow.csv
import pyarrow.ipc
import pyarrow.json
import pyarrow.parquet

from caveat_spec.audit import DATASETS
from caveat_spec.csv_form import LOOKED_AT, csv_form
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.readers.source import ARROW, PARQUET, beginning, is_tar

MAX_CELLS = 200_000_000
MAX_FILES = 10_000
AS_CSV = "Save it as CSV in UTF-8, with one header line."
OTHER_FORMS = {
    rb"PK\x03\x04": ("an Excel workbook, or another zip archive", AS_CSV),
    rb"\xd0\xcf\x11\xe0": ("an old Excel workbook", AS_CSV),
    rb"\x1f\x8b": ("compressed by gzip", "Unpack it first."),
    rb"\x80[\x02-\x05]": ("a pickle, which runs code when it is read", "Save it as Parquet or CSV."),
    rb"\xff\xfe|\xfe\xff": ("text in UTF-16", AS_CSV),
    rb"\s*\[\s*\{": ("one array of JSON", "Write JSON lines: one object a line, without brackets and commas around."),
}
"""The first bytes of files that are no table here: what each is, and the remedy."""


_HELD: WeakValueDictionary[tuple[int, ...], pa.Table] = WeakValueDictionary()
"""Tables that an example set still holds, by their files: the sets of an audit are often rows of one."""


def read_rows(path: Path) -> pa.Table:
    """A whole table; raises `InvalidInput` for bytes of another form, too many cells and repeated columns."""
    status = path.stat()
    file = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    table = _HELD.get(file)
    if table is None:
        table = _HELD[file] = _read(path)
    return table


def _read(path: Path) -> pa.Table:
    form, read = _form(path)
    try:
        table = read(path)
        names = table.column_names
    except (InvalidInput, MemoryError):
        raise
    except Exception as error:  # malformed bytes make the library raise almost anything
        raise unreadable(error, form) from error
    _check_size(table.num_rows, table.num_columns)
    repeated = next((name for name, times in Counter(names).items() if times > 1), None)
    if repeated is not None:
        raise InvalidInput(
            "repeated-column",
            f"The table has the column '{repeated}' more than once.",
            "Give each column a name of its own.",
        )
    return table


def unreadable(error: Exception, form: str = "rows") -> InvalidInput:
    """The error for bytes that a library cannot read as a table."""
    return InvalidInput(
        "not-a-table",
        f"The table cannot be read as {form} ({(str(error).splitlines() or [''])[0]}).",
        "Send a CSV with one header line and UTF-8 text, JSON lines, a Parquet or an Arrow file.",
    )


def _form(path: Path) -> tuple[str, Callable[[Path], pa.Table]]:
    """The form of a file by its first bytes, and the function that reads it."""
    start = beginning(path)
    _refuse_other_forms(start)
    if start.startswith(PARQUET):
        return "Parquet", _parquet
    if start.startswith(ARROW):
        return "Arrow", _arrow
    if is_tar(path):
        return "a tar of tables", _parts
    return ("JSON lines", pyarrow.json.read_json) if start.lstrip()[:1] == b"{" else ("CSV", _csv)


def _refuse_other_forms(start: bytes) -> None:
    """Raises `InvalidInput`, naming what the file is, where people take it for a table and no reader here does."""
    for pattern, (what, remedy) in OTHER_FORMS.items():
        if re.match(pattern, start):
            raise InvalidInput("not-a-table", f"The table is {what}.", remedy)


def _csv(path: Path) -> pa.Table:
    """A CSV file whose cells are separated by commas, semicolons or tabs, whichever its header has."""
    with path.open("rb") as stream:
        form = csv_form(stream.read(LOOKED_AT).decode(errors="replace"))
    return pyarrow.csv.read_csv(
        path,
        parse_options=pyarrow.csv.ParseOptions(delimiter=form.separator),
        convert_options=pyarrow.csv.ConvertOptions(decimal_point=form.decimal_point),
    )


def _parquet(source: Path | IO[bytes]) -> pa.Table:
    metadata = pyarrow.parquet.read_metadata(source)
    _check_size(metadata.num_rows, metadata.num_columns)  # repeated values expand when they are read
    return pyarrow.parquet.read_table(source)


def _arrow(source: Path | IO[bytes]) -> pa.Table:
    """An Arrow file, or the stream that Hugging Face datasets keep on disk."""
    stream = source.open("rb") if isinstance(source, Path) else source
    with stream:
        is_file = stream.read(6) == b"ARROW1"
        stream.seek(0)
        reader = pyarrow.ipc.open_file(stream) if is_file else pyarrow.ipc.open_stream(stream)
        return reader.read_all()


def _parts(path: Path) -> pa.Table:
    """The Parquet and Arrow files of a tar one after the other, in the order of their names."""
    with tarfile.open(path, "r:") as archive:
        members = sorted(
            (one for one in archive if one.isreg() and Path(one.name).suffix in DATASETS), key=lambda one: one.name
        )
        if not members or len(members) > MAX_FILES:
            raise InvalidInput(
                "not-a-table",
                f"The tar holds {len(members)} Parquet or Arrow files; it needs 1 to {MAX_FILES:,}.",
                "Name a file, or the folder of one split of a dataset.",
            )
        return pa.concat_tables([_part(archive, one) for one in members])


def _part(archive: tarfile.TarFile, member: tarfile.TarInfo) -> pa.Table:
    stream = archive.extractfile(member)
    assert stream is not None  # it is a regular file
    return _parquet(stream) if member.name.endswith(".parquet") else _arrow(stream)


def _check_size(rows: int, columns: int) -> None:
    if rows * columns > MAX_CELLS:
        raise InvalidInput(
            "table-too-large",
            f"The table has {rows:,} rows of {columns} columns; {MAX_CELLS:,} cells are allowed.",
            "Send fewer rows: a few thousand settle an audit.",
        )
