"""Tables in CSV and Parquet files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from api_spec.audit import Table
from worker.engine.errors import Refused
from worker.engine.plan import ONLY
from worker.readers.conditions import holds
from worker.readers.reading import ExampleSource, sampled

MAX_CELLS = 200_000_000


def open_table(declared: Table, path: Path, seed: int) -> ExampleSource:
    """Rows for which `where` holds, with `set` applied, as numbers in the declared order of columns."""
    table = _read(path)
    _check_columns(table, [*(_column_of(table, feature) for feature in declared.features), *declared.set])
    rows = np.arange(table.num_rows)
    if declared.where is not None:
        rows = rows[holds(declared.where, {name: table.column(name) for name in table.column_names})]
    rows = rows[sampled([str(row) for row in rows], declared.limit, seed)]
    frame: pd.DataFrame = table.take(pa.array(rows)).to_pandas()
    for column, value in declared.set.items():
        frame[column] = value
    features = np.column_stack([_feature(frame, feature, rows) for feature in declared.features])

    def load(positions: Sequence[int]) -> dict[str, NDArray[Any]]:
        return {ONLY: features[list(positions)]}

    def columns(names: Sequence[str]) -> pd.DataFrame:
        _check_columns(table, names)
        return frame.loc[:, list(names)]

    return ExampleSource(
        kind="table",
        names=tuple(f"row {row + 1}" for row in rows),
        shapes={ONLY: features.shape[1:]},
        load=load,
        columns=columns,
    )


def _read(path: Path) -> pa.Table:
    """The whole table; raises `Refused` for bytes that are neither Parquet nor CSV."""
    with path.open("rb") as stream:
        is_parquet = stream.read(4) == b"PAR1"
    try:
        table = pyarrow.parquet.read_table(path) if is_parquet else pyarrow.csv.read_csv(path)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise Refused(
            "not-a-table",
            f"The table cannot be read as {'Parquet' if is_parquet else 'CSV'} ({str(error).splitlines()[0]}).",
            "Send a CSV with one header line and UTF-8 text, or a Parquet file.",
        ) from error
    if table.num_rows * table.num_columns > MAX_CELLS:
        raise Refused(
            "table-too-large",
            f"The table has {table.num_rows:,} rows of {table.num_columns} columns; {MAX_CELLS:,} cells are allowed.",
            "Send fewer rows: a few thousand settle an audit.",
        )
    repeated = sorted({name for name in table.column_names if table.column_names.count(name) > 1})
    if repeated:
        raise Refused(
            "repeated-column",
            f"The table has the column '{repeated[0]}' more than once.",
            "Give each column a name of its own.",
        )
    return table


def _check_columns(table: pa.Table, names: Sequence[str]) -> None:
    missing = [name for name in dict.fromkeys(names) if name not in table.column_names]
    if missing:
        raise Refused(
            "missing-column",
            f"The table has no column '{missing[0]}'.",
            f"It has: {', '.join(table.column_names)}.",
        )


def _column_of(table: pa.Table, feature: str) -> str:
    """The column a feature is read from: its own name, or what stands before `=`."""
    return feature if feature in table.column_names else feature.partition("=")[0]


def _feature(frame: pd.DataFrame, feature: str, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """One feature as float32 [n]: a column of numbers, or 1 where a column holds one value."""
    column, equals, value = feature.partition("=")
    if feature in frame.columns or not equals:
        return _numbers(frame, feature, rows)
    return np.asarray(frame[column].map(_as_text) == value, dtype=np.float32)


def _as_text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _numbers(frame: pd.DataFrame, column: str, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """One column as float32 [n]; raises `Refused` that names the first cell without a number."""
    series = frame[column]
    numbers = pd.to_numeric(series, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    bad = np.flatnonzero(~np.isfinite(numbers))
    if len(bad):
        raise Refused(
            "not-a-number",
            f"Column '{column}' has no number in row {rows[bad[0]] + 1}"
            f" ('{series.iloc[bad[0]]}'), and in {len(bad)} of {len(series)} rows.",
            "Fill or drop those rows, or leave them out with 'where'; turn categories into 0 and 1 columns.",
        )
    return numbers.astype(np.float32)
