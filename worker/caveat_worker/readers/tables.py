"""Rows of a table as features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from caveat_spec.audit import Table
from caveat_worker.engine.activations.requirements import ONLY
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.onnx.columns import InputColumn
from caveat_worker.readers.column_names import column_of, columns_by_input, order_warning
from caveat_worker.readers.column_values import Column, column_values, unknown_values
from caveat_worker.readers.conditions import selected_rows
from caveat_worker.readers.rows import read_rows, unreadable
from caveat_worker.readers.source import ExampleSource, ModelInputs, lots_in_pairs, sampled


def open_table(declared: Table, path: Path, seed: int, lots: Sequence[str] = ()) -> ExampleSource:
    """Opens the rows for which `where` is true, with `set` applied; they become inputs when the model's are known.

    A half and a sample are drawn by the number of a row, or by `lots`: those of the rows that they are paired with.

    Raises `InvalidInput` for unreadable tables, missing columns, and conditions that select no row; the fit raises it
    for columns and cells that do not fit the model.
    """
    table = read_rows(path)
    _check_columns(
        table.column_names, [*(column_of(table.column_names, name) for name in _named(declared)), *declared.set]
    )
    selected = selected_rows(declared.where, table)
    own, names = [str(row) for row in selected], [f"row {row + 1}" for row in selected]
    kept = sampled(lots_in_pairs(own, lots), declared, seed, names)
    rows = selected[kept]
    frame = _frame(table, rows)
    for column, value in declared.set.items():
        _check_edit(frame[column], value)
        _check_spelling(table.column(column), column, value)
        frame[column] = value

    def columns(names: Sequence[str]) -> pd.DataFrame:
        _check_columns(table.column_names, names)
        return frame.loc[:, list(names)]

    def contents() -> list[bytes]:  # of every column: people may share all that the model takes
        hashable = pd.DataFrame({name: _hashable(column) for name, column in frame.items()})
        return [int(digest).to_bytes(8, "big") for digest in pd.util.hash_pandas_object(hashable, index=False)]

    unfitted = ExampleSource(
        kind="table",
        names=tuple(names[position] for position in kept),
        shapes={},
        load=lambda positions: {},
        columns=columns,
        contents=contents,
        positions=tuple(kept),
        lots=tuple(own),
    )
    return replace(unfitted, fit=partial(_fitted, unfitted, declared, frame, rows))


def _hashable(column: pd.Series) -> pd.Series:
    """The column as one that pandas can hash, alike for alike cells of files of several forms."""
    if pd.api.types.is_float_dtype(column):
        return column.astype("float64")
    return column.astype("int64" if pd.api.types.is_signed_integer_dtype(column) else "str")


def _check_edit(column: pd.Series, value: float | str) -> None:
    """Raises `InvalidInput`, pointing to the edit, where `set` gives a column of numbers a text."""
    if pd.api.types.is_numeric_dtype(column) and isinstance(value, str) and pd.isna(pd.to_numeric(value, "coerce")):
        there = ", ".join(f"{number:g}" for number in sorted(column.dropna().unique())[:5])
        raise InvalidInput(
            "not-a-number",
            f"'set' gives column '{column.name}' the text '{value}', and it holds numbers.",
            f"Set a number that it holds, such as {there}.",
            "set",
        )


def _check_spelling(cells: pa.ChunkedArray, column: str, value: float | str) -> None:
    """Raises `InvalidInput`, pointing to the edit, where `set` has a text that the column only has in other letters.

    An encoder takes it for no category at all, so that the audit would measure what leaving the column out changes.
    """
    if not isinstance(value, str):
        return
    there = [one for one in cells.unique().to_pylist() if isinstance(one, str)]
    alike = [one for one in there if one.strip().casefold() == value.strip().casefold()]
    if alike and value not in there:
        raise InvalidInput(
            "unknown-category",
            f"'set' gives column '{column}' the text '{value}', which none of its cells has; they have '{alike[0]}'.",
            f"Write '{alike[0]}', in the same letters.",
            "set",
        )


def _fitted(
    unfitted: ExampleSource, declared: Table, frame: pd.DataFrame, rows: NDArray[np.int64], inputs: ModelInputs | None
) -> ExampleSource:
    """The set with its columns as a model's inputs; as numbers that may be missing where no model is known."""
    names = list(frame.columns)
    if inputs is None:
        taken = InputColumn(takes_nan=True)
        numbers = [_column(frame, rows, name, taken) for name in declared.features or ()]
        arrays = {ONLY: np.column_stack([column_values(one, "float32") for one in numbers])} if numbers else {}
        shapes = {ONLY: (len(numbers) or len(names),)}
        return replace(unfitted, shapes=shapes, load=partial(_picked, arrays))
    chosen = columns_by_input(declared, inputs, names)
    tensors = {(ONLY if ONLY in chosen else tensor.name): tensor for tensor in inputs.tensors}
    arrays, warnings = {}, [order_warning(declared, inputs, names)]
    for key, features in chosen.items():
        tensor = tensors[key]
        _check_columns(names, [column_of(names, feature) for feature in features])
        facts = inputs.columns.get(tensor.name, ())
        read = [
            _column(frame, rows, feature, facts[i] if i < len(facts) else InputColumn())
            for i, feature in enumerate(features)
        ]
        values = [column_values(one, tensor.dtype) for one in read]
        warnings += [unknown_values(one, array) for one, array in zip(read, values, strict=True)]
        arrays[key] = values[0] if len(tensor.shape) == 1 and len(values) == 1 else np.column_stack(values)
    return replace(
        unfitted,
        shapes={key: array.shape[1:] for key, array in arrays.items()},
        load=partial(_picked, arrays),
        parts=lambda position: chosen,
        warnings=tuple(filter(None, warnings)),
    )


def _picked(arrays: Mapping[str, NDArray[Any]], positions: Sequence[int]) -> dict[str, NDArray[Any]]:
    return {name: array[list(positions)] for name, array in arrays.items()}


def _column(frame: pd.DataFrame, rows: NDArray[np.int64], feature: str, taken: InputColumn) -> Column:
    """A feature of the rows: a column, or whether it has the value after `=`."""
    name = column_of(frame.columns, feature)
    return Column(name, frame[name], None if name == feature else feature.partition("=")[2], rows, taken)


def _frame(table: pa.Table, rows: NDArray[np.int64]) -> pd.DataFrame:
    """Some rows as a pandas frame; raises `InvalidInput` for values that pandas cannot represent."""
    try:
        frame: pd.DataFrame = table.take(pa.array(rows)).to_pandas()
    except pa.ArrowMemoryError:
        raise
    except pa.ArrowException as error:
        raise unreadable(error) from error
    return frame


def _check_columns(columns: Sequence[str], names: Sequence[str]) -> None:
    missing = [name for name in dict.fromkeys(names) if name not in columns]
    if missing:
        raise InvalidInput(
            "missing-column",
            f"The table has no column '{missing[0]}'.",
            f"It has: {', '.join(columns)}.",
        )


def _named(declared: Table) -> list[str]:
    """Every column or feature that a set names for the model."""
    listed = [[one] if isinstance(one, str) else one for one in (declared.features or [], *declared.inputs.values())]
    return [name for names in listed for name in names]
