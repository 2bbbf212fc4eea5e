"""Decisions compared between groups of people, with the figures of fairlearn and intervals that small groups allow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from caveat_spec.base import Interval
from caveat_spec.results import SMALL_GROUP, Estimate, GroupFigures, GroupRow
from caveat_worker.engine.base.arrays import Float64Array
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.fairness.conditional import Given, compare_given
from caveat_worker.engine.statistics.proportions import exact_interval, largest_difference, smallest_ratio

MISSING = ""


def compare_groups(
    decisions: NDArray[Any],
    sensitive: Mapping[str, NDArray[Any]],
    labels: NDArray[Any] | None = None,
    given: Given | None = None,
    *,
    alpha: float,
) -> GroupFigures:
    """Rates of favourable decisions [n] between the groups that the values of `sensitive` columns [n] make together.

    Selection rates always; true and false positive rates, and equalised odds, where `labels` [n] are known; rates of
    people who are alike in the columns that are `given`. A metric needs a rate in two groups. Raises InvalidInput for
    values other than 0 and 1, columns of different lengths, or a single group.
    """
    people, left_out = _people(decisions, sensitive, labels, given)
    groups = sorted(set(zip(*people.columns.values(), strict=True)))
    if len(groups) < 2:
        only = " and ".join(map(str, groups[0])) if groups else "none"
        raise InvalidInput(
            "one-group",
            f"All {len(people.chosen)} people are in one group: {only}.",
            "Compare columns with two values or more.",
        )
    members = _members(people, groups)
    counts = _counts(people, members)
    names = [_group_name(people, key) for key in groups]
    alike = None if people.given is None else compare_given(people.chosen, members, names, people.given, alpha)
    rows = [
        _row(
            people,
            key,
            {name: count.of(number) for name, count in counts.items()},
            alpha,
            None if alike is None else alike.rates.get(number),
        )
        for number, key in enumerate(groups)
    ]
    return GroupFigures(
        rows=sorted(rows, key=lambda row: (-row.n, row.group)),
        metrics=_metrics(counts, alpha) | ({} if alike is None else alike.metrics),
        left_out=left_out,
        empty=_empty(people, groups),
        conditional=None if alike is None else alike.difference,
    )


@dataclass(frozen=True)
class _Counts:
    """A rate of every group: favourable decisions [k] among the people who count for it [k]."""

    hits: Float64Array
    among: Float64Array

    def of(self, group: int) -> tuple[int, int]:
        """One group's."""
        return int(self.hits[group]), int(self.among[group])

    @property
    def known(self) -> tuple[Float64Array, Float64Array]:
        """Those of the groups in which anybody counts."""
        anybody = self.among > 0
        return self.hits[anybody], self.among[anybody]

    @property
    def rates(self) -> Float64Array:
        """The rates of those groups."""
        hits, among = self.known
        return hits / among

    def difference(self, alpha: float) -> Interval:
        """The interval of the largest difference between groups."""
        return largest_difference(*self.known, alpha)


@dataclass(frozen=True)
class _People:
    """Everybody who is in a group: decisions [n], outcomes [n] where they are known, and columns [n]."""

    chosen: Float64Array
    truth: Float64Array | None
    columns: dict[str, NDArray[Any]]
    given: Given | None


def _people(
    decisions: NDArray[Any],
    sensitive: Mapping[str, NDArray[Any]],
    labels: NDArray[Any] | None,
    given: Given | None,
) -> tuple[_People, int]:
    """People with a value in every sensitive column, and how many have none; raises InvalidInput."""
    columns = {name: _named(values) for name, values in sensitive.items()}
    chosen = _binary(decisions, "decisions")
    truth = None if labels is None else _binary(labels, "labels")
    others = [*([] if truth is None else [truth]), *([] if given is None else given.columns.values())]
    lengths = {len(values) for values in (chosen, *columns.values(), *others)}
    if len(lengths) > 1:
        raise InvalidInput(
            "columns-differ", f"Columns have the lengths {sorted(lengths)}.", "Take them from the same table."
        )
    known = np.all([values != MISSING for values in columns.values()], axis=0)
    people = _People(
        chosen[known],
        None if truth is None else truth[known],
        {name: values[known] for name, values in columns.items()},
        None if given is None else given.among(known),
    )
    return people, int((~known).sum())


def _members(people: _People, groups: list[tuple[str, ...]]) -> NDArray[np.bool_]:
    """Who is in each group [k, n]."""
    return np.array(
        [
            np.all([people.columns[name] == value for name, value in zip(people.columns, key, strict=True)], axis=0)
            for key in groups
        ]
    )


def _counts(people: _People, members: NDArray[np.bool_]) -> dict[str, _Counts]:
    """The counts behind each rate, by its name."""
    among = {"selection_rate": np.ones_like(people.chosen)}
    if people.truth is not None:
        among |= {"true_positive_rate": people.truth, "false_positive_rate": 1 - people.truth}
    return {name: _Counts(members @ (people.chosen * who), members @ who) for name, who in among.items()}


def _row(
    people: _People,
    key: tuple[str, ...],
    counts: Mapping[str, tuple[int, int]],
    alpha: float,
    standardised: Estimate | None,
) -> GroupRow:
    """One group's figures, each rate with its exact interval; None for one for which nobody counts."""

    def rate(name: str) -> Estimate | None:
        hits, among = counts.get(name, (0, 0))
        return Estimate(value=hits / among, interval=exact_interval(hits, among, alpha)) if among else None

    selected = rate("selection_rate")
    assert selected is not None, "a group has people"
    chosen, n = counts["selection_rate"]
    return GroupRow(
        group=_group_name(people, key),
        values=list(key),
        n=n,
        selected=chosen,
        selection_rate=selected,
        true_positive_rate=rate("true_positive_rate"),
        false_positive_rate=rate("false_positive_rate"),
        small=n < SMALL_GROUP,
        standardised_rate=standardised,
    )


def _group_name(people: _People, key: tuple[str, ...]) -> str:
    return " and ".join(f"{name}={value}" for name, value in zip(people.columns, key, strict=True))


def _empty(people: _People, groups: list[tuple[str, ...]]) -> list[str]:
    """Combinations of values that nobody has."""
    values = [sorted(set(column)) for column in people.columns.values()]
    return [_group_name(people, key) for key in product(*values) if key not in set(groups)]


def _metrics(counts: Mapping[str, _Counts], alpha: float) -> dict[str, Estimate]:
    """The metrics whose rates at least two groups have."""
    found = {
        f"{name}_difference": Estimate(value=float(np.ptp(count.rates)), interval=count.difference(alpha))
        for name, count in counts.items()
        if len(count.rates) > 1
    }
    selected = counts["selection_rate"]
    if selected.hits.any():
        ratio = float(selected.rates.min() / selected.rates.max())
        interval = smallest_ratio(selected.hits, selected.among, alpha)
        found = {"selection_rate_ratio": Estimate(value=ratio, interval=interval)} | found
    either = [found.get(f"{name}_positive_rate_difference") for name in ("true", "false")]
    if all(either):
        found["equalized_odds_difference"] = _larger(counts, [one.value for one in either if one], alpha)
    return found


def _larger(counts: Mapping[str, _Counts], values: list[float], alpha: float) -> Estimate:
    """Equalised odds: the larger of two differences; its lower end is corrected for the choice."""
    both = [counts["true_positive_rate"], counts["false_positive_rate"]]
    lowest = max(one.difference(alpha / 2)[0] for one in both)
    highest = max(one.difference(alpha)[1] for one in both)
    return Estimate(value=max(values), interval=(lowest, highest))


def _named(values: NDArray[Any]) -> NDArray[Any]:
    """Values as text, whole numbers without a fraction, and MISSING for none."""
    series = pd.Series(np.asarray(values))
    text = series.map(lambda value: f"{value:g}" if isinstance(value, float) else str(value))
    return text.where(series.notna(), MISSING).to_numpy(dtype=object)


def _binary(values: NDArray[Any], name: str) -> Float64Array:
    array = np.asarray(values, dtype=float)
    if not np.isin(array, (0.0, 1.0)).all():
        odd = array[~np.isin(array, (0.0, 1.0))][0]
        raise InvalidInput(
            "not-binary",
            f"The {name} hold {odd:g}; a decision is 1 for the favourable one, else 0.",
            "Recode the column.",
        )
    return array
