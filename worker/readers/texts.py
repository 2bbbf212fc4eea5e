"""Texts in JSON lines, as the tokens of a `tokenizer.json`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from api_spec.audit import Text
from worker.engine.errors import Refused
from worker.readers.reading import ExampleSource, sampled

MAX_BYTES = 256 * 2**20
MAX_TEXTS = 1_000_000
MAX_TOKENIZER_BYTES = 64 * 2**20
MAX_CHARACTERS = 100_000
"""Of one text: far more than any model reads, far less than what a tokenizer chokes on."""


def open_texts(declared: Text, path: Path, tokenizer: Path, seed: int) -> ExampleSource:
    """Texts of one field, each as `length` tokens; raises `Refused` that names the line."""
    texts = _texts(path, declared.field)
    kept = sampled([str(number) for number in range(len(texts))], declared.limit, seed)
    encode = _tokenizer(tokenizer, declared.length)

    def load(positions: Sequence[int]) -> dict[str, NDArray[Any]]:
        with _refusing("tokenizer-fails", "The tokenizer fails on these texts"):
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
        raise Refused(
            "text-too-large", f"The texts are larger than {MAX_BYTES >> 20} MiB.", "A few hundred settle an audit."
        )
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise Refused("not-text", f"The texts are not UTF-8 ({error.reason}).", "Save them as UTF-8.") from error
    if len(lines) > MAX_TEXTS:
        raise Refused(
            "text-too-large", f"There are more than {MAX_TEXTS:,} lines of text.", "A few hundred settle an audit."
        )
    texts = [_text(line, number, field) for number, line in enumerate(lines, 1) if line.strip()]
    if not texts:
        raise Refused("no-texts", "The file holds no text.", 'Write one JSON object a line: {"text": "…"}.')
    return texts


def _text(line: str, number: int, field: str) -> str:
    try:
        document = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise Refused(
            "not-json-lines", f"Line {number} is not JSON.", 'Write one JSON object a line: {"text": "…"}.'
        ) from error
    text = document.get(field) if isinstance(document, dict) else None
    if not isinstance(text, str):
        there = ", ".join(document) if isinstance(document, dict) else "no object"
        raise Refused(
            "missing-field", f"Line {number} has no text in '{field}'; it has: {there}.", "Name the field in 'field'."
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Refused(
            "not-text", f"Line {number} holds half a character.", "Cut texts between characters, not inside them."
        ) from error
    if len(text) > MAX_CHARACTERS:
        raise Refused(
            "text-too-large",
            f"Line {number} has {len(text):,} characters; {MAX_CHARACTERS:,} are allowed.",
            "Cut it: the model reads its first tokens only.",
        )
    return text


def _tokenizer(path: Path, length: int) -> Tokenizer:
    """The tokenizer, padding and cutting to `length`; its own padding token where it names one."""
    if path.stat().st_size > MAX_TOKENIZER_BYTES:
        raise Refused(
            "tokenizer-too-large",
            f"The tokenizer is larger than {MAX_TOKENIZER_BYTES >> 20} MiB.",
            "Send the tokenizer.json alone.",
        )
    with _refusing("not-a-tokenizer", "The tokenizer cannot be read"):
        tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
        padding = tokenizer.padding or {}
        named = {key: padding[key] for key in ("pad_id", "pad_type_id", "pad_token") if key in padding}
        tokenizer.enable_truncation(length)
        tokenizer.enable_padding(length=length, **named)
    return tokenizer


@contextmanager
def _refusing(code: str, sentence: str) -> Iterator[None]:
    """Refuses whatever the library runs into: plain exceptions, and panics of its Rust, which pass `Exception` by."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:
        first = (str(error).splitlines() or [type(error).__name__])[0][:200]
        remedy = "Send the tokenizer.json that `tokenizer.save` of the tokenizers library wrote."
        raise Refused(code, f"{sentence} ({first}).", remedy) from error
