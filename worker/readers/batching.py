"""Batches of example sets."""

from __future__ import annotations

from collections.abc import Iterator

from worker.engine.probe import Batch
from worker.readers.reading import ExampleSource


def batches(source: ExampleSource, size: int, rows: range | None = None) -> Iterator[Batch]:
    """All examples in order, or those of some rows, `size` at a time."""
    rows = range(len(source)) if rows is None else rows
    for start in range(rows.start, rows.stop, size):
        positions = range(start, min(start + size, rows.stop))
        yield Batch(start, source.names[positions.start : positions.stop], source.load(positions))
