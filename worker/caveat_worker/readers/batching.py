"""Divides example sets into batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from numpy.typing import NDArray

from caveat_worker.engine.activations.batches import Batch
from caveat_worker.engine.base.errors import error_context
from caveat_worker.readers.source import ExampleSource


def batches(source: ExampleSource, size: int, rows: range | None = None) -> Iterator[Batch]:
    """Yields batches of up to `size` examples in order: all examples, or a range of rows."""
    rows = range(len(source)) if rows is None else rows
    for start in range(rows.start, rows.stop, size):
        positions = range(start, min(start + size, rows.stop))
        yield Batch(start, source.names[positions.start : positions.stop], source.load(positions))


def each_batch(
    sources: Mapping[str, ExampleSource], sizes: Mapping[str, int], rows: Mapping[str, range] | None = None
) -> Iterator[tuple[str, Batch]]:
    """The batches of each example set, or of some of its rows; errors point to the set."""
    for name, size in sizes.items():
        with error_context(f"/examples/{name}"):
            for batch in batches(sources[name], size, None if rows is None else rows[name]):
                yield name, batch


def first_examples(sources: Mapping[str, ExampleSource], name: str, count: int) -> Mapping[str, NDArray[Any]]:
    """The model's inputs [n, …] for up to `count` examples of a set, from its first on."""
    with error_context(f"/examples/{name}"):
        return sources[name].load(range(min(count, len(sources[name]))))
