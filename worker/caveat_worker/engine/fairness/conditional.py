"""Selection rates of groups given other columns: conditional statistical parity (Corbett-Davies et al. 2017).

Each group's rates by stratum are averaged with the shares that the strata have among everybody compared (direct
standardisation), so that groups differ in their decisions and no longer in those columns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from caveat_spec.base import Interval
from caveat_spec.results import SMALL_GROUP, ConditionalDifference, Disagreement, Estimate
from caveat_worker.engine.base.arrays import Float64Array, Indices
from caveat_worker.engine.fairness.strata import strata
from caveat_worker.engine.statistics.intervals import percentile_interval
from caveat_worker.engine.statistics.resampling import bootstrap_counts

SMALL_CELL = 10
"""A stratum counts where every compared group has so many people in it."""
TINY = 1e-12
"""What stands for a rate of 0 in a logarithm."""
_Counts = tuple[Float64Array, Float64Array]
"""People, and favourable decisions among them, by group and stratum [B, groups, strata]."""


@dataclass(frozen=True)
class Given:
    """The columns [n] in which people are to be alike, and how often the people are resampled."""

    columns: Mapping[str, NDArray[Any]]
    resamples: int
    rng: np.random.Generator

    def among(self, people: NDArray[np.bool_]) -> Given:
        """The same of some people only."""
        return replace(self, columns={name: values[people] for name, values in self.columns.items()})


@dataclass(frozen=True)
class Conditional:
    """What a comparison gives once other columns are held fixed."""

    difference: ConditionalDifference
    rates: dict[int, Estimate]
    """The standardised selection rate of each compared group, by its number."""
    metrics: dict[str, Estimate]


def compare_given(
    chosen: Float64Array,
    members: NDArray[np.bool_],
    names: Sequence[str],
    given: Given,
    alpha: float,
) -> Conditional | None:
    """Groups (`members` [groups, n], named) compared in their decisions [n] within strata of columns.

    Groups under 30 people, and strata where a compared group has under 10, are left out and counted; None if fewer than
    two groups or no stratum is left.
    """
    groups = [number for number, group in enumerate(members) if group.sum() >= SMALL_GROUP]
    if len(groups) < 2:
        return None
    found = strata(given.columns, int(members[groups].sum(axis=1).min()))
    cells = _Cells.of(chosen, members[groups], found.of)
    if cells is None:
        return None
    counts = cells.resampled(given.resamples, given.rng)
    alike, crude = _Rates.of(counts, _standardised), _Rates.of(counts, _pooled)
    share = alpha / (len(groups) * (len(groups) - 1) / 2)
    low, high = (int(end) for end in np.argsort(crude.value, kind="stable")[[0, -1]])
    before, after = (one.contrast(high, low, share) for one in (crude, alike))
    difference = ConditionalDifference(
        given=list(given.columns),
        strata=cells.strata,
        people=len(cells.people),
        rest=len(chosen) - len(cells.people),
        higher=names[groups[high]],
        lower=names[groups[low]],
        crude=before,
        conditional=after,
        disagreement=_disagreement(before, after),
        sentence="",
    )
    return Conditional(
        difference.model_copy(update={"sentence": _sentence(difference, found.words)}),
        rates={number: alike.estimate(place, alpha) for place, number in enumerate(groups)},
        metrics=alike.metrics(share),
    )


BLOCK = 1 << 22
"""Weights of people in resamples that memory holds at a time."""


@dataclass(frozen=True)
class _Cells:
    """The people who are compared, each in a cell: a group within a stratum."""

    people: Indices
    """Their numbers among everybody."""
    cell: Indices
    """The cell of each of them; the cells of one group stand together."""
    chosen: Float64Array
    groups: int
    strata: int
    everybody: int

    @staticmethod
    def of(chosen: Float64Array, members: NDArray[np.bool_], stratum: Indices) -> _Cells | None:
        """The strata where every group has enough people; None if there is none."""
        sizes = np.array([np.bincount(stratum[group], minlength=stratum.max() + 1) for group in members])
        large = np.asarray((sizes >= SMALL_CELL).all(axis=0))
        if not large.any():
            return None
        people = np.flatnonzero(members.any(axis=0) & large[stratum])
        number = np.cumsum(large) - 1
        cell = members[:, people].argmax(axis=0) * int(large.sum()) + number[stratum[people]]
        return _Cells(people, cell, chosen[people], len(members), int(large.sum()), len(chosen))

    def resampled(self, resamples: int, rng: np.random.Generator) -> _Counts:
        """The counts of everybody, and then of each resample, of which memory holds a block at a time."""
        everybody = self.everybody
        each = max(1, BLOCK // everybody)
        sizes = [min(each, resamples - start) for start in range(0, resamples, each)]
        parts = [self.counts(np.ones((1, everybody)))]
        parts += [self.counts(bootstrap_counts(everybody, size, rng)) for size in sizes]
        people, chosen = (np.concatenate(each) for each in zip(*parts, strict=True))
        return people, chosen

    def counts(self, weights: Float64Array) -> _Counts:
        """How many people, and how many favourable decisions, each cell has when people count by `weights` [B, n]."""
        size, shape = self.groups * self.strata, (len(weights), self.groups, self.strata)
        everybody = weights.shape[1]
        in_cell = csr_array((np.ones(len(self.people)), (self.cell, self.people)), shape=(size, everybody))
        chosen = csr_array((self.chosen, (self.cell, self.people)), shape=(size, everybody))
        return (in_cell @ weights.T).T.reshape(shape), (chosen @ weights.T).T.reshape(shape)


def _standardised(people: Float64Array, chosen: Float64Array) -> Float64Array:
    """The rates of groups [B, groups], averaged over those strata that have people of all groups."""
    weights = people.sum(axis=1) * (people > 0).all(axis=1)
    rates = np.divide(chosen, people, out=np.zeros_like(people), where=people > 0)
    with np.errstate(invalid="ignore"):
        averages: Float64Array = (rates * weights[:, None]).sum(axis=2) / weights.sum(axis=1, keepdims=True)
    return averages


def _pooled(people: Float64Array, chosen: Float64Array) -> Float64Array:
    """The rates of groups [B, groups] without regard to strata."""
    with np.errstate(invalid="ignore"):
        rates: Float64Array = chosen.sum(axis=2) / people.sum(axis=2)
    return rates


@dataclass(frozen=True)
class _Rates:
    """The rate of each group [groups], and in each resample [B, groups]."""

    value: Float64Array
    resamples: Float64Array

    @staticmethod
    def of(counts: _Counts, average: Callable[[Float64Array, Float64Array], Float64Array]) -> _Rates:
        """From the counts of everybody, and of each resample after that."""
        rates = average(*counts)
        return _Rates(rates[0], rates[1:])

    def estimate(self, group: int, alpha: float) -> Estimate:
        return Estimate(value=float(self.value[group]), interval=percentile_interval(self.resamples[:, group], alpha))

    def contrast(self, first: int, second: int, alpha: float) -> Estimate:
        """The difference of two groups, with its sign."""
        return Estimate(
            value=float(self.value[first] - self.value[second]),
            interval=percentile_interval(self.resamples[:, first] - self.resamples[:, second], alpha),
        )

    def metrics(self, alpha: float) -> dict[str, Estimate]:
        """The largest difference and the smallest ratio between any two groups.

        Resamples of a largest difference lie above it, so that its interval is that of signed differences without
        their sign: of all pairs together, each at the share `alpha` of the level.
        """
        found = {"conditional_selection_rate_difference": _largest(self, alpha)}
        if self.value.max() > 0:
            logarithms = _Rates(*(np.log(np.maximum(rates, TINY)) for rates in (self.value, self.resamples)))
            high, low = (float(np.exp(-end)) for end in _largest(logarithms, alpha).interval)
            found["conditional_selection_rate_ratio"] = Estimate(
                value=float(self.value.min() / self.value.max()), interval=(low, high)
            )
        return found


def _largest(rates: _Rates, alpha: float) -> Estimate:
    """The largest absolute difference between two groups."""
    pairs = combinations(range(len(rates.value)), 2)
    ends = [_without_sign(rates.contrast(first, second, alpha).interval) for first, second in pairs]
    return Estimate(
        value=float(rates.value.max() - rates.value.min()),
        interval=(max(low for low, _ in ends), max(high for _, high in ends)),
    )


def _without_sign(interval: Interval) -> Interval:
    low, high = interval
    near, far = sorted((abs(low), abs(high)))
    return 0.0 if low <= 0 <= high else near, far


def _disagreement(crude: Estimate, conditional: Estimate) -> Disagreement | None:
    """How the two differ, as far as their intervals show."""
    before, after = _sign(crude.interval), _sign(conditional.interval)
    if before == after or (before and not after and _holds(conditional.interval, crude.value)):
        return None
    if before and after:
        return "reversed"
    return "explained" if before else "masked"


def _sign(interval: Interval) -> int:
    """1 or -1 if a whole interval lies on that side of 0, else 0."""
    low, high = interval
    return int(low > 0) - int(high < 0)


def _holds(interval: Interval, value: float) -> bool:
    return interval[0] <= value <= interval[1]


_MEANING: dict[Disagreement, str] = {
    "explained": "Among people who are alike in that, no difference is found: it accounts for the crude one. Whether "
    "it may decide is another question.",
    "reversed": "This is Simpson's paradox: among people who are alike in that, the difference has the other sign, and "
    "the crude one comes from how the groups are spread over it.",
    "masked": "This is Simpson's paradox: among people who are alike in that, the groups are treated differently, and "
    "the crude figure hides it.",
}


def _sentence(difference: ConditionalDifference, words: str) -> str:
    """What was compared and what came of it, for a reader who has not read the code."""
    crude, alike = difference.crude, difference.conditional
    rest = f", without {difference.rest:,} whose stratum or group is too small" if difference.rest else ""
    return (
        f"Given {words}, the selection rate of {difference.higher} minus that of {difference.lower} is "
        f"{_points(alike)} percentage points; for the same people without regard to that it is {_points(crude)}. "
        f"Compared are {difference.people:,} people in {difference.strata:,} strata{rest}. "
    ) + (_MEANING[difference.disagreement] if difference.disagreement is not None else _agreement(crude, alike))


def _agreement(crude: Estimate, alike: Estimate) -> str:
    before, after = _sign(crude.interval), _sign(alike.interval)
    if after:
        return "The difference remains among people who are alike in that."
    if before:
        return "The strata hold too few people to tell whether that accounts for the difference."
    return "Neither is more than chance can give."


def _points(estimate: Estimate) -> str:
    """`+12.1 (+8.0 to +16.3)`, in percentage points."""
    value, low, high = (f"{100 * one:+.1f}".replace("-", "−") for one in (estimate.value, *estimate.interval))
    return f"{value} ({low} to {high})"
