"""Which columns of a table are the model's inputs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from caveat.scaffold.beside import sizes
from caveat.scaffold.columns import Column, Columns
from caveat_spec.artifacts import Tensor

OUTCOME = re.compile(
    r"^(label|labels|target|y|outcome|class|approved?|decision|default(ed)?|reject(ed)?|income|score|churn(ed)?"
    r"|survived|price|response|prediction)$",
    re.I,
)
PROTECTED = re.compile(
    r"(?:^|[^a-z])(race|racial|ethnicity|ethnic|black|white|nonwhite|hispanic|asian|sex|gender|male|female|age|married"
    r"|marital|religion|religious|disabled|disability|national|nationality|native)(?:$|[^a-z])",
    re.I,
)
IDENTIFIER = re.compile(r"^$|^(unnamed: \d+|index|row|.*[ _-]?id|id[ _-].*|uuid|key)$", re.I)

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


def is_outcome(name: str) -> bool:
    """Whether a column's name is one that outcomes have."""
    return OUTCOME.match(name) is not None


def is_protected(name: str) -> bool:
    """Whether a column's name is that of a characteristic that laws protect."""
    return PROTECTED.search(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)) is not None


def choose_features(table: Columns, inputs: Sequence[Tensor]) -> Features | None:
    """The columns that have the names of the model's inputs, or that fit its only one; None if none do."""
    by_name = _by_name(table, inputs) or _text(table, inputs)
    if by_name is not None:
        return by_name
    if len(inputs) != 1 or len(inputs[0].shape) != 2 or inputs[0].dtype == "string":
        return None
    width = inputs[0].shape[1]
    every = list(table.columns.values())
    for removed, assumed in _removals(every):
        kept = [one for one in every if one not in removed]
        for names, how in _encodings(kept):
            if names and (len(names) == width or (not isinstance(width, int) and not assumed and how == "")):
                return _features(names, every, tuple(part for part in (assumed, how) if part))
    return None


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
    )


def _removals(every: list[Column]) -> Iterator[tuple[list[Column], str]]:
    """Columns that are hardly inputs: identifiers and outcomes, then protected ones, at last the last column."""
    identifiers = [one for one in every if IDENTIFIER.match(one.name)]
    outcomes = [one for one in reversed(every) if is_outcome(one.name)]
    yield [*identifiers, *outcomes], ""
    for count in range(len(outcomes), -1, -1):
        yield [*identifiers, *outcomes[:count]], ""
        yield outcomes[:count], ""
    protected = [one for one in every if is_protected(one.name)]
    if protected:
        names = ", ".join(f"`{one.name}`" for one in protected)
        sentence = f"The model is taken to work without {names}, because it takes as many columns as there are others."
        yield [*identifiers, *outcomes, *protected], sentence
    rest = [one for one in every if one not in identifiers and one not in outcomes]
    if rest:
        sentence = f"`{rest[-1].name}` is taken for the outcome, because the model takes one column less."
        yield [*identifiers, *outcomes, rest[-1]], sentence


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
