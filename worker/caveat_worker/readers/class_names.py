"""The names of a model's classes in a file beside it; those of a language model are in its tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from caveat_worker.engine.autodiff.class_names import AND_OTHERS, MAX_CHARACTERS, Names, names_from
from caveat_worker.engine.base.errors import InvalidInput

MAX_BYTES = 64 * 2**20
"""Of a file: tokenizers of 200,000 tokens have a third of it."""


def read_class_names(path: Path) -> Names:
    """Reads names in order: a JSON list or object, a text with one name a line, or a `tokenizer.json` with its tokens.

    Raises `InvalidInput` for anything else.
    """
    if path.stat().st_size > MAX_BYTES:
        raise _unreadable(f"has over {MAX_BYTES >> 20} MiB")
    try:
        text = path.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError:
        raise _unreadable("is not UTF-8 text") from None
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        document = [line.strip() for line in text.splitlines()]
    tokens = _tokens(document)
    if tokens is not None:
        return tokens
    if len(text) > MAX_CHARACTERS:
        raise _unreadable(f"has over {MAX_CHARACTERS >> 20} MiB")
    names = names_from(document)
    if names is None or not all(names):
        raise _unreadable("holds no list of names")
    return names


def _tokens(document: Any) -> Names | None:
    """The tokens of a `tokenizer.json` by their numbers, with what a model has beyond them; None for another file."""
    if not isinstance(document, dict) or not isinstance(vocabulary := document.get("model"), dict):
        return None
    listed = vocabulary.get("vocab")
    added = document.get("added_tokens")
    try:
        by_name = (
            {str(token): int(number) for token, number in listed.items()}
            if isinstance(listed, dict)
            else {str(token): number for number, (token, _) in enumerate(listed or ())}
        )
        by_name |= {str(one["content"]): int(one["id"]) for one in added or ()}
    except (TypeError, ValueError, KeyError):
        raise _unreadable("looks like a tokenizer, and its vocabulary cannot be read") from None
    if not by_name or min(by_name.values()) < 0 or max(by_name.values()) >= MAX_CHARACTERS:
        raise _unreadable("looks like a tokenizer, and its vocabulary cannot be read")
    names = [""] * (max(by_name.values()) + 1)
    for name, number in by_name.items():
        names[number] = name
    return (*names, AND_OTHERS)


def _unreadable(what: str) -> InvalidInput:
    return InvalidInput(
        "unreadable-labels",
        f"The file of class names {what}.",
        "Give a JSON list, or a text with one name a line, in the order of the model's scores; or a tokenizer.json.",
    )
