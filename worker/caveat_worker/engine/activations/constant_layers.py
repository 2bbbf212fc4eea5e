"""Layers that are the same at every example of a concept and of its reference: no direction in one has a meaning."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caveat_worker.engine.activations.array_keys import Array, inner_key
from caveat_worker.engine.activations.requirements import Layer, Plan

ROUNDING = 1e-6
"""Departures up to this share of the largest activation are rounding, which the order of a sum decides."""
NUMBERS_AT_ONCE = 2**18

Find = Callable[[str], NDArray[Any] | None]
"""An array of the store by its key."""


def constant_layers(
    plan: Plan, keys: Mapping[Array, str], arrays: Mapping[Array, NDArray[Any]], find: Find
) -> dict[str, str]:
    """Layer → a sentence about the first concept at whose examples it does not vary, for each such layer.

    Activations are read until two examples differ, which nearly always are the first two; where only their inner
    products are known, by those.
    """
    found = {}
    for layer in plan.layers:
        for name, concept in plan.audit.concepts.items():
            sets = [one for one in (concept.examples, *concept.reference_sets) if one in plan.row_ranges]
            if sets and not any(_departures(layer, sets, keys, arrays, find)):
                count = sum(plan.row_ranges[one].stop - plan.row_ranges[one].start for one in sets)
                found[layer.name] = (
                    f"It is the same at all {count} examples of '{name}' and of its reference set, so that no "
                    "direction in it can mean anything."
                )
                break
    return found


def _departures(
    layer: Layer, sets: list[str], keys: Mapping[Array, str], arrays: Mapping[Array, NDArray[Any]], find: Find
) -> Iterator[bool]:
    """Whether examples depart from the first one, a few at a time."""
    first: Array = ("activations", sets[0], layer.name)

    def read(array: Array) -> NDArray[Any] | None:
        known = arrays.get(array)
        return find(keys[array]) if known is None else known

    origin = read(first)
    for name in sets:
        array: Array = ("activations", name, layer.name)
        rows = read(array)
        if origin is not None and rows is not None:
            step = max(2, NUMBERS_AT_ONCE // max(1, origin.shape[1]))
            for start in range(0, len(rows), step):
                away = np.abs(rows[start : start + step] - origin[0]).max(initial=0)
                yield bool(away > ROUNDING * np.abs(origin[0]).max(initial=0))
        else:
            yield examples_differ(first, array, keys, find)


def examples_differ(first: Array, other: Array, keys: Mapping[Array, str], find: Find) -> bool:
    """Whether any example of a set departs from the first of another, by ‖x − y‖² = x·x − 2 x·y + y·y."""
    whole, own = (find(inner_key(keys[array], keys[array])) for array in (first, other))
    between = find(inner_key(keys[first], keys[other]))
    if between is None and (turned := find(inner_key(keys[other], keys[first]))) is not None:
        between = turned.T
    if whole is None or own is None or between is None:
        return True
    squares = whole[0, 0] - 2 * between[0] + np.diagonal(own)
    return bool(squares.max() > ROUNDING**2 * whole[0, 0])
