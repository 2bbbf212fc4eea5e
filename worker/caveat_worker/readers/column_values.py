"""Columns of a table in the types of a model's inputs, with missing values as the model takes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.onnx.columns import InputColumn

MOST_NAMED = 3
"""Values that a sentence names; it counts the others."""


@dataclass(frozen=True)
class Column:
    """One column of the rows that a set keeps, and what the model makes of it."""

    name: str
    """The column, or `column=value` for 1 where the column has the value, else 0."""
    series: pd.Series[Any]
    value: str | None
    """What follows the `=`; None for a column itself."""
    rows: NDArray[np.int64]
    """The positions of the rows in the table."""
    taken: InputColumn

    def first(self, bad: NDArray[np.bool_]) -> tuple[int, Any, str]:
        """The table's row and the cell where something is first true, and in how many of the rows it is."""
        place = int(np.argmax(bad))
        return int(self.rows[place]) + 1, self.series.iloc[place], f"{int(bad.sum())} of {len(bad)} rows"


def column_values(column: Column, dtype: str) -> NDArray[Any]:
    """A column [n] in an input's type, `object` for texts.

    Raises `InvalidInput` with the first row whose cell has no such value, or one at which the model would stop.
    """
    if dtype == "object":
        return _texts(column)
    if column.value is not None:
        return np.array([column.value in _ways(cell) for cell in column.series], dtype)
    if np.dtype(dtype).kind != "f":
        return _integers(column, np.dtype(dtype))
    with np.errstate(over="ignore"):  # the model is told of infinities, as of any number that is not finite
        return _numbers(column).astype(dtype)


def unknown_values(column: Column, values: NDArray[Any]) -> str | None:
    """A clause about the values that the model's encoder does not know; None if it knows all.

    Raises `InvalidInput` where the model would stop at them.
    """
    if not column.taken.categories:
        return None
    codes, found = pd.factorize(values)
    strange = [code for code, value in enumerate(found) if not column.taken.knows(value)]
    if not strange:
        return None
    named = ", ".join(f"'{found[code]}'" for code in strange[:MOST_NAMED])
    named += f" and {len(strange) - MOST_NAMED} others" * (len(strange) > MOST_NAMED)
    if not column.taken.strict:
        return f"column '{column.name}' holds values that the model's encoder does not know ({named})"
    row, _, share = column.first(np.isin(codes, strange))
    raise InvalidInput(
        "unknown-category",
        f"Column '{column.name}' has '{found[strange[0]]}' in row {row}, which the model's encoder does not know, as in"
        f" {share}; the model stops there.",
        f"It knows {_known(column.taken.categories)}. Change those cells, leave the rows out with 'where', or export an"
        " encoder that ignores unknown values.",
    )


def _known(categories: Sequence[object]) -> str:
    shown = ", ".join(f"'{value}'" for value in categories[:20])
    return shown + f" and {len(categories) - 20} others" * (len(categories) > 20)


def _texts(column: Column) -> NDArray[Any]:
    """Texts [n]; a missing one is written as the model's encoder knows it."""
    try:
        codes, found = pd.factorize(column.series)
    except TypeError:  # lists and the like
        codes, found = np.arange(len(column.series)), pd.Index(column.series)
    texts = np.array([_text(column, value) for value in found] + [column.taken.missing], object)
    missing = (codes == -1) | ((texts == "")[codes] & (not column.taken.knows("")))
    if missing.any() and column.taken.missing is None:
        row, _, share = column.first(missing)
        raise InvalidInput(
            "missing-text",
            f"Column '{column.name}' has no value in row {row}, and in {share}, and the model does not show which text "
            "stands for a missing one.",
            "Write the text that it was trained with into those cells, or leave the rows out with 'where'.",
        )
    codes = np.where(missing, len(texts) - 1, codes)
    return texts[codes]


def _text(column: Column, value: object) -> str:
    """A cell as text, written as the model's encoder knows it where there are several ways."""
    ways = list(_ways(value))
    if isinstance(value, bytes):
        raise InvalidInput(
            "not-a-text",
            f"Column '{column.name}' holds {value!r}, which is not UTF-8.",
            "Save the table as UTF-8; `iconv -f WINDOWS-1252 -t UTF-8` converts what Windows writes in Western Europe.",
        )
    if not ways:
        raise InvalidInput(
            "not-a-text",
            f"Column '{column.name}' holds {type(value).__name__} values; the model takes texts there.",
            "Write one text or one number into each cell.",
        )
    return next((way for way in ways if column.taken.knows(way)), ways[0])


def _ways(value: object) -> Iterator[str]:
    """The ways to write a cell, the likeliest first; none for lists and bytes."""
    if isinstance(value, float) and value.is_integer():
        yield str(int(value))
    if isinstance(value, bytes) or (not np.isscalar(value) and not hasattr(value, "isoformat")):
        return
    yield str(value)
    if isinstance(value, bool | np.bool_):
        yield str(value).lower()
    elif isinstance(value, int | np.integer):
        yield f"{value}.0"


def _numbers(column: Column) -> NDArray[np.float64]:
    """Numbers [n]; a missing one is NaN if the model fills it in.

    Raises `InvalidInput` with the first cell that is not a number.
    """
    series = column.series
    numbers = pd.to_numeric(series, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    missing = series.isna().to_numpy()
    if not pd.api.types.is_numeric_dtype(series):
        missing = missing | np.array([isinstance(cell, str) and not cell for cell in series], bool)
    _refuse(column, ~np.isfinite(numbers) & ~missing, "")
    if not column.taken.takes_nan:
        _refuse(column, missing, "; the model does not fill in missing numbers there")
    return numbers


def _refuse(column: Column, bad: NDArray[np.bool_], why: str) -> None:
    if bad.any():
        row, cell, share = column.first(bad)
        raise InvalidInput(
            "not-a-number",
            f"Column '{column.name}' has no number in row {row} ('{cell}'), and in {share}{why}.",
            "Fill or drop those rows, or leave them out with 'where'; turn categories into 0 and 1 columns.",
        )


def _integers(column: Column, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Whole numbers or truth values [n]; raises `InvalidInput` with the first cell that is none."""
    numbers = _numbers(column)
    _refuse(column, ~np.isfinite(numbers), "; the model takes whole numbers there")
    low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    bad = (numbers != np.rint(numbers)) | (numbers < low) | (numbers > high)
    if bad.any():
        row, cell, _ = column.first(bad)
        what = "0 or 1" if dtype.kind == "b" else f"a whole number of the type {dtype}"
        raise InvalidInput(
            "not-a-whole-number",
            f"Column '{column.name}' has {cell} in row {row}; the model takes {what} there.",
            "Check the column, or export the model with an input of floats.",
        )
    whole = pd.to_numeric(column.series)
    return np.asarray(whole if pd.api.types.is_integer_dtype(whole) else numbers).astype(dtype)
