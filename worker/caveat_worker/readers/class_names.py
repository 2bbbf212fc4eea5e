"""The names of a model's classes in a file beside it."""

from __future__ import annotations

import json
from pathlib import Path

from caveat_worker.engine.autodiff.class_names import MAX_CHARACTERS, Names, names_from
from caveat_worker.engine.base.errors import InvalidInput


def read_class_names(path: Path) -> Names:
    """Reads names in order: a JSON list or object, or a text with one name a line; raises `InvalidInput`."""
    if path.stat().st_size > MAX_CHARACTERS:
        raise _unreadable(f"has over {MAX_CHARACTERS >> 20} MiB")
    try:
        text = path.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError:
        raise _unreadable("is not UTF-8 text") from None
    try:
        names = names_from(json.loads(text))
    except (ValueError, RecursionError):
        names = tuple(line.strip() for line in text.splitlines())
    if not names or not all(names):
        raise _unreadable("holds no list of names")
    return names


def _unreadable(what: str) -> InvalidInput:
    return InvalidInput(
        "unreadable-labels",
        f"The file of class names {what}.",
        "Give a JSON list, or a text with one name a line, in the order of the model's scores.",
    )
