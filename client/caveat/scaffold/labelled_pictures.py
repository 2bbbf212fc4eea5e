"""Drafts of audits of pictures that a table names and labels: CSV, JSON lines, COCO, and datasets with pictures."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from caveat.pack import pictures
from caveat.scaffold.beside import FEWEST, REFERENCE, Beside
from caveat.scaffold.columns import Column, Columns, column_of, read_columns
from caveat.scaffold.datasets import class_labels, holds_pictures, is_dataset
from caveat.scaffold.draft import Concept, Draft, set_name
from caveat.scaffold.features import is_outcome
from caveat.scaffold.picture_sizes import sizes_to_try, spatial_sizes
from caveat.scaffold.pictures import CHECK_PIXELS, MOST_PICTURES, PIXELS, picture_folders, preprocessing
from caveat.scaffold.tables import can_be_quoted, quoted_column, quoted_constant
from caveat.scaffold.target import Question
from caveat_spec.audit import NAMES_OF_FILES

MOST_LABELS = 50
LARGEST_COCO = 256 * 2**20
"""Bytes of annotations that are looked into."""


@dataclass(frozen=True)
class Labelled:
    """Pictures with the columns that say something about each, one row a picture."""

    fields: Mapping[str, Any]
    """What an example set says of them: `images`, and `annotations` where they are in another file."""
    columns: tuple[Column, ...]
    files: tuple[Path, ...] = ()
    names: Mapping[str, list[str]] | None = None
    """Names of the classes that a column of numbers counts; None where columns count the objects of a category."""


def propose_labelled_pictures(beside: Beside, question: Question) -> Iterator[Draft]:
    """The pictures with a label against those without it, by the likeliest column of each table of pictures."""
    if len(beside.inputs) != 1 or spatial_sizes(beside.inputs[0]) is None:
        return
    for labelled in _labelled(beside):
        contrasts = sorted(_contrasts(labelled), key=lambda one: one.order)
        for size in sizes_to_try(beside.inputs[0], labelled.files[:FEWEST]):
            how = preprocessing(beside, size)
            yield from (_draft(labelled, one, how, question) for one in contrasts[:1])


@dataclass(frozen=True)
class _Contrast:
    """A column, the value of it that is the concept, and conditions for the pictures with it and without it."""

    column: Column
    shown: str
    others: str
    """What the pictures without the concept are called."""
    with_it: str
    without_it: str
    counts: tuple[int, int]
    order: tuple[bool, int, str]
    index: int | None = None
    """The class of the concept, where the column's values are the model's classes in their order."""


def _contrasts(labelled: Labelled) -> Iterator[_Contrast]:
    for column in labelled.columns:
        if not can_be_quoted(column) or column.missing or not 2 <= column.distinct <= MOST_LABELS:
            continue
        total, name = sum(column.values.values()), quoted_column(column.name)
        if labelled.names is None:
            some = total - column.values.get("0", 0)
            counts, conditions = (some, total - some), (f"{name} >= 1", f"{name} == 0")
            order, shown, index = (False, abs(total - 2 * some), column.name), column.name, None
            others = f"no {shown}"
        else:
            value = _concept(column)
            constant = quoted_constant(column.number(value))
            counts = (column.values[value], total - column.values[value])
            conditions = f"{name} == {constant}", f"{name} != {constant}"
            order = (not is_outcome(column.name), column.distinct, column.name)
            named = labelled.names.get(column.name, [])
            shown, index = _called(column, value, named)
            rest = [one for one in column.values if one != value]
            others = _called(column, rest[0], named)[0] if len(rest) == 1 else f"not {shown}"
        if min(counts) >= FEWEST:
            yield _Contrast(column, shown, others, *conditions, counts, order, index)


def _concept(column: Column) -> str:
    """The value that is likeliest a concept: of numbers the largest, else no word for what lacks one, the rarest."""
    enough = [value for value, count in column.values.items() if count >= FEWEST] or list(column.values)
    if column.numeric:
        return max(enough, key=float)
    return min(enough, key=lambda value: (bool(REFERENCE.search(value)), column.values[value], value))


def _called(column: Column, value: str, names: list[str]) -> tuple[str, int | None]:
    """What a value is called, and its place among the classes: a number is its own, texts are in their order."""
    if not column.numeric:
        return value, sorted(column.values).index(value)
    place = int(float(value)) if float(value).is_integer() and float(value) >= 0 else None
    if place is not None and place < len(names):
        return names[place], place
    return f"{column.name}_{float(value):g}", place


def _draft(labelled: Labelled, contrast: _Contrast, how: dict[str, Any], question: Question) -> Draft:
    shown = set_name(contrast.shown)
    others = set_name(contrast.others, {shown: None})
    shared = {**labelled.fields, "preprocess": how}
    sets: dict[str, Any] = {}
    for name, condition, count in zip(
        (others, shown), (contrast.without_it, contrast.with_it), contrast.counts[::-1], strict=True
    ):
        sets[name] = {**shared, "where": condition} | ({"limit": MOST_PICTURES} if count > MOST_PICTURES else {})
    is_class = contrast.index is not None and contrast.column.distinct == question.classes > 1
    if is_class and contrast.index is not None:
        question = question.of_class(contrast.index)
    asked = Concept(shown, (others,), "matter" if is_class else "not_matter")
    return Draft(
        sets,
        others,
        {shown: asked},
        target=question.fields,
        class_is_known=is_class,
        comments=(PIXELS,),
        to_check=(CHECK_PIXELS, f"the concept is {contrast.shown}, by the column '{contrast.column.name}'."),
    )


def _labelled(beside: Beside) -> Iterator[Labelled]:
    """Every table of pictures beside the model, with the pictures that it names or holds."""
    for path in beside.files(".csv", ".jsonl", ".json", ".parquet", ".arrow"):
        if is_dataset(path):
            if holds_pictures(path):
                yield _dataset(beside, path)
            continue
        coco = path.suffix.lower() == ".json"
        found = _coco(path) if coco else _named(read_columns(path))
        if found is not None and (place := _folder(beside, found[0])) is not None:
            fields = {"images": beside.relative(place), "annotations": beside.relative(path)}
            files = tuple(list(pictures(place).values())[:FEWEST])
            yield Labelled(fields, found[1], files, None if coco else {})


def _dataset(beside: Beside, path: Path) -> Labelled:
    table = read_columns(path)
    columns = () if table is None else tuple(table.columns.values())
    names = {one.name: class_labels(path, one.name) for one in columns if one.numeric}
    return Labelled({"images": beside.relative(path)}, columns, names=names)


def _named(table: Columns | None) -> tuple[list[str], tuple[Column, ...]] | None:
    """The file names in a table that has each once, and its other columns."""
    column = None if table is None else next((name for name in NAMES_OF_FILES if name in table.columns), None)
    if table is None or column is None or table.columns[column].distinct < table.rows:
        return None
    return table.cells[column], tuple(one for name, one in table.columns.items() if name != column)


def _coco(path: Path) -> tuple[list[str], tuple[Column, ...]] | None:
    """The file names in COCO's annotations, and a column for each category that counts its objects on each picture."""
    try:
        if path.stat().st_size > LARGEST_COCO or not _may_be_coco(path):
            return None
        document = json.loads(path.read_text(encoding="utf-8"))
        names = {one["id"]: str(one["name"]) for one in document["categories"]}
        counts = Counter((one["image_id"], names[one["category_id"]]) for one in document["annotations"])
        ids = [one["id"] for one in document["images"]]
        files = [str(one["file_name"]) for one in document["images"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    columns = (column_of(name, [str(counts[one, name]) for one in ids]) for name in dict.fromkeys(names.values()))
    return files, tuple(columns)


def _may_be_coco(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(512).lstrip()[:1] == b"{" and path.name not in ("tokenizer.json", "config.json")


def _folder(beside: Beside, names: list[str]) -> Path | None:
    """The folder of pictures that has every one of these names, by its path or by a file name of its own."""
    for place in (*picture_folders(beside), *beside.places):
        there = pictures(place)
        ends = Counter(PurePosixPath(one).name for one in there)
        if names and all(name in there or ends[PurePosixPath(name).name] == 1 for name in names):
            return place
    return None
