"""Which columns of a table are the model's inputs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from caveat.scaffold.beside import sizes
from caveat.scaffold.columns import MISSING, Column, Columns
from caveat_spec.artifacts import Tensor

OUTCOME = re.compile(
    r"^(label|labels|target|y|outcome|class|approved?|decision|income|score|survived|price|response|prediction)$", re.I
)
ADVERSE = re.compile(
    r"^(default(ed)?|reject(ed)?|denied|churn(ed)?|exited|attrition|delinquent|(is_?)?fraud|(two_year_)?recid(ivism)?)$",
    re.I,
)
"""Names of outcomes that nobody wants for themselves: the favourable decision is the other class."""
ADVERSE_WORD = re.compile(
    r"^(bad|churn(ed)?|declined|default(ed)?|delinquent|denied|exited|fail(ed)?|fraud(ulent)?|refused|reject(ed)?)$",
    re.I,
)
"""Such classes, where the column of outcomes has words."""
PROTECTED = re.compile(
    r"(?:^|[^a-z])(race|racial|ethnicity|ethnic|black|white|nonwhite|hispanic|asian|sex|gender|male|female|age|married"
    r"|marital|religion|religious|disabled|disability|national|nationality|native)(?:$|[^a-z])",
    re.I,
)
IDENTIFIER = re.compile(r"^$|^(unnamed: \d+|index|row|.*[ _-]?id|id[ _-].*|uuid|key)$", re.I)

WRITTEN = re.compile(r"^\W*\d{1,3}(?:[,.' ]\d{3})*(?:[.,]\d+)?\s*(?:%|[^\w\s]|[A-Z]{3})?$")
"""A number as people write it: `1,234.50`, `€ 30` and `12 %`."""
MOST_CLASSES = 50
"""Distinct values of an outcome that has classes."""
ORDER = (
    "`features` have the order of the file's columns, which the model's input does not name: a wrong order is no "
    "error, but an audit of other numbers."
)


@dataclass(frozen=True)
class Features:
    """The columns that the model takes, in its order or by its inputs' names, and those that may hold an outcome."""

    names: tuple[str, ...]
    """`features` as an audit has them; none where each input has a column of its own."""
    columns: tuple[Column, ...]
    outcomes: tuple[Column, ...]
    to_check: tuple[str, ...] = ()
    inputs: Mapping[str, str] = field(default_factory=dict)
    """The column of each input, where their names differ."""
    lacking: tuple[str, ...] = ()
    """Columns of text whose rows without a value are left out."""


def is_outcome(name: str) -> bool:
    """Whether a column's name is one that outcomes have."""
    return OUTCOME.match(name) is not None or is_adverse(name)


def is_adverse(name: str) -> bool:
    """Whether a column's name is that of an outcome that is bad for whom it concerns."""
    return ADVERSE.match(name) is not None


def is_adverse_word(value: str) -> bool:
    """Whether a value of a column names a class that is bad for whom it concerns."""
    return ADVERSE_WORD.match(value.strip()) is not None


def is_protected(name: str) -> bool:
    """Whether a column's name is that of a characteristic that laws protect."""
    return PROTECTED.search(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)) is not None


def choose_features(table: Columns, inputs: Sequence[Tensor], *, classes: bool = True) -> Features | None:
    """The columns that have the names of the model's inputs, or that fit its only one; None if none do.

    A model of `classes` has an outcome of few values, and another one of many.
    """
    by_name = _by_name(table, inputs) or _text(table, inputs)
    if by_name is not None:
        return by_name
    if len(inputs) != 1 or len(inputs[0].shape) != 2 or inputs[0].dtype == "string":
        return None
    width = inputs[0].shape[1]
    every = list(table.columns.values())
    if not isinstance(width, int):
        names = [
            one.name for one in every if one.numeric and not IDENTIFIER.match(one.name) and not is_outcome(one.name)
        ]
        return _features(names, every, ()) if names else None
    fits = [
        (names, assumed, how)
        for removed, assumed in _removals(every, table.rows, classes)
        for names, how in _encodings([one for one in every if one not in removed])
        if len(names) == width
    ]
    if not fits:
        return None
    names, *to_check = min(fits, key=lambda fit: [sentence != "" for sentence in fit[1:]])
    return _features(names, every, tuple(filter(None, [*to_check, *_written_numbers(table)])))


def _by_name(table: Columns, inputs: Sequence[Tensor]) -> Features | None:
    """A column for each input, by its name, or by what an exporter leaves of it; None where an input has none."""
    plain = {_plain(name): name for name in table.columns}
    found = {one.name: one.name if one.name in table.columns else plain.get(_plain(one.name)) for one in inputs}
    single = all(len(one.shape) < 2 or one.shape[1] in (1, None) for one in inputs)
    if not single or any(column is None for column in found.values()):
        return None
    feeds = {name: column for name, column in found.items() if column is not None}
    taken = tuple(one for one in table.columns.values() if one.name in feeds.values())
    renamed = {} if all(name == column for name, column in feeds.items()) else feeds
    return Features((), taken, _outcomes(list(table.columns.values()), taken), inputs=renamed)


def _text(table: Columns, inputs: Sequence[Tensor]) -> Features | None:
    """The table's only column of free text for the model's only input of text."""
    texts = [one for one in table.columns.values() if one.free_text]
    if len(texts) != 1 or not takes_text(inputs):
        return None
    outcomes = _outcomes(list(table.columns.values()), texts)
    return Features((), tuple(texts), outcomes, inputs={inputs[0].name: texts[0].name})


def takes_text(inputs: Sequence[Tensor]) -> bool:
    """Whether a model has one input, of one text an example."""
    return len(inputs) == 1 and inputs[0].dtype == "string" and inputs[0].shape[1:] in ([], [1])


def _plain(name: str) -> str:
    return re.sub(r"\W+", "_", name).strip("_").lower()


def unfitting(table: Columns, inputs: Sequence[Tensor]) -> str:
    """Why no columns fit, in a sentence."""
    numeric = [one.name for one in table.columns.values() if one.numeric]
    texts = [one.name for one in table.columns.values() if not one.numeric]
    return (
        f"The model takes {sizes(inputs[0])} numbers a row, and {table.path.name} has {len(numeric)} columns of numbers"
        f" ({_some(numeric)}) and {len(texts)} of text ({_some(texts)})."
        f"{''.join(f' But {sentence}' for sentence in _written_numbers(table))}"
    )


def _written_numbers(table: Columns) -> Iterator[str]:
    """What to check about columns of text whose cells are numbers as people write them."""
    for one in table.columns.values():
        cells = [cell for cell in table.cells[one.name] if cell.strip() not in MISSING]
        if not one.numeric and cells and all(map(WRITTEN.match, cells)):
            yield f"`{one.name}` is read as text, such as '{cells[0]}'; write its numbers as 1234.5."


def _removals(every: list[Column], rows: int, classes: bool) -> Iterator[tuple[list[Column], str]]:
    """Columns that are hardly inputs: identifiers and outcomes, then protected ones, at last the last column.

    The likeliest outcome goes first, as some inputs have such names too: income beside `approved`.
    """
    identifiers = [one for one in every if IDENTIFIER.match(one.name)]
    counted = [one for one in identifiers if one.distinct == rows]
    outcomes = [one for one in reversed(every) if is_outcome(one.name)]
    outcomes.sort(key=lambda one: (one.distinct <= MOST_CLASSES) != classes)
    for always in (identifiers, counted):
        for count in range(1, len(outcomes) + 1):
            yield [*always, *outcomes[:count]], ""
    yield identifiers, _taken(outcomes, "outcome")
    yield counted, _taken(outcomes, "outcome")
    if counted:
        for count in range(len(outcomes) + 1):
            yield outcomes[:count], _taken(counted, "row's number")
    protected = [one for one in every if is_protected(one.name)]
    if protected:
        names = ", ".join(f"`{one.name}`" for one in protected)
        sentence = f"The model is taken to work without {names}, because it takes as many columns as there are others."
        yield [*identifiers, *outcomes, *protected], sentence
    rest = [one for one in every if one not in identifiers and one not in outcomes]
    if rest:
        sentence = f"`{rest[-1].name}` is taken for the outcome, because the model takes one column less."
        yield [*identifiers, *outcomes, rest[-1]], sentence


def _taken(columns: Sequence[Column], what: str) -> str:
    """What to check where such columns are taken for inputs; nothing without any."""
    names = [f"`{one.name}`" for one in columns if one.numeric]
    if not names:
        return ""
    verb, which = ("is taken for an input", "it") if len(names) == 1 else ("are taken for inputs", "one of them")
    return (
        f"{' and '.join(names)} {verb}, because the model takes as many columns of numbers; if {which} is the {what}, "
        "the table lacks an input, or has one as text."
    )


def _encodings(kept: list[Column]) -> Iterator[tuple[list[str], str]]:
    """The numeric columns, and those with the categories of the others as columns of 0 and 1 behind them."""
    numeric = [one.name for one in kept if one.numeric]
    yield numeric, ""
    categories = [one for one in kept if not one.numeric and one.values and "=" not in one.name]
    if not categories:
        return
    encoded = [[f"{one.name}={value}" for value in sorted(one.values)] for one in categories]
    sentence = "Columns of text are taken as columns of 0 and 1, in alphabetical order behind the columns of numbers."
    yield [*numeric, *(name for names in encoded for name in names)], sentence
    yield [*numeric, *(name for names in encoded for name in names[1:])], sentence


def _features(names: list[str], every: list[Column], to_check: tuple[str, ...]) -> Features:
    columns = {name if name in {one.name for one in every} else name.partition("=")[0] for name in names}
    taken = tuple(one for one in every if one.name in columns)
    order = (ORDER,) if len(names) > 1 else ()
    return Features(tuple(names), taken, _outcomes(every, taken), (*order, *to_check))


def _outcomes(every: list[Column], taken: Sequence[Column]) -> tuple[Column, ...]:
    """The columns that may hold what the model predicts, those with such a name first."""
    rest = [one for one in every if one not in taken and not IDENTIFIER.match(one.name)]
    return tuple(sorted(rest, key=lambda one: not is_outcome(one.name)))


def _some(names: list[str]) -> str:
    return ", ".join(names[:12]) + (", …" if len(names) > 12 else "") if names else "none"
