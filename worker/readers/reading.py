"""What every reader returns, and the one place that picks a reader."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from api_spec.audit import Arrays, Examples, Images, Table, Text

if TYPE_CHECKING:
    import pandas


Blob = Callable[[str], Path]
"""Digest → where its bytes are."""


@dataclass(frozen=True)
class ExampleSource:
    """Examples that can be loaded a batch at a time."""

    kind: Literal["images", "arrays", "table", "text"]
    names: tuple[str, ...]
    """One a example, unique: a file name, or a row number."""
    shapes: Mapping[str, tuple[int, ...]]
    """Of one example: the model's input → its shape; `ONLY` where the model has one input, whatever it is called."""
    load: Callable[[Sequence[int]], dict[str, NDArray[Any]]] = field(repr=False)
    """Positions → input → array [n, *shape]."""
    thumbnail: Callable[[int, bool], bytes] | None = field(default=None, repr=False)
    """(position, blurred) → a small WebP, where examples are pictures."""
    optional: bool = False
    """Whether the model may lack some of the inputs."""
    columns: Callable[[Sequence[str]], pandas.DataFrame] | None = field(default=None, repr=False)
    """Names → columns as they were read, where examples are rows of a table."""

    def __len__(self) -> int:
        return len(self.names)

    @property
    def keys(self) -> tuple[str, ...]:
        """What examples pair by: the file name without folder and ending, or the position."""
        if self.kind == "images":
            return tuple(Path(name).stem for name in self.names)
        return tuple(str(position) for position in range(len(self)))


def open_examples(declared: Examples, blob: Blob, seed: int) -> ExampleSource:
    """The source of a declared example set; raises `Refused` for bytes that do not fit the declaration."""
    if isinstance(declared, Images):
        from worker.readers.images import open_images

        return open_images(declared, blob(declared.images), seed)
    if isinstance(declared, Arrays):
        from worker.readers.arrays import open_arrays

        return open_arrays(declared, blob(declared.arrays), seed)
    if isinstance(declared, Table):
        from worker.readers.tables import open_table

        return open_table(declared, blob(declared.table), seed)
    assert isinstance(declared, Text)
    from worker.readers.texts import open_texts

    return open_texts(declared, blob(declared.text), blob(declared.tokenizer), seed)


def is_zip(path: Path) -> bool:
    """Whether the bytes end like a zip, be it one that cannot be read."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:
        return True


def sampled(names: Sequence[str], limit: int | None, seed: int) -> list[int]:
    """Positions of a seeded sample of `limit` names, in their order; equal names are chosen alike in every set."""
    if limit is None or limit >= len(names):
        return list(range(len(names)))
    ranks = [hashlib.sha256(f"{seed}:{Path(name).stem}".encode()).digest() for name in names]
    return sorted(int(position) for position in np.argsort(np.array(ranks), kind="stable")[:limit])
