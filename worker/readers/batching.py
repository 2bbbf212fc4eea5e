"""Batches of example sets."""

from __future__ import annotations

from collections.abc import Iterator

from worker.engine.probe import Batch
from worker.readers.reading import ExampleSource


def batches(source: ExampleSource, size: int) -> Iterator[Batch]:
    """All examples in order, `size` at a time."""
    for start in range(0, len(source), size):
        positions = range(start, min(start + size, len(source)))
        yield Batch(start, source.names[positions.start : positions.stop], source.load(positions))
