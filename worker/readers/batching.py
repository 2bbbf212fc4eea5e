"""Batches of a source, the next one read while the model works on the last."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from worker.engine.probe import Batch
from worker.readers.reading import ExampleSource


def batches(source: ExampleSource, size: int) -> Iterator[Batch]:
    """All examples in order, `size` at a time."""

    def read(start: int) -> Batch:
        positions = range(start, min(start + size, len(source)))
        return Batch(start, source.names[positions.start : positions.stop], source.load(positions))

    with ThreadPoolExecutor(1) as ahead:
        coming = ahead.submit(read, 0)
        for start in range(size, len(source), size):
            batch, coming = coming.result(), ahead.submit(read, start)
            yield batch
        yield coming.result()
