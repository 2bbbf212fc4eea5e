"""The registry of readers: one row for each kind of examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import cast

from caveat_spec.audit import ExampleKind, Examples
from caveat_worker.readers.source import ExampleSource

Blob = Callable[[str], Path]
"""From the digest of a blob to the path of its bytes."""

READERS: dict[ExampleKind, tuple[str, str]] = {
    "images": ("caveat_worker.readers.images", "open_images"),
    "arrays": ("caveat_worker.readers.arrays", "open_arrays"),
    "table": ("caveat_worker.readers.tables", "open_table"),
    "text": ("caveat_worker.readers.texts", "open_texts"),
}
"""The module and the function of each reader, imported at first use: pandas, pyarrow and tokenizers load slowly."""


def reader_of(kind: ExampleKind) -> Callable[..., ExampleSource]:
    """The reader of a kind of examples: a function `(declared, *paths, seed)`, a path being None if it is left out.

    Readers of sets whose examples are counted and not named also take `lots`.
    """
    module, function = READERS[kind]
    reader: Callable[..., ExampleSource] = getattr(import_module(module), function)
    return reader


def open_examples(declared: Examples, blob: Blob, seed: int, lots: Sequence[str] = ()) -> ExampleSource:
    """Opens a declared example set, its half and sample drawn by `lots` where there are some.

    Raises `InvalidInput` for bytes that do not fit the declaration.
    """
    given = declared.sources()
    paths = (blob(given[field]) if field in given else None for field in declared.SOURCES)
    reader = reader_of(cast(ExampleKind, next(iter(declared.SOURCES))))
    return reader(declared, *paths, seed, lots) if lots else reader(declared, *paths, seed)
