"""Texts in JSON lines, encoded by a `tokenizer.json`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from caveat_spec.audit import Text
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.readers.source import ExampleSource, sampled

MAX_BYTES = 256 * 2**20
MAX_TEXTS = 1_000_000
MAX_TOKENIZER_BYTES = 64 * 2**20
MAX_CHARACTERS = 100_000
"""Of one text: far more than any model reads, and far less than a tokenizer fails on."""


def open_texts(declared: Text, path: Path, tokenizer: Path, seed: int) -> ExampleSource:
    """Opens the texts of one field, int64 [length] for each of the model's inputs.

    Raises `InvalidInput` with the number of the line that has no text, and for unreadable tokenizers.
    """
    texts = _texts(path, declared.field)
    kept = sampled([str(number) for number in range(len(texts))], declared.limit, seed)
    encode = _tokenizer(tokenizer, declared.length)

    def load(positions: Sequence[int]) -> dict[str, NDArray[Any]]:
        with _wrapping_errors("tokenizer-fails", "The tokenizer fails on these texts"):
            encodings = encode.encode_batch([texts[kept[i]] for i in positions])
        rows = {
            "ids": [one.ids for one in encodings],
            "mask": [one.attention_mask for one in encodings],
            "types": [one.type_ids for one in encodings],
        }
        return {name: np.array(rows[part], dtype=np.int64) for name, part in declared.inputs.items()}

    return ExampleSource(
        kind="text",
        names=tuple(f"line {number + 1}" for number in kept),
        shapes=dict.fromkeys(declared.inputs, (declared.length,)),
        load=load,
        optional=True,
    )


def _texts(path: Path, field: str) -> list[str]:
    if path.stat().st_size > MAX_BYTES:
        raise InvalidInput(
            "text-too-large", f"The texts are larger than {MAX_BYTES >> 20} MiB.", "A few hundred settle an audit."
        )
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InvalidInput("not-text", f"The texts are not UTF-8 ({error.reason}).", "Save them as UTF-8.") from error
    if len(lines) > MAX_TEXTS:
        raise InvalidInput(
            "text-too-large", f"There are more than {MAX_TEXTS:,} lines of text.", "A few hundred settle an audit."
        )
    texts = [_text(line, number, field) for number, line in enumerate(lines, 1) if line.strip()]
    if not texts:
        raise InvalidInput("no-texts", "The file has no texts.", 'Write one JSON object a line: {"text": "…"}.')
    return texts


def _text(line: str, number: int, field: str) -> str:
    try:
        document = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(
            "not-json-lines", f"Line {number} is not JSON.", 'Write one JSON object a line: {"text": "…"}.'
        ) from error
    text = document.get(field) if isinstance(document, dict) else None
    if not isinstance(text, str):
        there = ", ".join(document) if isinstance(document, dict) else "no object"
        raise InvalidInput(
            "missing-field", f"Line {number} has no text in '{field}'; it has: {there}.", "Name the field in 'field'."
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(
            "not-text", f"Line {number} holds half a character.", "Cut texts between characters, not inside them."
        ) from error
    if len(text) > MAX_CHARACTERS:
        raise InvalidInput(
            "text-too-large",
            f"Line {number} has {len(text):,} characters; {MAX_CHARACTERS:,} are allowed.",
            "Cut it: the model reads its first tokens only.",
        )
    return text


def _tokenizer(path: Path, length: int) -> Tokenizer:
    """A tokenizer that pads and cuts texts to `length` tokens, with its own padding token if it has one."""
    if path.stat().st_size > MAX_TOKENIZER_BYTES:
        raise InvalidInput(
            "tokenizer-too-large",
            f"The tokenizer is larger than {MAX_TOKENIZER_BYTES >> 20} MiB.",
            "Send the tokenizer.json alone.",
        )
    with _wrapping_errors("not-a-tokenizer", "The tokenizer cannot be read"):
        tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
        padding = tokenizer.padding or {}
        named = {key: padding[key] for key in ("pad_id", "pad_type_id", "pad_token") if key in padding}
        tokenizer.enable_truncation(length)
        tokenizer.enable_padding(length=length, **named)
    return tokenizer


@contextmanager
def _wrapping_errors(code: str, sentence: str) -> Iterator[None]:
    """Turns every error of the library into `InvalidInput`; panics of its Rust code are no `Exception`."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:
        first = (str(error).splitlines() or [type(error).__name__])[0][:200]
        remedy = "Send the tokenizer.json that `tokenizer.save` of the tokenizers library wrote."
        raise InvalidInput(code, f"{sentence} ({first}).", remedy) from error
