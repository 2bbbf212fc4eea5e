"""Patches: what each place of a layer is like, by the example of a set that has a place most like it.

Likeness is the cosine between activations, so that it is the mix of channels that counts and not their size; that is
what a patch is drawn as large as (an activation grid: Olah et al. 2018).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from caveat_spec.explained import MOST_PAIR_CELLS, Figure, Patch, Patches
from caveat_worker.engine.base.arrays import AnyArray, Float64Array, Indices
from caveat_worker.engine.explanations.atoms import by_position, strongest
from caveat_worker.engine.panels.grids import block_side, blocks, rounded_up
from caveat_worker.engine.panels.icons import Measure, Pictured, Responses, Sight, icon_of

MOST_IN_A_ROW = MOST_PAIR_CELLS**2
"""Places of a layer that has no rows and columns."""
THE_SAME = 1 - 1e-6
"""The cosine from which an example is the one that is shown, if all places have it."""
UNLIKE = 0.5
"""The cosine below which nothing in the set is like a place."""


@dataclass(frozen=True)
class Cells:
    """The places of one example that are drawn, each alone or as the strongest of a block."""

    shape: tuple[int, ...]
    """Rows and columns, or how many there are."""
    side: int
    """Places on each side of a block."""
    places: Indices
    """The number of each place in the layer, row by row."""
    numbers: Float64Array
    """What each is drawn as large as."""
    vectors: Float64Array
    """The activations there [k, channels], of length 1; 0 where a place has none."""
    left_out: int = 0
    """Places that are not drawn."""

    @classmethod
    def of(cls, values: Float64Array, a: AnyArray, tokens: int | None, *, additive: bool) -> Cells:
        """Of numbers [*positions] of a layer whose activations are [1, …], the places of padding left out."""
        wide = by_position(a)[0].astype(float)
        sizes = np.linalg.norm(wide, axis=1)
        units = wide / np.maximum(sizes, np.finfo(float).tiny)[:, None]
        if values.ndim == 1:
            count = len(values) if tokens is None else min(tokens, len(values))
            most = np.sort(np.argsort(-sizes[:count], kind="stable")[:MOST_IN_A_ROW])
            return cls((len(most),), 1, most, values[most], units[most], count - len(most))
        side = block_side(values.shape, MOST_PAIR_CELLS)
        numbers = blocks(values, additive=additive, most=MOST_PAIR_CELLS)
        wide_sizes = sizes.reshape(values.shape)
        found = [_strongest_of(wide_sizes, y, x, side) for y, x in np.ndindex(*numbers.shape)]
        places = np.array([np.ravel_multi_index(one, values.shape) for one in found], np.intp)
        return cls(numbers.shape, side, places, numbers.ravel(), units[places])


def _strongest_of(sizes: Float64Array, y: int, x: int, side: int) -> tuple[int, int]:
    """The row and column of the strongest place of a block."""
    block = sizes[y * side : (y + 1) * side, x * side : (x + 1) * side]
    down, across = np.unravel_index(int(block.argmax()), block.shape)
    return y * side + int(down), x * side + int(across)


def nearest_to(cells: Cells) -> Measure:
    """For each cell, the largest cosine with a place of each example, and where that is."""

    def measured(a: AnyArray, tokens: Indices | None) -> tuple[Float64Array, Indices]:
        found = [
            _nearest(cells.vectors, one[None], None if tokens is None else tokens[[row]]) for row, one in enumerate(a)
        ]
        return np.concatenate([values for values, _ in found]), np.concatenate([places for _, places in found])

    return measured


def _nearest(vectors: Float64Array, a: AnyArray, tokens: Indices | None) -> tuple[Float64Array, Indices]:
    """The same for one example [1, …]."""
    wide = by_position(a).astype(float)
    sizes = np.maximum(np.linalg.norm(wide, axis=2, keepdims=True), np.finfo(float).tiny)
    return strongest((wide / sizes) @ vectors.T, tokens)


def with_patches(
    figure: Figure, examples: str, cells: Cells, found: Responses, own: Collection[int], sight: Sight,
    pictured: Pictured, words: list[str],
) -> Figure:  # fmt: skip
    """A figure with a patch for each cell, from other examples than `own` and those that are the same everywhere."""
    others = found.values.copy()
    others[[*own]] = -np.inf
    others[(found.values >= THE_SAME).all(1)] = -np.inf
    rows = others.argmax(0)
    places = []
    for number, row in enumerate(rows):
        cosine = float(others[row, number])
        known = bool(cells.vectors[number].any()) and np.isfinite(cosine)
        at = np.unravel_index(number, cells.shape) if len(cells.shape) == 2 else (cells.places[number],)
        like = icon_of(1.0, examples, int(row), cosine, int(found.places[row, number]), sight, pictured)
        places.append(
            Patch(place=[int(axis) for axis in at], value=float(cells.numbers[number]), like=like if known else None)
        )
    patches = Patches(
        set=examples,
        examples=len(pictured.source.names[examples]),
        shape=list(cells.shape),
        sees=sight.sees,
        places=places,
    )
    return figure.model_copy(
        update={
            "patches": patches,
            "words": words,
            "sentence": f"{figure.sentence}{_strongest(patches, words)}",
            "notes": [*figure.notes, *_notes(cells, patches)],
        }
    )


def on_one_scale(figures: Sequence[Figure]) -> list[Figure]:
    """Figures whose patches are drawn on the scale of the largest of all."""
    sizes = [abs(one.value) for figure in figures if figure.patches is not None for one in figure.patches.places]
    return [figure.model_copy(update={"scale": rounded_up(max(sizes, default=0.0))}) for figure in figures]


def _strongest(patches: Patches, words: list[str]) -> str:
    """Which example the place with the largest number is most like."""
    there = [one for one in patches.places if one.like is not None]
    if not there:
        return f" No example of {patches.set} is like any of them."
    first = max(there, key=lambda one: abs(one.value))
    assert first.like is not None, "those without were left out"
    where = _where(first, words)
    return f" In {patches.set}, {where} is most like {first.like.example} (cosine {first.like.value:.2f})."


def _where(one: Patch, words: list[str]) -> str:
    if len(one.place) == 2:
        return f"the place in row {one.place[0] + 1}, column {one.place[1] + 1}"
    return words[one.place[0]] if one.place[0] < len(words) else f"place {one.place[0]}"


def _notes(cells: Cells, patches: Patches) -> list[str]:
    """How like its patch a place is, and which places are drawn together or not at all."""
    cosines = sorted(one.like.value for one in patches.places if one.like is not None)
    notes = []
    if cosines:
        few = sum(one < UNLIKE for one in cosines)
        pale = f"; {few} below {UNLIKE:g}, to which nothing there is like, are drawn pale" if few else ""
        notes.append(
            f"The cosine between a place and its patch is {cosines[len(cosines) // 2]:.2f} in the middle and "
            f"{cosines[0]:.2f} at least{pale}."
        )
    if cells.side > 1:
        notes.append(f"Each stands for {cells.side} x {cells.side} places, and its patch is that of the strongest.")
    if cells.left_out:
        notes.append(f"{cells.left_out} places with smaller activations are left out.")
    return notes
