"""Tables in CSV and Parquet files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from caveat_spec.audit import Table
from caveat_worker.engine.activations.requirements import ONLY
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.readers.conditions import holds, shortened
from caveat_worker.readers.source import ExampleSource, sampled

MAX_CELLS = 200_000_000


def open_table(declared: Table, path: Path, seed: int) -> ExampleSource:
    """Opens the rows for which `where` is true, with `set` applied, as float32 features [n, features].

    Raises `InvalidInput` for unreadable tables, missing columns, conditions that select no row, and cells that are not
    numbers.
    """
    table = _read(path)
    _check_columns(table, [*(_column_of(table, feature) for feature in declared.features), *declared.set])
    rows = np.arange(table.num_rows)
    if declared.where is not None:
        rows = rows[holds(declared.where, {name: table.column(name) for name in table.column_names})]
    if not len(rows):
        condition = f" for which '{shortened(declared.where)}' holds" if declared.where is not None else ""
        raise InvalidInput("no-examples", f"The table has no row{condition}.", "Check its columns and 'where'.")
    rows = rows[sampled([str(row) for row in rows], declared.limit, seed)]
    frame = _frame(table, rows)
    for column, value in declared.set.items():
        frame[column] = value
    features = np.column_stack([_feature(frame, feature, rows) for feature in declared.features])

    def load(positions: Sequence[int]) -> dict[str, NDArray[Any]]:
        return {ONLY: features[list(positions)]}

    def columns(names: Sequence[str]) -> pd.DataFrame:
        _check_columns(table, names)
        return frame.loc[:, list(names)]

    def contents() -> list[bytes]:  # of every column: people may share all that the model takes
        return [int(digest).to_bytes(8, "big") for digest in pd.util.hash_pandas_object(frame.astype(str), index=False)]

    return ExampleSource(
        kind="table",
        names=tuple(f"row {row + 1}" for row in rows),
        shapes={ONLY: features.shape[1:]},
        load=load,
        columns=columns,
        contents=contents,
    )


def _frame(table: pa.Table, rows: NDArray[np.int64]) -> pd.DataFrame:
    """Some rows as a pandas frame; raises `InvalidInput` for values that pandas cannot represent."""
    try:
        frame: pd.DataFrame = table.take(pa.array(rows)).to_pandas()
    except pa.ArrowMemoryError:
        raise
    except pa.ArrowException as error:
        raise _not_a_table(error) from error
    return frame


def _not_a_table(error: Exception, form: str = "rows") -> InvalidInput:
    return InvalidInput(
        "not-a-table",
        f"The table cannot be read as {form} ({(str(error).splitlines() or [''])[0]}).",
        "Send a CSV with one header line and UTF-8 text, or a Parquet file.",
    )


def _read(path: Path) -> pa.Table:
    """Reads the whole table; raises `InvalidInput` for bytes that are neither Parquet nor CSV."""
    with path.open("rb") as stream:
        is_parquet = stream.read(4) == b"PAR1"
    try:
        if is_parquet:
            metadata = pyarrow.parquet.read_metadata(path)
            _check_size(metadata.num_rows, metadata.num_columns)  # repeated values expand when they are read
        table = pyarrow.parquet.read_table(path) if is_parquet else pyarrow.csv.read_csv(path)
        names = table.column_names
    except (InvalidInput, MemoryError):
        raise
    except Exception as error:  # malformed bytes make the library raise almost anything
        raise _not_a_table(error, "Parquet" if is_parquet else "CSV") from error
    _check_size(table.num_rows, table.num_columns)
    repeated = next((name for name, times in Counter(names).items() if times > 1), None)
    if repeated is not None:
        raise InvalidInput(
            "repeated-column",
            f"The table has the column '{repeated}' more than once.",
            "Give each column a name of its own.",
        )
    return table


def _check_size(rows: int, columns: int) -> None:
    if rows * columns > MAX_CELLS:
        raise InvalidInput(
            "table-too-large",
            f"The table has {rows:,} rows of {columns} columns; {MAX_CELLS:,} cells are allowed.",
            "Send fewer rows: a few thousand settle an audit.",
        )


def _check_columns(table: pa.Table, names: Sequence[str]) -> None:
    missing = [name for name in dict.fromkeys(names) if name not in table.column_names]
    if missing:
        raise InvalidInput(
            "missing-column",
            f"The table has no column '{missing[0]}'.",
            f"It has: {', '.join(table.column_names)}.",
        )


def _column_of(table: pa.Table, feature: str) -> str:
    """The column of a feature: the feature itself, or the part before `=`."""
    return feature if feature in table.column_names else feature.partition("=")[0]


def _feature(frame: pd.DataFrame, feature: str, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """One feature as float32 [n]: a column of numbers, or 1 where the column has the value after `=`, else 0."""
    column, equals, value = feature.partition("=")
    if feature in frame.columns or not equals:
        return _numbers(frame, feature, rows)
    return np.asarray(frame[column].map(_as_text) == value, dtype=np.float32)


def _as_text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _numbers(frame: pd.DataFrame, column: str, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """One column as float32 [n]; raises `InvalidInput` with the first cell that is not a number."""
    series = frame[column]
    numbers = pd.to_numeric(series, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    bad = np.flatnonzero(~np.isfinite(numbers))
    if len(bad):
        raise InvalidInput(
            "not-a-number",
            f"Column '{column}' has no number in row {rows[bad[0]] + 1}"
            f" ('{series.iloc[bad[0]]}'), and in {len(bad)} of {len(series)} rows.",
            "Fill or drop those rows, or leave them out with 'where'; turn categories into 0 and 1 columns.",
        )
    return numbers.astype(np.float32)
