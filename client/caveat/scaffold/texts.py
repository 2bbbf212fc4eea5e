"""Drafts of audits of texts: two files of texts, which may be pairs line by line, or one with a field of two values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from caveat.scaffold.beside import FEWEST, Beside, likeliest
from caveat.scaffold.columns import Columns, read_columns
from caveat.scaffold.draft import Concept, Draft, set_name
from caveat.scaffold.features import is_protected
from caveat.scaffold.tables import can_be_quoted, quoted_column, quoted_constant
from caveat.scaffold.target import Question
from caveat_spec.artifacts import Tensor
from caveat_spec.audit import BERT_INPUTS

MOST_TEXTS = 300
UNKNOWN_LENGTH = 64
ALIKE, OF_LINES = 0.5, 0.9
"""The share of words that two texts of a pair have in common, and the share of lines in which they do."""
PARTS = (("mask", "mask"), ("type", "types"), ("segment", "types"), ("position", "positions"), ("id", "ids"))
"""Words in an input's name and the part of the tokens that it takes; the first that fits counts."""


def token_inputs(inputs: list[Tensor]) -> dict[str, str] | None:
    """The part of the tokens that each input takes, by its name; None for a model that does not take tokens."""
    if any(not one.dtype.startswith("int") or len(one.shape) != 2 for one in inputs):
        return None
    parts = {one.name: next((part for word, part in PARTS if word in one.name.lower()), None) for one in inputs}
    if len(inputs) == 1:
        parts = {inputs[0].name: "ids"}
    known = {name: part for name, part in parts.items() if part is not None}
    return known if len(known) == len(inputs) and "ids" in known.values() else None


def tokenizer_of(beside: Beside) -> Path | None:
    """The tokenizer.json beside a model."""
    return next((path for path in beside.files(".json") if path.name == "tokenizer.json"), None)


def propose_texts(beside: Beside, question: Question) -> Iterator[Draft]:
    """Two files whose lines are pairs, two files against each other, then each file's own field of two values."""
    parts, tokenizer = token_inputs(beside.inputs), tokenizer_of(beside)
    if parts is None or tokenizer is None:
        return
    found = {
        path: (table, field)
        for path in beside.files(".jsonl", ".csv", ".parquet", ".arrow")
        for table, field in _texts(path)
    }
    shared = {"tokenizer": beside.relative(tokenizer), "length": _length(beside.inputs)}
    if parts != {name: BERT_INPUTS.get(name) for name in parts}:
        shared["inputs"] = parts
    likely = likeliest({path: table.rows for path, (table, _) in found.items() if table.rows >= FEWEST})
    for concept, reference in combinations(likely, 2):
        if _are_pairs(*(table.cells[text] for table, text in (found[concept], found[reference]))):
            others = [path for path in likely if path not in (concept, reference)]
            yield _of_pairs(beside, concept, reference, others[-1:], found, shared, question)
    if len(likely) > 1:
        yield _of_two_files(beside, likely[0], likely[-1], found, shared, question)
    for path in reversed(likely):
        yield from _of_one_file(beside, *found[path], shared, question)


def _are_pairs(concept: Sequence[str], reference: Sequence[str]) -> bool:
    """Whether texts differ line by line, and mostly in a few words."""
    if len(concept) != len(reference) or concept == reference:
        return False
    both = [(set(one.split()), set(other.split())) for one, other in zip(concept, reference, strict=True)]
    alike = [len(one & other) >= ALIKE * max(len(one), len(other)) for one, other in both]
    return sum(alike) >= OF_LINES * len(both) and sum(one != other for one, other in both) >= OF_LINES * len(both)


def _of_pairs(
    beside: Beside,
    concept: Path,
    reference: Path,
    others: Sequence[Path],
    found: dict[Path, tuple[Columns, str]],
    shared: dict[str, Any],
    question: Question,
) -> Draft:
    """A file against another with the same texts but for a few words; the answer is looked at in a third, if any."""
    sets: dict[str, dict[str, Any]] = {}
    for path in (*others, reference, concept):
        sets[set_name(path.stem, sets)] = _fields(beside, *found[path], shared)
    *_, name, shown = sets
    sets[shown]["pairs_with"] = name
    sentence = (
        f"line by line, {shown} and {name} are taken for the same texts but for the concept; that is `pairs_with`."
    )
    return Draft(sets, next(iter(sets)), {shown: Concept(shown, (name,))}, target=question.fields, to_check=(sentence,))


def _of_two_files(
    beside: Beside,
    concept: Path,
    reference: Path,
    found: dict[Path, tuple[Columns, str]],
    shared: dict[str, Any],
    question: Question,
) -> Draft:
    name = set_name(reference.stem)
    shown = set_name(concept.stem, {name: None})
    sets = {one: _fields(beside, *found[path], shared) for one, path in ((name, reference), (shown, concept))}
    return Draft(sets, name, {shown: Concept(shown, (name,))}, target=question.fields)


def _of_one_file(
    beside: Beside, table: Columns, text: str, shared: dict[str, Any], question: Question
) -> Iterator[Draft]:
    """The lines with one value of a field against those with the other, protected characteristics first."""
    fields = [
        one
        for one in table.columns.values()
        if one.name != text and can_be_quoted(one) and sum(count >= FEWEST for count in one.values.values()) >= 2
    ]
    for one in sorted(fields, key=lambda one: (not is_protected(one.name), one.distinct)):
        low, high = list(one.values)[:2]
        base, name = "texts", set_name(one.name)
        whole = _fields(beside, table, text, shared)
        sets = {base: whole}
        for value in (low, high):
            chosen = f"{quoted_column(one.name)} == {quoted_constant(one.number(value))}"
            sets[set_name(f"{name}_{value}", sets)] = {**whole, "where": chosen}
        _, against, shown = sets
        yield Draft(sets, base, {name: Concept(shown, (against,))}, target=question.fields)


def _texts(path: Path) -> Iterator[tuple[Columns, str]]:
    """The columns of a file and the one that holds the texts: `text`, or the one with the most different texts."""
    table = read_columns(path)
    columns = [] if table is None else [one for one in table.columns.values() if not one.numeric and not one.missing]
    texts = [one for one in columns if one.name == "text"] or sorted(columns, key=lambda one: -one.distinct)
    if table is not None and texts and texts[0].distinct > 2:
        yield table, texts[0].name


def _fields(beside: Beside, table: Columns, text: str, shared: dict[str, Any]) -> dict[str, Any]:
    field = {"field": text} if text != "text" else {}
    limit = {"limit": MOST_TEXTS} if table.rows > MOST_TEXTS else {}
    return {"text": beside.relative(table.path), **shared, **field, **limit}


def _length(inputs: list[Tensor]) -> int:
    return next((size for one in inputs if isinstance(size := one.shape[1], int)), UNKNOWN_LENGTH)
