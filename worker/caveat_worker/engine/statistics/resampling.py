"""Every random draw of an audit: which examples take the concept's place, and how often each one counts.

A draw is a row of weights over the n examples of a concept and its reference set, the concept's first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caveat_worker.engine.base.arrays import Float64Array, Indices

Sets = NDArray[np.bool_]
MOST_COUNTS = 1 << 20
"""Counts of resampled examples, or drawn signs, that are held at a time."""
BRACKET = 5
"""Standard deviations around where a quantile of random numbers is expected: it lies outside once in a million rows."""
IN_CACHE = 1 << 16
"""Drawn numbers that are worked on at a time, which is faster where the processor's cache has them."""


def random_sets(n: int, size: int, count: int, rng: np.random.Generator) -> Sets:
    """`count` sets of `size` out of `n` examples [count, n], each set equally likely."""
    sets = np.zeros((count, n), dtype=bool)
    for part in _in_cache(sets) if size else ():
        part[:] = _smallest(rng.random(part.shape), np.full(len(part), size), np.full(len(part), n))
    return sets


def swapped_pairs(n: int, partners: Indices, count: int, rng: np.random.Generator) -> Sets:
    """`count` sets [count, n] that take one of each pair by a fair coin: example i, or its partner `partners[i]`."""
    heads = rng.random((count, len(partners))) < 0.5
    sets = np.zeros((count, n), dtype=bool)
    sets[:, : len(partners)] = heads
    sets[:, partners] = ~heads
    return sets


def reference_draws(n_concept: int, n_reference: int, count: int, rng: np.random.Generator) -> Sets:
    """`count` draws [count, n] from the reference set: as many examples as the concept has, at most half of the set."""
    size = draw_size(n_concept, n_reference)
    return np.hstack([np.zeros((count, n_concept), dtype=bool), random_sets(n_reference, size, count, rng)])


def draw_size(n_concept: int, n_reference: int) -> int:
    """How many reference examples one run takes: never so many that all runs take the same ones."""
    return max(1, min(n_concept, n_reference // 2))


def bootstrap_counts(n: int, count: int, rng: np.random.Generator) -> Float64Array:
    """How often each of `n` examples is drawn in `count` resamples [count, n] with replacement."""
    counts = np.empty((count, n))
    for part in _in_cache(counts):
        drawn = rng.integers(n, size=part.shape) + n * np.arange(len(part))[:, None]  # a third of multinomial's time
        part[:] = np.bincount(drawn.ravel(), minlength=part.size).reshape(part.shape)
    return counts


def bootstrap_sides(
    n_concept: int, n_reference: int, partners: Indices | None, count: int, rng: np.random.Generator
) -> tuple[Float64Array, Float64Array]:
    """Resamples of concept and reference, each [count, n]; a pair stays together, because it was drawn together."""
    n = n_concept + n_reference
    concept, reference = np.zeros((count, n)), np.zeros((count, n))
    concept[:, :n_concept] = bootstrap_counts(n_concept, count, rng)
    if partners is None:
        reference[:, n_concept:] = bootstrap_counts(n_reference, count, rng)
        return concept, reference
    reference[:, partners] = concept[:, :n_concept]
    alone = _without_partner(n, partners)
    if len(alone):
        reference[:, alone] = bootstrap_counts(len(alone), count, rng)
    return concept, reference


def fold_numbers(sets: Sets, folds: int, partners: Indices | None, rng: np.random.Generator) -> Indices:
    """A fold for each example in each of R labellings [R, n]: both labels spread evenly, pairs kept in one fold."""
    if partners is None:
        return np.where(sets, _ranks(sets, rng), _ranks(~sets, rng)) % folds
    n_concept = len(partners)
    numbers = np.empty(sets.shape, dtype=np.intp)
    pairs = rng.random((len(sets), n_concept)).argsort(axis=1) % folds
    numbers[:, :n_concept] = numbers[:, partners] = pairs
    alone = _without_partner(sets.shape[1], partners)
    numbers[:, alone] = rng.random((len(sets), len(alone))).argsort(axis=1) % folds
    return numbers


def _without_partner(n: int, partners: Indices) -> Indices:
    """The reference examples, of n with the concept's before them, that are in no pair."""
    alone = np.arange(n) >= len(partners)
    alone[partners] = False
    return np.flatnonzero(alone)


def bootstrap_parts(n: int, count: int, rng: np.random.Generator) -> Iterator[Float64Array]:
    """The rows of `bootstrap_counts`, some after the other, where they are not held all at once."""
    return (bootstrap_counts(n, some, rng) for some in parts(n, count))


def parts(n: int, count: int) -> list[int]:
    """How many of `count` draws over n examples are held at a time, one part after the other."""
    most = max(1, MOST_COUNTS // n)
    return [min(most, count - start) for start in range(0, count, most)]


def bootstrap_means(values: Float64Array, count: int, rng: np.random.Generator) -> Float64Array:
    """The mean of each of `count` resamples of values [n]."""
    n = len(values)
    return np.concatenate([counts @ values / n for counts in bootstrap_parts(n, count, rng)])


def matched(positives: Sets, negatives: Sets, rng: np.random.Generator) -> tuple[Sets, Sets]:
    """Random subsets of both sides [R, n] that have as many examples as the smaller side."""
    size = np.minimum(positives.sum(1), negatives.sum(1))
    return _some(positives, size, rng), _some(negatives, size, rng)


def _some(members: Sets, sizes: Indices, rng: np.random.Generator) -> Sets:
    """Random `sizes` [R] of each row's members: those with the smallest of as many random numbers."""
    among, sets, start = _counted(members), members.copy(), 0
    for part in _in_cache(sets):
        rows, start = slice(start, start + len(part)), start + len(part)
        drawn = rng.random(part.shape)
        if (sizes[rows] < among[rows]).any():
            drawn[~part] = np.inf
            part[:] = _smallest(drawn, sizes[rows], among[rows])
    return sets


def _in_cache(rows: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Some of the rows [R, n] after the other: numbers drawn for each are those drawn for all at once."""
    some = max(1, IN_CACHE // max(1, rows.shape[1]))
    return (rows[start : start + some] for start in range(0, len(rows), some))


def _smallest(drawn: Float64Array, sizes: Indices, among: Indices) -> Sets:
    """The places of the `sizes` [R] smallest numbers of each row [R, n], of which `among` [R] are uniform in [0, 1).

    The others are infinite. Nearly always the largest of them lies within a few standard deviations of its place, so
    that hardly any number has to be sorted; `numpy.partition`, which looks at all, is left for the other rows.
    """
    share = sizes / np.maximum(among, 1)
    spread = BRACKET * np.sqrt(np.maximum(share * (1 - share), 0) / np.maximum(among, 1))
    under = drawn < (share - spread)[:, None]
    near = (drawn < (share + spread)[:, None]) ^ under
    wanted = sizes - _counted(under)
    places = np.flatnonzero(near)
    rows = places // drawn.shape[1]
    there = np.bincount(rows, minlength=len(drawn))
    candidates = np.full((len(drawn), max(1, there.max(initial=0))), np.inf)
    candidates[rows, np.arange(len(rows)) - (there.cumsum() - there)[rows]] = drawn.ravel()[places]
    candidates.sort(axis=1)
    last = candidates[np.arange(len(drawn)), np.clip(wanted - 1, 0, candidates.shape[1] - 1)]
    last[sizes >= among], last[sizes <= 0] = 1, -1
    for row in np.flatnonzero((sizes > 0) & (sizes < among) & ((wanted < 1) | (wanted > there))):
        last[row] = np.partition(drawn[row], sizes[row] - 1)[sizes[row] - 1]
    sets: Sets = drawn <= last[:, None]
    for row in np.flatnonzero(_counted(sets) > sizes):  # two equal numbers, once in millions of years
        sets[row, sets[row].nonzero()[0][sizes[row] :]] = False
    return sets


def _counted(sets: Sets) -> Indices:
    """How many examples each set [R, n] has: `sum` takes several times as long."""
    found: Indices = np.bitwise_count(np.packbits(sets, axis=1)).sum(1, dtype=np.intp)
    return found


def _ranks(members: Sets, rng: np.random.Generator) -> Indices:
    """A random order of each row's members from 0 [R, n]; 0 for others."""
    drawn = rng.random(members.shape)
    ranks = np.zeros(members.shape, dtype=np.intp)
    for row, there in enumerate(members):
        (own,) = there.nonzero()
        ranks[row, own[drawn[row, own].argsort()]] = np.arange(len(own))
    return ranks
