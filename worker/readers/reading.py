"""What every reader returns, and the one place that picks a reader."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from api_spec.audit import Arrays, Examples, Images, Table

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class ExampleSource:
    """Examples that can be loaded a batch at a time."""

    kind: Literal["images", "arrays", "table"]
    names: tuple[str, ...]
    """One a example, unique: a file name, or a row number."""
    shape: tuple[int, ...]
    """Of one example."""
    load: Callable[[Sequence[int]], NDArray[Any]] = field(repr=False)
    """Positions → array [n, *shape]."""
    thumbnail: Callable[[int, bool], bytes] | None = field(default=None, repr=False)
    """(position, blurred) → a small WebP, where examples are pictures."""
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


def open_examples(declared: Examples, path: Path, seed: int) -> ExampleSource:
    """The source of a declared example set whose bytes are at `path`; raises `Refused` for bytes that do not fit."""
    if isinstance(declared, Images):
        from worker.readers.images import open_images as open_declared
    elif isinstance(declared, Arrays):
        from worker.readers.arrays import open_arrays as open_declared  # type: ignore[assignment]
    elif isinstance(declared, Table):
        from worker.readers.tables import open_table as open_declared  # type: ignore[assignment]
    return open_declared(declared, path, seed)  # type: ignore[arg-type]


def sampled(names: Sequence[str], limit: int | None, seed: int) -> list[int]:
    """Positions of a seeded sample of `limit` names, in their order; equal names are chosen alike in every set."""
    if limit is None or limit >= len(names):
        return list(range(len(names)))
    ranks = [hashlib.sha256(f"{seed}:{Path(name).stem}".encode()).digest() for name in names]
    return sorted(int(position) for position in np.argsort(np.array(ranks), kind="stable")[:limit])
