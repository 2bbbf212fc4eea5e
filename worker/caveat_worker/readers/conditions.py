"""The language of `where`: comparisons of a column with constants, joined by `and`, `or`, `not` and parentheses.

    condition  = term {"or" term}
    term       = factor {"and" factor}
    factor     = "not" factor | "(" condition ")" | comparison
    comparison = column ("==" | "!=" | "<=" | ">=" | "<" | ">") constant
               | column ["not"] "in" "[" constant {"," constant} "]"
               | column "is" ["not"] "null"

A column is a name, or any text in backticks or double quotes; a constant is a number, a word, or a text in quotes.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

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
KEYWORDS = frozenset({"and", "or", "not", "in", "is", "null"})
MAX_QUOTE = 100
MAX_TOKENS = 10_000
MAX_DEPTH = 50
_TOKEN = re.compile(
    r"""\s*(?:(?P<backticks>`[^`]+`)|(?P<double>"[^"]*")|(?P<single>'[^']*')"""
    r"""|(?P<operator>==|!=|<=|>=|<|>|[()\[\],])|(?P<word>[-+.\w]+)|(?P<end>$))"""
)
_REMEDY = (
    "Write comparisons joined by 'and', 'or' and 'not', such as: race == 1 and (`net income` > 40 or city in ['Rome'])."
)


@dataclass(frozen=True)
class Truth:
    """The rows [n] for which a condition is true and those for which it is false; it is neither where a value lacks."""

    true: NDArray[np.bool_]
    false: NDArray[np.bool_]

    def __and__(self, other: Truth) -> Truth:
        return Truth(self.true & other.true, self.false | other.false)

    def __or__(self, other: Truth) -> Truth:
        return Truth(self.true | other.true, self.false & other.false)

    def __invert__(self) -> Truth:
        return Truth(self.false, self.true)


@dataclass(frozen=True)
class Token:
    """A word, an operator or a quoted text of a condition, without its quotes."""

    kind: str
    text: str
    at: int

    @property
    def keyword(self) -> str:
        """The word in lower case where it is a keyword, an operator as it is, else nothing."""
        if self.kind == "operator":
            return self.text
        return self.text.lower() if self.kind == "word" and self.text.lower() in KEYWORDS else ""


def holds(condition: str, columns: Mapping[str, pa.ChunkedArray]) -> NDArray[np.bool_]:
    """The rows [n] for which the condition is true; a comparison with a missing value is neither true nor false.

    Raises `InvalidInput` for other syntax, unknown columns and constants that do not fit the column.
    """
    return _Parser(condition, columns).whole().true


def shortened(text: str) -> str:
    """A text cut to a length that an error message can quote."""
    return text if len(text) <= MAX_QUOTE else f"{text[:MAX_QUOTE]}…"


class _Parser:
    """Reads a condition from left to right, and compares as it reads."""

    def __init__(self, condition: str, columns: Mapping[str, pa.ChunkedArray]) -> None:
        self._condition, self._columns = condition, columns
        self._tokens = _tokens(condition)
        self._next = 0
        self._depth = 0

    def whole(self) -> Truth:
        """The whole condition; raises `InvalidInput` where something follows it."""
        truth = self._any()
        if self._tokens[self._next].kind != "end":
            raise self._unreadable("'and' or 'or'")
        return truth

    def _any(self) -> Truth:
        truth = self._all()
        while self._takes("or"):
            truth |= self._all()
        return truth

    def _all(self) -> Truth:
        truth = self._factor()
        while self._takes("and"):
            truth &= self._factor()
        return truth

    def _factor(self) -> Truth:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._unreadable(f"fewer than {MAX_DEPTH} parentheses inside each other")
        if self._takes("not"):
            truth = ~self._factor()
        elif self._takes("("):
            truth = self._any()
            self._expect(")")
        else:
            truth = self._comparison()
        self._depth -= 1
        return truth

    def _comparison(self) -> Truth:
        column = self._column()
        sign = self._tokens[self._next].keyword
        if sign in COMPARISONS:
            self._next += 1
            return self._compared(column, COMPARISONS[sign], [self._constant()])
        if self._takes("is"):
            negated = self._takes("not")
            self._expect("null")
            missing = _missing(column)
            return ~Truth(missing, ~missing) if negated else Truth(missing, ~missing)
        negated = self._takes("not")
        if not self._takes("in"):
            raise self._unreadable("'in'" if negated else "==, !=, <, >, <=, >=, 'in' or 'is'")
        among = self._compared(column, operator.eq, self._constants())
        return ~among if negated else among

    def _column(self) -> pa.ChunkedArray:
        token = self._tokens[self._next]
        named = token.kind in ("backticks", "double") or (token.kind == "word" and not token.keyword)
        if not named or not token.text:
            raise self._unreadable("a column")
        if token.text not in self._columns:
            raise InvalidInput(
                "missing-column",
                f"The condition '{shortened(self._condition)}' names the column '{shortened(token.text)}', which is "
                "not there.",
                f"It has: {', '.join(self._columns)}.",
            )
        self._next += 1
        return self._columns[token.text]

    def _constants(self) -> list[str]:
        self._expect("[")
        found = [self._constant()]
        while self._takes(","):
            found.append(self._constant())
        self._expect("]")
        return found

    def _constant(self) -> str:
        token = self._tokens[self._next]
        if token.kind not in ("word", "single", "double") or token.keyword:
            raise self._unreadable("a number, a word or a text in quotes")
        self._next += 1
        return token.text

    def _compared(self, column: pa.ChunkedArray, compare: Callable[..., object], constants: list[str]) -> Truth:
        values, wanted = self._comparable(column, constants)
        missing = _missing(column)
        true = np.isin(values, wanted) if len(wanted) > 1 else np.asarray(compare(values, wanted[0]), dtype=bool)
        return Truth(true & ~missing, ~true & ~missing)

    def _comparable(
        self, column: pa.ChunkedArray, constants: list[str]
    ) -> tuple[NDArray[np.generic], Sequence[float] | Sequence[str]]:
        """Values [n] and constants, as numbers if the column has numbers, else as text."""
        if pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_boolean(column.type):
            return column.to_numpy().astype(np.float64), [self._number(constant) for constant in constants]
        try:
            texts = np.where(column.is_null().to_numpy(), "", column.cast(pa.string()).to_numpy())
        except pa.ArrowException as error:
            raise InvalidInput(
                "unreadable-condition",
                f"The condition '{shortened(self._condition)}' compares a column of {column.type}.",
                "Compare columns of numbers, texts or dates.",
            ) from error
        return texts.astype(str), constants

    def _number(self, constant: str) -> float:
        try:
            return float({"true": "1", "false": "0"}.get(constant.lower(), constant))
        except ValueError as error:
            raise InvalidInput(
                "unreadable-condition",
                f"The condition '{shortened(self._condition)}' compares a column of numbers with "
                f"'{shortened(constant)}'.",
                "Compare it with a number.",
            ) from error

    def _takes(self, keyword: str) -> bool:
        """Steps over the next token if it is this keyword or operator."""
        taken = self._tokens[self._next].keyword == keyword
        self._next += taken
        return taken

    def _expect(self, keyword: str) -> None:
        if not self._takes(keyword):
            raise self._unreadable(f"'{keyword}'")

    def _unreadable(self, expected: str) -> InvalidInput:
        return _unreadable(self._condition, self._tokens[self._next].at, expected)


def _tokens(condition: str) -> list[Token]:
    """The tokens of a condition, the last of which is its end."""
    tokens: list[Token] = []
    at = 0
    while not tokens or tokens[-1].kind != "end":
        match = _TOKEN.match(condition, at)
        if match is None or match.lastgroup is None:
            raise _unreadable(condition, at + len(condition[at:]) - len(condition[at:].lstrip()), "a column or a value")
        text = match[match.lastgroup]
        quoted = match.lastgroup in ("backticks", "double", "single")
        tokens.append(Token(match.lastgroup, text[1:-1] if quoted else text, match.start(match.lastgroup)))
        at = match.end()
        if len(tokens) > MAX_TOKENS:
            raise _unreadable(condition, at, f"at most {MAX_TOKENS:,} words")
    return tokens


def _unreadable(condition: str, at: int, expected: str) -> InvalidInput:
    here = f"at '{shortened(condition[at:])}', character {at + 1}" if condition[at:].strip() else "at its end"
    return InvalidInput(
        "unreadable-condition",
        f"The condition '{shortened(condition)}' cannot be read {here}: {expected} should be there.",
        _REMEDY,
    )


def _missing(column: pa.ChunkedArray) -> NDArray[np.bool_]:
    """The rows [n] without a value: null, not a number, or, as CSV has no other way to leave a text out, empty."""
    missing: NDArray[np.bool_] = column.is_null(nan_is_null=pa.types.is_floating(column.type)).to_numpy()
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        missing = missing | (column.to_numpy() == "")
    return missing


def selected(condition: str | None, table: pa.Table) -> pa.Table:
    """The rows for which a condition holds, all of them without one; raises `InvalidInput` if none is left."""
    rows = selected_rows(condition, table)
    return table if condition is None else table.take(pa.array(rows))


def selected_rows(condition: str | None, table: pa.Table) -> NDArray[np.int64]:
    """The numbers of those rows [n]; raises `InvalidInput` if there is none."""
    rows = np.arange(table.num_rows)
    if condition is not None:
        rows = rows[holds(condition, {name: table.column(name) for name in table.column_names})]
    if not len(rows):
        which = f" for which '{shortened(condition)}' holds" if condition is not None else ""
        raise InvalidInput("no-examples", f"The table has no row{which}.", "Check its columns and 'where'.")
    return rows
