"""The language of `where`: comparisons of a column with a constant, joined by `and`."""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from caveat_worker.engine.base.errors import InvalidInput

COMPARISONS = {
    "==": operator.eq,
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
MAX_QUOTE = 100
_TERM = re.compile(r"""\s*([A-Za-z_][\w.]*)\s*(==|!=|<=|>=|<|>)\s*(?:'([^']*)'|"([^"]*)"|([-+.\w]+))\s*""")


def holds(condition: str, columns: Mapping[str, pa.ChunkedArray]) -> NDArray[np.bool_]:
    """The rows [n] for which every comparison is true; with a missing value none is.

    Raises `InvalidInput` for other syntax, unknown columns and constants that do not fit the column.
    """
    result: NDArray[np.bool_] | None = None
    for term in re.split(r"\band\b", condition):
        match = _TERM.fullmatch(term)
        if match is None:
            raise InvalidInput(
                "unreadable-condition",
                f"The condition '{shortened(condition)}' cannot be read at '{shortened(term.strip())}'.",
                "Write comparisons joined by 'and', such as: race == 1 and income > 40.",
            )
        name, comparison, *constants = match.groups()
        if name not in columns:
            raise InvalidInput(
                "missing-column",
                f"The condition '{shortened(condition)}' names the column '{shortened(name)}', which is not there.",
                f"It has: {', '.join(columns)}.",
            )
        true = _compared(condition, columns[name], comparison, next(c for c in constants if c is not None))
        result = true if result is None else result & true
    assert result is not None  # a split has at least one part
    return result


def shortened(text: str) -> str:
    """A text cut to a length that an error message can quote."""
    return text if len(text) <= MAX_QUOTE else f"{text[:MAX_QUOTE]}…"


def _compared(condition: str, column: pa.ChunkedArray, comparison: str, constant: str) -> NDArray[np.bool_]:
    """The rows [n] for which one comparison is true, as numbers if the column has numbers, else as text."""
    missing = column.is_null().to_numpy()
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_boolean(column.type):
        try:
            wanted: float | str = float({"true": "1", "false": "0"}.get(constant.lower(), constant))
        except ValueError as error:
            raise InvalidInput(
                "unreadable-condition",
                f"The condition '{shortened(condition)}' compares a column of numbers with '{shortened(constant)}'.",
                "Compare it with a number.",
            ) from error
        values = column.to_numpy().astype(np.float64)
    else:
        try:
            wanted, values = constant, np.where(missing, "", column.cast(pa.string()).to_numpy()).astype(str)
        except pa.ArrowException as error:
            raise InvalidInput(
                "unreadable-condition",
                f"The condition '{shortened(condition)}' compares a column of {column.type}.",
                "Compare columns of numbers, texts or dates.",
            ) from error
    true: NDArray[np.bool_] = np.asarray(COMPARISONS[comparison](values, wanted), dtype=bool) & ~missing
    return true


def selected(condition: str | None, table: pa.Table) -> pa.Table:
    """The rows for which a condition holds, all of them without one; raises `InvalidInput` if none is left."""
    if condition is not None:
        rows = holds(condition, {name: table.column(name) for name in table.column_names})
        table = table.take(pa.array(np.flatnonzero(rows)))
    if not table.num_rows:
        which = f" for which '{shortened(condition)}' holds" if condition is not None else ""
        raise InvalidInput("no-examples", f"The table has no row{which}.", "Check its columns and 'where'.")
    return table
