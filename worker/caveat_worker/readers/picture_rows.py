"""Pictures by rows: annotations that name them, and datasets that hold them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from caveat_spec.audit import NAMES_OF_FILES, Images
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.readers.archives import Entries
from caveat_worker.readers.conditions import selected
from caveat_worker.readers.rows import read_rows

MAX_ANNOTATION_BYTES = 512 * 2**20


def annotated_names(declared: Images, annotations: Path) -> list[str]:
    """The file names of the chosen rows, each once; raises `InvalidInput` for annotations that cannot be read."""
    return _file_names(declared, selected(declared.where, _annotations(annotations)))


def _annotations(path: Path) -> pa.Table:
    """One row a picture, or several: from a table, or from the JSON of COCO with a column for each category."""
    if path.stat().st_size > MAX_ANNOTATION_BYTES:
        raise InvalidInput(
            "annotations-too-large",
            f"The annotations are larger than {MAX_ANNOTATION_BYTES >> 20} MiB.",
            "Leave out what the audit does not need, such as the outlines of objects.",
        )
    with path.open("rb") as stream:
        may_be_coco = stream.read(512).lstrip()[:1] == b"{"
    if may_be_coco:
        try:
            document = json.loads(path.read_bytes())
        except (ValueError, RecursionError):
            document = None  # several lines of JSON
        if isinstance(document, dict) and "images" in document:
            return _of_coco(document)
    return read_rows(path)


def _of_coco(document: dict[str, Any]) -> pa.Table:
    """Each picture of COCO annotations as a row: its fields, and how often each category is on it."""
    try:
        names = {one["id"]: str(one["name"]) for one in document.get("categories", [])}
        counts = Counter((one["image_id"], names[one["category_id"]]) for one in document.get("annotations", []))
        rows = [
            {
                **{key: value for key, value in one.items() if isinstance(value, str | int | float)},
                **{name: counts[one["id"], name] for name in names.values()},
            }
            for one in document["images"]
        ]
        return pa.Table.from_pylist(rows)
    except (KeyError, TypeError, AttributeError, pa.ArrowException) as error:
        raise InvalidInput(
            "not-coco",
            f"The annotations look like COCO's and cannot be read ({type(error).__name__}: {error}).",
            "COCO has 'images' with 'id' and 'file_name', 'annotations' with 'image_id' and 'category_id', and "
            "'categories' with 'id' and 'name'.",
        ) from error


def _file_names(declared: Images, table: pa.Table) -> list[str]:
    """The file names of annotations, each once, in order; raises `InvalidInput` if no column holds them."""
    column = declared.column or next((name for name in NAMES_OF_FILES if name in table.column_names), None)
    if column not in table.column_names:
        raise _no_column(column, "the file names", table)
    values = table.column(column).to_pylist()
    bad = next((row for row, value in enumerate(values, 1) if not isinstance(value, str)), None)
    if bad is not None:
        raise InvalidInput(
            "missing-field", f"Column '{column}' holds no file name in row {bad}.", "Name another one in 'column'."
        )
    return list(dict.fromkeys(values))


def pictures_of_rows(declared: Images, path: Path) -> Entries:
    """The pictures in a column of Parquet or Arrow files, as Hugging Face datasets keep them."""
    table = read_rows(path)
    column = declared.column or next((field.name for field in table.schema if _holds_bytes(field.type)), None)
    if column is None or column not in table.column_names or not _holds_bytes(table.schema.field(column).type):
        raise _no_column(column, "pictures (bytes, or a struct with 'bytes')", table)
    numbered = table.append_column("", pa.array(range(1, table.num_rows + 1)))
    kept = selected(declared.where, numbered)
    cells, rows = kept.column(column), kept.column("").to_pylist()
    return dict(_named(cells, rows, column))


def _named(cells: pa.ChunkedArray, rows: Sequence[int], column: str) -> Iterator[tuple[str, partial[bytes]]]:
    for position, row in enumerate(rows):
        yield f"row {row}", partial(_cell, cells, position, row, column)


def _cell(cells: pa.ChunkedArray, position: int, row: int, column: str) -> bytes:
    value = cells[position].as_py()
    data = value.get("bytes") if isinstance(value, Mapping) else value
    if not isinstance(data, bytes):
        raise InvalidInput(
            "missing-picture",
            f"Column '{column}' holds no bytes in row {row}.",
            "Save the dataset with its pictures embedded, not as paths.",
        )
    return data


def _holds_bytes(kind: pa.DataType) -> bool:
    """Whether a column holds bytes, or structs with bytes."""
    if pa.types.is_struct(kind):
        return any(one.name == "bytes" and _holds_bytes(one.type) for one in kind)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _no_column(column: str | None, what: str, table: pa.Table) -> InvalidInput:
    named = f"the column '{column}' does not" if column is not None else "no column seems to"
    return InvalidInput(
        "missing-column",
        f"Of {', '.join(table.column_names)}, {named} hold {what}.",
        "Name the column in 'column'.",
    )
