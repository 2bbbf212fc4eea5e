"""Drafts of audits of tables: the model's columns, an edit or a selection for each concept, and groups of people."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from caveat.scaffold.beside import FEWEST, Beside
from caveat.scaffold.columns import TABLES, Column, Columns, read_columns
from caveat.scaffold.draft import Concept, Draft, number, set_name
from caveat.scaffold.features import Features, choose_features, is_adverse, is_adverse_word, is_outcome, is_protected
from caveat.scaffold.target import Question

MOST_CONCEPTS = 3
MOST_GROUPS = 10
"""Values of a column that still make groups."""
MOST_ROWS = 500
"""Rows of an example set; a sample of a larger table settles a first audit."""


@dataclass(frozen=True)
class Contrast:
    """Two values of a column, the first of which is the concept."""

    column: Column
    high: float | str
    low: float | str
    edits: bool
    """Whether the model takes the column, so that every row can be given both values."""


def propose_tables(beside: Beside, question: Question) -> Iterator[Draft]:
    """A draft for each table whose columns fit the model."""
    for path in beside.files(*TABLES):
        table = read_columns(path)
        features = choose_features(table, beside.inputs, classes=question.has_classes) if table is not None else None
        if table is not None and features is not None:
            for whole in [features, *_without_gaps(features)]:
                draft = _draft(beside, table, whole, question)
                if draft is not None:
                    yield draft


def _without_gaps(features: Features) -> Iterator[Features]:
    """The columns once more, with those rows left out that lack a text, for a model that knows no missing one."""
    lacking = [one.name for one in features.columns if one.missing and not one.numeric]
    if lacking:
        names = " or ".join(f"`{name}`" for name in lacking)
        sentence = f"rows without {names} are left out: the model shows no text that stands for a missing one."
        yield replace(features, lacking=tuple(lacking), to_check=(*features.to_check, sentence))


def _draft(beside: Beside, table: Columns, features: Features, question: Question) -> Draft | None:
    contrasts = list(_contrasts(table, features))[:MOST_CONCEPTS]
    base = "everyone" if any(is_protected(name) for name in table.columns) else "all_rows"
    shared = _shared(beside, table, features)
    sets: dict[str, Any] = {base: shared}
    concepts: dict[str, Concept] = {}
    for one in contrasts:
        name = set_name(one.column.name, concepts)  # of a number that grows; one of two texts is named by its value
        high = set_name(f"{name}_{_word(one.high, one, 'high')}", sets)
        low = set_name(f"{name}_{_word(one.low, one, 'low')}", {**sets, high: None})
        sets[low], sets[high] = _side(shared, one, one.low), _side(shared, one, one.high)
        if one.edits:
            sets[high]["pairs_with"] = low
        concepts[high if isinstance(one.high, str) else name] = Concept(high, (low,))
    question, adverse = _favourable(features, question)
    groups = _groups(table, features, question, base, labelled=not adverse)
    if not concepts and not groups:
        return None
    comments = ["`features` are the model's input columns, in its order. Check them."] if features.names else []
    return Draft(
        sets,
        base,
        concepts,
        groups,
        target=question.fields,
        comments=tuple(comments),
        to_check=(*features.to_check, *(adverse if groups else ())),
    )


def _favourable(features: Features, question: Question) -> tuple[Question, tuple[str, ...]]:
    """The question about the class that is favourable, and what to check where that is not the second one."""
    if question.threshold is None:
        return question, ()
    outcome = next((named for one in features.outcomes if (named := _adverse_class(one)) is not None), None)
    if outcome is None:
        return question, ()
    if question.classes == 2 and "index" in question.fields:
        sentence = f"{outcome} is taken for what nobody wants, so the answer is class 0: without it, and selected."
        return question.of_class(0), (sentence,)
    sentence = (
        f"{outcome} is taken for what nobody wants, and the model has one score: those over its threshold count as "
        "selected, who are the ones with it. Read the rates of groups the other way round."
    )
    return question, (sentence,)


def _adverse_class(column: Column) -> str | None:
    """What the second class of a column of outcomes is called, where nobody wants it; classes of words are sorted."""
    if is_adverse(column.name) and column.numeric:
        return f"`{column.name}`"
    if column.numeric or column.distinct != 2 or not column.values:
        return None
    second = max(column.values)
    return f"`{second}` in `{column.name}`" if is_adverse_word(second) else None


def _shared(beside: Beside, table: Columns, features: Features) -> dict[str, Any]:
    """The fields of the set of all rows that the model can take."""
    shared: dict[str, Any] = {"table": beside.relative(table.path)}
    if features.names:
        shared["features"] = list(features.names)
    if features.inputs:
        shared["inputs"] = dict(features.inputs)
    lacking = [one.name for one in features.columns if one.missing and (one.numeric or one.name in features.lacking)]
    if lacking:
        shared["where"] = " and ".join(f"{quoted_column(name)} is not null" for name in lacking)
    if table.rows > MOST_ROWS:
        shared["limit"] = MOST_ROWS
    return shared


def _side(shared: dict[str, Any], contrast: Contrast, value: float | str) -> dict[str, Any]:
    """One side of a contrast: every row edited, or the rows that have the value."""
    if contrast.edits:
        return {**shared, "set": {contrast.column.name: value}}
    chosen = f"{quoted_column(contrast.column.name)} == {quoted_constant(value)}"
    return {**shared, "where": f"{shared['where']} and {chosen}" if "where" in shared else chosen}


def _contrasts(table: Columns, features: Features) -> Iterator[Contrast]:
    """Protected characteristics first; without one the first column of two values, or of numbers."""
    of_texts = all(one.free_text for one in features.columns)  # what else a table says of texts may be their label
    usable = [one for one in table.columns.values() if can_be_quoted(one)]
    columns = [one for one in usable if of_texts or not is_outcome(one.name)]
    protected = [one for one in columns if is_protected(one.name)]
    found = [contrast for one in protected if (contrast := _contrast(one, features)) is not None]
    if found:
        yield from sorted(found, key=lambda one: one.column.distinct > MOST_GROUPS)
        return
    taken = [one for one in columns if one in features.columns]
    others = [one for one in columns if one not in features.columns]
    two_valued = [one for one in (*taken, *others) if one.distinct == 2]
    for one in (*two_valued, *taken):
        contrast = _contrast(one, features)
        if contrast is not None:
            yield contrast
            return


def _contrast(column: Column, features: Features) -> Contrast | None:
    """The two values of a column, the two most frequent of a few, or two quartiles of numbers; None without any."""
    edits = column in features.columns
    if column.numeric and column.distinct > MOST_GROUPS:
        low, high = column.quantile(0.25), column.quantile(0.75)
        return Contrast(column, high, low, edits) if edits and high > low else None
    enough = [value for value, count in column.values.items() if count >= FEWEST or edits]
    if len(enough) < 2 or (not column.numeric and column.distinct > MOST_GROUPS):
        return None
    frequent, rarer = sorted(enough[:2], key=float) if column.numeric else enough[:2]
    return Contrast(column, column.number(rarer), column.number(frequent), edits)


def _groups(
    table: Columns, features: Features, question: Question, base: str, *, labelled: bool
) -> dict[str, dict[str, Any]]:
    """Groups of people by each protected characteristic with a few values: the model's decisions, or recorded ones."""
    outcome = next((one for one in features.outcomes if set(one.values) == {"0", "1"} and not one.missing), None)
    decided: dict[str, Any] = {}
    if question.threshold is not None:
        decided["target"] = "answer"
        if question.threshold:
            decided["threshold"] = question.threshold
        if outcome is not None and labelled:
            decided["label"] = outcome.name
    elif outcome is not None:
        decided["decision"] = outcome.name
    people = [one for one in table.columns.values() if is_protected(one.name) and 2 <= one.distinct <= MOST_GROUPS]
    groups: dict[str, dict[str, Any]] = {}
    for one in people[:MOST_CONCEPTS] if decided else []:
        groups[set_name(f"by_{one.name}", groups)] = {"examples": base, "sensitive": [one.name], **decided}
    return groups


def quoted_column(name: str) -> str:
    """A column as `where` reads it."""
    if re.fullmatch(r"[A-Za-z_]\w*", name) and name.lower() not in ("and", "or", "not", "in", "is", "null"):
        return name
    return f"`{name}`" if "`" not in name else f'"{name}"'


def quoted_constant(value: float | str) -> str:
    """A value as `where` reads it."""
    if isinstance(value, float):
        return number(value)
    return f"'{value}'" if "'" not in value else f'"{value}"'


def can_be_quoted(column: Column) -> bool:
    """Whether `where` can name a column and each of its values."""
    return column.name != "" and all(not {'"', mark} <= set(text) for mark, text in _quotable(column))


def _quotable(column: Column) -> Iterator[tuple[str, str]]:
    yield "`", column.name
    yield from (("'", value) for value in column.values)


def _word(value: float | str, contrast: Contrast, side: str) -> str:
    """What a side of a contrast is called: its value, or `high` and `low` for quartiles."""
    quartiles = contrast.column.numeric and contrast.column.distinct > MOST_GROUPS
    return side if quartiles else number(value) if isinstance(value, float) else value
