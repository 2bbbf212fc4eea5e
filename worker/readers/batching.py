"""Batches of example sets, the next one read while the model works on the last."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from worker.engine.probe import Batch
from worker.readers.reading import ExampleSource

T = TypeVar("T")


def batches(source: ExampleSource, size: int) -> Iterator[Batch]:
    """All examples in order, `size` at a time."""
    for start in range(0, len(source), size):
        positions = range(start, min(start + size, len(source)))
        yield Batch(start, source.names[positions.start : positions.stop], source.load(positions))


def ahead(of: Iterable[T]) -> Iterator[T]:
    """The same, each made by another thread while the one before it is in use."""
    source = iter(of)
    end = object()
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(next, source, end)
        while (one := coming.result()) is not end:
            coming = reader.submit(next, source, end)
            yield one  # type: ignore[misc]
