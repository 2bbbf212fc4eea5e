"""The names of a model's classes: where a model holds them, and the number of a class by its name."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Any

import onnx

from caveat_worker.engine.base.errors import InvalidInput

Names = tuple[str, ...]
"""The names of all classes, in the order of the scores."""
AND_OTHERS = ""
"""A last name that stands for classes without one: models have room for more tokens than their tokenizers."""

_METADATA = ("names", "class_names", "classes", "labels", "id2label", "class_params")
"""Entries of a model's metadata that hold names: those of common exporters."""
_ATTRIBUTES = ("classlabels_strings", "classlabels_int64s", "classlabels_ints")
MAX_CHARACTERS = 2**22
"""Of an entry; more is not read."""
_SHOWN = 8


def names_in_model(proto: onnx.ModelProto) -> tuple[Names, ...]:
    """Each list of class names that a model holds: in its metadata, then in its classifiers; the same list once."""
    return tuple(dict.fromkeys((*_in_metadata(proto), *_in_operators(proto))))


def class_number(name: str | int, classes: int | None, lists: Sequence[Names], field: str) -> int:
    """The number of the class of this name in the first list of `classes` names that has it.

    Raises `InvalidInput` with the closest names if there is none; it points to `field`.
    """
    fitting = [names for names in lists if _fits(names, classes)]
    for names in fitting:
        if str(name) in names and name != AND_OTHERS:
            return names.index(str(name))
    if not fitting:
        known = len(lists[0]) - (lists[0][-1] == AND_OTHERS) if lists else 0
        held = f"the names found are of {known}" if lists else "the model holds no names"
        raise InvalidInput(
            "classes-not-named",
            f"Class '{name}' is asked for by name, and {held}; the output has {classes or 'several'} classes.",
            "Give its 'index', or the names of all classes in order in a file as the audit's 'labels'.",
            field,
        )
    close = get_close_matches(str(name), fitting[0], n=_SHOWN, cutoff=0.4) or fitting[0][:_SHOWN]
    raise InvalidInput(
        "unknown-class",
        f"The model has no class '{name}'.",
        f"Close to it are {', '.join(repr(one) for one in close)}, of {classes or len(fitting[0])} classes.",
        field,
    )


def _fits(names: Names, classes: int | None) -> bool:
    """Whether these are the names of so many classes."""
    return classes is None or len(names) == classes or (names[-1] == AND_OTHERS and len(names) - 1 <= classes)


def names_from(value: Any) -> Names | None:
    """Names from a list, from an object of numbers and names in either direction, or None for anything else."""
    if isinstance(value, dict) and "class_names" in value:
        value = value["class_names"]
    if isinstance(value, dict):
        by_number = {key: name for key, name in value.items() if str(key).isdecimal()}
        if len(by_number) < len(value):
            by_number = {number: name for name, number in value.items()}
        try:
            numbers = {int(number): name for number, name in by_number.items()}
        except (TypeError, ValueError):
            return None
        value = [numbers.get(number) for number in range(len(numbers))]
    if not isinstance(value, list | tuple) or not value or not all(isinstance(one, str | int) for one in value):
        return None
    return tuple(map(str, value))


def _in_metadata(proto: onnx.ModelProto) -> Iterator[Names]:
    held = {one.key: one.value for one in proto.metadata_props if len(one.value) <= MAX_CHARACTERS}
    for key in _METADATA:
        names = names_from(_read(held[key])) if key in held else None
        if names is not None:
            yield names


def _read(text: str) -> Any:
    """JSON, a literal of Python, or names divided by lines or commas."""
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    return [one.strip() for one in text.strip().split("\n" if "\n" in text.strip() else ",")]


def _in_operators(proto: onnx.ModelProto) -> Iterator[Names]:
    for node in proto.graph.node:
        given = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute if one.name in _ATTRIBUTES}
        for labels in given.values():
            yield tuple(one.decode(errors="replace") if isinstance(one, bytes) else str(one) for one in labels)
