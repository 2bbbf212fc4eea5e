"""Texts, encoded by a `tokenizer.json`."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from tokenizers import Tokenizer

from caveat_spec.audit import Text
from caveat_spec.csv_form import csv_form
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.readers.conditions import selected
from caveat_worker.readers.rows import read_rows, unreadable
from caveat_worker.readers.source import ExampleSource, beginning, is_dataset, is_tar, lots_in_pairs, sampled

MAX_BYTES = 256 * 2**20
MAX_TEXTS = 1_000_000
MAX_TOKENIZER_BYTES = 64 * 2**20
MAX_CHARACTERS = 100_000
"""Of one text: far more than any model reads, and far less than a tokenizer fails on."""


def open_texts(declared: Text, path: Path, tokenizer: Path, seed: int, lots: Sequence[str] = ()) -> ExampleSource:
    """Opens the texts of one field, int64 [length] for each of the model's inputs.

    A half and a sample are drawn by the number of a text, or by `lots`: those of the texts that they are paired with.

    Raises `InvalidInput` with the number of the line that has no text, and for unreadable tokenizers.
    """
    names, texts = _texts(declared, path)
    own = [str(int(name.rpartition(" ")[2]) - 1) for name in names]
    kept = sampled(lots_in_pairs(own, lots), declared, seed, names)
    encode = _tokenizer(tokenizer, declared.length)

    def load(positions: Sequence[int]) -> dict[str, NDArray[Any]]:
        with _wrapping_errors("tokenizer-fails", "The tokenizer fails on these texts"):
            encodings = encode.encode_batch([texts[kept[i]] for i in positions])
        rows = {
            "ids": [one.ids for one in encodings],
            "mask": [one.attention_mask for one in encodings],
            "types": [one.type_ids for one in encodings],
            "positions": [np.maximum(np.cumsum(one.attention_mask) - 1, 0) for one in encodings],
        }
        return {name: np.array(rows[part], dtype=np.int64) for name, part in declared.inputs.items()}

    def parts(position: int) -> dict[str, list[str]]:
        with _wrapping_errors("tokenizer-fails", "The tokenizer fails on these texts"):
            encoding = encode.encode(texts[kept[position]])
        tokens = encoding.tokens[: sum(encoding.attention_mask)]
        return dict.fromkeys(declared.inputs, tokens)

    return ExampleSource(
        kind="text",
        names=tuple(names[position] for position in kept),
        shapes=dict.fromkeys(declared.inputs, (declared.length,)),
        load=load,
        parts=parts,
        optional=True,
        positions=tuple(kept),
        lots=tuple(own),
    )


def _texts(declared: Text, path: Path) -> tuple[list[str], list[str]]:
    """The names and the texts of the chosen lines or rows."""
    if path.stat().st_size > MAX_BYTES:
        raise InvalidInput(
            "text-too-large", f"The texts are larger than {MAX_BYTES >> 20} MiB.", "A few hundred settle an audit."
        )
    if is_dataset(path) or is_tar(path) or _is_csv(path, declared.field):
        return _rows(declared, read_rows(path))
    return _lines(declared, path)


def _is_csv(path: Path, field: str) -> bool:
    """Whether the first line is a header with the field, and no JSON."""
    first = beginning(path).decode(errors="replace").lstrip("\ufeff").partition("\n")[0]
    try:
        return not first.lstrip().startswith("{") and field in next(
            csv.reader([first], delimiter=csv_form(first).separator), []
        )
    except csv.Error:
        return False


def _rows(declared: Text, table: pa.Table) -> tuple[list[str], list[str]]:
    if declared.field not in table.column_names:
        raise InvalidInput(
            "missing-field",
            f"The table has no column '{declared.field}'; it has: {', '.join(table.column_names)}.",
            "Name the column in 'field'.",
        )
    _check_count(table.num_rows)
    kept = selected(declared.where, table.append_column("", pa.array(range(1, table.num_rows + 1))))
    names = [f"row {row}" for row in kept.column("").to_pylist()]
    texts = kept.column(declared.field).to_pylist()
    return names, [
        _text({declared.field: text}, f"Row {name[4:]}", declared.field)
        for name, text in zip(names, texts, strict=True)
    ]


def _lines(declared: Text, path: Path) -> tuple[list[str], list[str]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InvalidInput("not-text", f"The texts are not UTF-8 ({error.reason}).", "Save them as UTF-8.") from error
    _check_count(len(lines))
    documents = {number: _document(line, number) for number, line in enumerate(lines, 1) if line.strip()}
    if not documents:
        raise InvalidInput("no-texts", "The file has no texts.", 'Write one JSON object a line: {"text": "…"}.')
    texts = [_text(document, f"Line {number}", declared.field) for number, document in documents.items()]
    names = [f"line {number + 1}" for number in range(len(texts))]
    if declared.where is None:
        return names, texts
    try:
        table = pa.Table.from_pylist(list(documents.values()))
    except pa.ArrowException as error:
        raise unreadable(error, "rows with the same fields") from error
    kept = selected(declared.where, table.append_column("", pa.array(range(len(texts))))).column("").to_pylist()
    return [names[position] for position in kept], [texts[position] for position in kept]


def _check_count(count: int) -> None:
    if count > MAX_TEXTS:
        raise InvalidInput(
            "text-too-large", f"There are more than {MAX_TEXTS:,} lines of text.", "A few hundred settle an audit."
        )


def _document(line: str, number: int) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(
            "not-json-lines", f"Line {number} is not JSON.", 'Write one JSON object a line: {"text": "…"}.'
        ) from error


def _text(document: Any, where: str, field: str) -> str:
    text = document.get(field) if isinstance(document, dict) else None
    if not isinstance(text, str):
        there = ", ".join(document) if isinstance(document, dict) else "no object"
        raise InvalidInput(
            "missing-field", f"{where} has no text in '{field}'; it has: {there}.", "Name the field in 'field'."
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(
            "not-text", f"{where} holds half a character.", "Cut texts between characters, not inside them."
        ) from error
    if len(text) > MAX_CHARACTERS:
        raise InvalidInput(
            "text-too-large",
            f"{where} has {len(text):,} characters; {MAX_CHARACTERS:,} are allowed.",
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
def _wrapping_errors(code: Literal["tokenizer-fails", "not-a-tokenizer"], sentence: str) -> Iterator[None]:
    """Turns every error of the library into `InvalidInput`; panics of its Rust code are no `Exception`."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:
        first = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise InvalidInput(
            code,
            f"{sentence} ({first}).",
            "Send the tokenizer.json that `tokenizer.save` of the tokenizers library wrote.",
        ) from error
