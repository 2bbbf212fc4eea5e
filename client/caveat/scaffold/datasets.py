"""Parquet and Arrow files, as far as a draft has to know them: their plain columns, and whether they hold pictures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from caveat_spec.audit import DATASETS


def is_dataset(path: Path) -> bool:
    """Whether a file is a Parquet or an Arrow file by its name."""
    return path.suffix.lower() in DATASETS


def plain_columns(path: Path, most: int) -> tuple[list[str], list[list[object]]]:
    """The names of the columns of texts, numbers and truth values, and their first rows; raises ValueError."""
    with _opened(path) as (schema, batches):
        names = [field.name for field in schema if _is_plain(str(field.type))]
        rows: list[list[object]] = []
        for batch in batches:
            columns = [batch.column(name).to_pylist() for name in names]
            rows += map(list, zip(*columns, strict=True))
            if len(rows) >= most:
                break
    return names, rows[:most]


def holds_pictures(path: Path) -> bool:
    """Whether a file has a column of bytes, alone or in a struct as `datasets` keeps pictures."""
    try:
        with _opened(path) as (schema, _):
            return any("binary" in str(field.type) for field in schema)
    except ValueError:
        return False


def class_labels(path: Path, column: str) -> list[str]:
    """The names of the classes of a column of numbers, as `datasets` keeps them with a file or beside it; else none."""
    try:
        with _opened(path) as (schema, _):
            written = (schema.metadata or {}).get(b"huggingface")
        if written is None:
            features = json.loads(path.with_name("dataset_info.json").read_text(encoding="utf-8"))["features"]
        else:
            features = json.loads(written)["info"]["features"]
        return [str(name) for name in features[column]["names"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Iterator[Any]]]:
    """The schema of a file and its rows in batches; raises ValueError where it cannot be read, or pyarrow is absent."""
    if find_spec("pyarrow") is None:  # a client without the engine may lack it
        raise ValueError("pyarrow is not installed")
    import pyarrow as pa
    from pyarrow import ipc, parquet

    try:
        if path.suffix.lower() == ".parquet":
            with parquet.ParquetFile(path) as file:
                plain = [field.name for field in file.schema_arrow if _is_plain(str(field.type))]
                yield file.schema_arrow, file.iter_batches(columns=plain)
            return
        with pa.memory_map(str(path)) as mapped:
            is_file = mapped.read(6) == b"ARROW1"
            mapped.seek(0)
            if is_file:
                reader = ipc.open_file(mapped)
                yield reader.schema, (reader.get_batch(place) for place in range(reader.num_record_batches))
            else:
                stream = ipc.open_stream(mapped)
                yield stream.schema, iter(stream)
    except (OSError, pa.ArrowException) as error:
        raise ValueError(str(error)) from error


def _is_plain(kind: str) -> bool:
    return kind in ("string", "large_string", "bool", "float", "double", "halffloat") or kind.lstrip("u")[:3] == "int"
