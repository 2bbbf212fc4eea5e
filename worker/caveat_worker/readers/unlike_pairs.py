"""Pairs that share a name or a position and nothing else: the change between them is not the concept's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caveat_spec.audit import Audit
from caveat_spec.cautions import unlike_pairs
from caveat_worker.engine.base.arrays import Float64Array
from caveat_worker.readers.source import ExampleSource

MOST_PAIRS = 64
MOST_NUMBERS = 4_096
"""Numbers of an example that are compared, evenly spread over it."""
ALIKE = 3.0
"""Standard errors by which pairs that belong together have more in common than others; of sets of digits that do not
belong together, 7 of 1,000 have as much by chance (docs/decisions/0078)."""


def check_pairs(audit: Audit, sources: Mapping[str, ExampleSource]) -> Iterator[str]:
    """A sentence for each concept whose pictures or arrays are matched pairs by name only."""
    for concept in audit.concepts.values():
        base = audit.examples[concept.examples].pairs_with
        if base is None or sources[base].kind not in ("images", "arrays"):
            continue
        alike = _alikeness(*_paired(sources[concept.examples], sources[base]))
        if alike is not None and alike < ALIKE:
            yield (
                f"{unlike_pairs(concept.examples, base)}, so a change measured on them is not that of the concept "
                "alone. Give the same examples without and with the concept, or leave 'pairs_with' out."
            )


def _paired(shown: ExampleSource, base: ExampleSource) -> tuple[Float64Array, Float64Array]:
    """Numbers of the first pairs, [n, numbers] without and with the concept."""
    places = {key: place for place, key in enumerate(base.keys)}
    rows = [(row, places[key]) for row, key in enumerate(shown.keys) if key in places][:MOST_PAIRS]
    return _numbers(base, [there for _, there in rows]), _numbers(shown, [here for here, _ in rows])


def _numbers(source: ExampleSource, rows: list[int]) -> Float64Array:
    """What the model gets for some examples, a few thousand numbers of each."""
    found = [_thinned(source.load([row])) for row in rows]
    return np.stack(found) if found else np.zeros((0, 0))


def _thinned(values: Mapping[str, NDArray[Any]]) -> Float64Array:
    every = np.concatenate([values[name].ravel().astype(np.float64) for name in sorted(values)])
    return every[:: -(-len(every) // MOST_NUMBERS)]


def _alikeness(base: Float64Array, shown: Float64Array) -> float | None:
    """How much more pairs have in common than other couples, in standard errors; None where nothing varies.

    What examples have in common is the inner product of their departures from the mean of their set: a concept that
    moves all examples alike leaves it as it is, and one that inverts them turns its sign alone.
    """
    n = len(base)
    if n < 3:
        return None
    products = (base - base.mean(0)) @ (shown - shown.mean(0)).T
    others = products[~np.eye(n, dtype=bool)]
    spread = float(others.std())
    if not np.isfinite(spread) or spread <= 1e-9 * float(np.abs(products).max(initial=0)):
        return None
    return float(abs(np.diag(products).mean() - others.mean()) / (spread / np.sqrt(n)))
