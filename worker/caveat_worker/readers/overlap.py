"""Examples that a concept shares with its reference set, and pairs that do not differ: neither shows the concept."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caveat_spec.audit import Audit
from caveat_worker.readers.batching import batches
from caveat_worker.readers.source import ExampleSource

AT_ONCE = 256
"""Examples that are held at a time while they are compared."""


def check_overlaps(audit: Audit, sources: Mapping[str, ExampleSource]) -> Iterator[str]:
    """A sentence for each concept that has examples of its reference set, and for pairs without a difference."""
    known: dict[str, Sequence[bytes]] = {}
    for name, concept in audit.concepts.items():
        base = audit.examples[concept.examples].pairs_with
        if base is not None and _same_inputs(sources[concept.examples], sources[base]):
            yield (
                f"The model gets the same input with and without '{name}' in all {len(sources[concept.examples])} "
                f"pairs of '{concept.examples}' and '{base}'. Check that they differ in something that the model takes."
            )
            continue
        if base is not None and sources[base].kind == "table":
            continue  # an edit leaves the rows that have its value already as they are
        for examples in (concept.examples, *concept.reference_sets):
            known.setdefault(examples, _contents(sources[examples]))
        for reference in concept.reference_sets:
            shared = len(set(known[reference]).intersection(known[concept.examples]))
            if shared:
                yield (
                    f"{shared} of the {len(sources[concept.examples])} examples of concept '{name}' "
                    f"('{concept.examples}') {'is' if shared == 1 else 'are'} also in its reference set '{reference}', "
                    "which makes the concept look weaker than it is. Leave them out of one of the two."
                )


def _same_inputs(shown: ExampleSource, base: ExampleSource) -> bool:
    """Whether each example is, for the model, the one that it is paired with."""
    if shown.kind != "images" and list(shown.keys) == list(base.keys):
        pairs = zip(batches(shown, AT_ONCE), batches(base, AT_ONCE), strict=True)
        return all(_are_equal(one.values[name], other.values[name]) for one, other in pairs for name in one.values)
    both = [
        (source.keys, _contents(source) if source.kind == "images" else _inputs(source)) for source in (shown, base)
    ]
    of_shown, of_base = (dict(zip(keys, inputs, strict=True)) for keys, inputs in both)
    return all(of_base.get(key) == found for key, found in of_shown.items())


def _are_equal(one: NDArray[Any], other: NDArray[Any]) -> bool:
    return np.array_equal(one, other, equal_nan=one.dtype.kind == "f")


def _contents(source: ExampleSource) -> Sequence[bytes]:
    """A digest of each example: of its file or row where the reader gives one, else of the model's inputs."""
    return _inputs(source) if source.contents is None else source.contents()


def _inputs(source: ExampleSource) -> list[bytes]:
    """A digest of what the model gets for each example."""
    return [
        hashlib.blake2b(b"".join(_bytes(batch.values[name][row]) for name in sorted(batch.values))).digest()
        for batch in batches(source, AT_ONCE)
        for row in range(len(batch.names))
    ]


def _bytes(values: Any) -> bytes:
    """An example's numbers, or its texts: arrays of objects hold only where these are."""
    array = np.asarray(values)
    return array.tobytes() if array.dtype != object else "\0".join(map(str, array.ravel())).encode()
