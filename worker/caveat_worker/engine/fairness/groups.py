"""Decisions compared between groups of people, by fairlearn's MetricFrame, with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from fairlearn.metrics import MetricFrame, false_positive_rate, selection_rate, true_positive_rate
from numpy.typing import NDArray

from caveat_spec.results import SMALL_GROUP, Estimate, GroupFigures, GroupRow
from caveat_worker.engine.base.arrays import Float64Array
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.statistics.intervals import percentile_interval
from caveat_worker.engine.statistics.resampling import bootstrap_counts

MISSING = ""


def compare_groups(
    decisions: NDArray[Any],
    sensitive: Mapping[str, NDArray[Any]],
    labels: NDArray[Any] | None = None,
    *,
    alpha: float,
    resamples: int,
    rng: np.random.Generator,
) -> GroupFigures:
    """Rates of favourable decisions [n] between the groups that the values of `sensitive` columns [n] make together.

    Selection rates always; true and false positive rates, and equalised odds, where `labels` [n] are known. Raises
    Refused for values other than 0 and 1, columns of different lengths, or a single group.
    """
    people, left_out = _people(decisions, sensitive, labels)
    frame = _frame(people)
    by_group = frame.by_group.dropna(subset=["n"])
    groups = [key if isinstance(key, tuple) else (key,) for key in by_group.index]
    if len(groups) < 2:
        only = " and ".join(map(str, groups[0])) if groups else "none"
        raise InvalidInput(
            "one-group",
            f"All {len(people.chosen)} people are in one group: {only}.",
            "Compare columns with two values or more.",
        )
    rates = _resampled_rates(people, groups, resamples, rng)
    rows = [
        _row(
            " and ".join(f"{name}={value}" for name, value in zip(people.columns, key, strict=True)),
            figures,
            rates,
            n,
            alpha,
        )
        for n, (key, (_, figures)) in enumerate(zip(groups, by_group.iterrows(), strict=True))
    ]
    return GroupFigures(
        rows=sorted(rows, key=lambda row: (-row.n, row.group)),
        metrics=_metrics(frame, rates, alpha),
        left_out=left_out,
    )


@dataclass(frozen=True)
class _People:
    """Everybody who is in a group: decisions [n], outcomes [n] where they are known, and sensitive columns [n]."""

    chosen: Float64Array
    truth: Float64Array | None
    columns: dict[str, NDArray[Any]]


def _people(
    decisions: NDArray[Any], sensitive: Mapping[str, NDArray[Any]], labels: NDArray[Any] | None
) -> tuple[_People, int]:
    """People with a value in every sensitive column, and how many have none; raises InvalidInput."""
    columns = {name: _named(values) for name, values in sensitive.items()}
    chosen = _binary(decisions, "decisions")
    truth = None if labels is None else _binary(labels, "labels")
    lengths = {len(values) for values in (chosen, *columns.values(), *([] if truth is None else [truth]))}
    if len(lengths) > 1:
        raise InvalidInput(
            "columns-differ", f"Columns have the lengths {sorted(lengths)}.", "Take them from the same table."
        )
    known = np.all([values != MISSING for values in columns.values()], axis=0)
    people = _People(
        chosen[known],
        None if truth is None else truth[known],
        {name: values[known] for name, values in columns.items()},
    )
    return people, int((~known).sum())


def _resampled_rates(
    people: _People, groups: list[tuple[Any, ...]], resamples: int, rng: np.random.Generator
) -> dict[str, Float64Array]:
    """Each rate of each group in each resample of the people [B, groups]."""
    members = np.array(
        [
            np.all([people.columns[name] == value for name, value in zip(people.columns, key, strict=True)], axis=0)
            for key in groups
        ]
    )
    chosen, truth = people.chosen, people.truth
    drawn = bootstrap_counts(len(chosen), resamples, rng)  # [B, n]
    rates = {"selection_rate": _rates(drawn, members, chosen, np.ones_like(chosen))}
    if truth is not None:
        rates["true_positive_rate"] = _rates(drawn, members, chosen, truth)
        rates["false_positive_rate"] = _rates(drawn, members, chosen, 1 - truth)
    return rates


def _row(group: str, figures: Any, rates: dict[str, Float64Array], number: int, alpha: float) -> GroupRow:
    """One group's figures, with the intervals of its resampled rates."""

    def rate(name: str) -> Estimate | None:
        return _estimate(figures[name], rates[name][:, number], alpha) if name in rates else None

    return GroupRow(
        group=group,
        n=int(figures["n"]),
        selection_rate=Estimate(
            value=float(figures["selection_rate"]),
            interval=percentile_interval(rates["selection_rate"][:, number], alpha),
        ),
        true_positive_rate=rate("true_positive_rate"),
        false_positive_rate=rate("false_positive_rate"),
        small=bool(figures["n"] < SMALL_GROUP),
    )


def _frame(people: _People) -> MetricFrame:
    truth = people.chosen if people.truth is None else people.truth
    return MetricFrame(
        metrics={
            "n": lambda y_true, y_pred: len(y_true),
            "selection_rate": lambda y_true, y_pred: float(selection_rate(y_true, y_pred)),
            "true_positive_rate": lambda y_true, y_pred: _rate_or_nan(true_positive_rate, y_true, y_pred, 1),
            "false_positive_rate": lambda y_true, y_pred: _rate_or_nan(false_positive_rate, y_true, y_pred, 0),
        },
        y_true=truth.astype(int),
        y_pred=people.chosen.astype(int),
        sensitive_features=pd.DataFrame(people.columns),
    )


def _rate_or_nan(rate: Any, y_true: Any, y_pred: Any, outcome: int) -> float:
    """fairlearn gives 0 for the rate of a group without such an outcome; here it is unknown."""
    return float(rate(y_true, y_pred, pos_label=1)) if (np.asarray(y_true) == outcome).any() else float("nan")


def _metrics(frame: MetricFrame, rates: dict[str, Float64Array], alpha: float) -> dict[str, Estimate]:
    gap, ratio = frame.difference(method="between_groups"), frame.ratio(method="between_groups")
    found = {
        "selection_rate_ratio": _estimate(ratio["selection_rate"], _ratio(rates["selection_rate"]), alpha),
        "selection_rate_difference": _estimate(gap["selection_rate"], _difference(rates["selection_rate"]), alpha),
    }
    if "true_positive_rate" in rates:
        positive, negative = (
            _difference(rates["true_positive_rate"]),
            _difference(rates["false_positive_rate"]),
        )
        found["true_positive_rate_difference"] = _estimate(gap["true_positive_rate"], positive, alpha)
        found["false_positive_rate_difference"] = _estimate(gap["false_positive_rate"], negative, alpha)
        worst = np.maximum(gap["true_positive_rate"], gap["false_positive_rate"])
        found["equalized_odds_difference"] = _estimate(worst, np.maximum(positive, negative), alpha)
    return {name: estimate for name, estimate in found.items() if estimate is not None}


def _rates(drawn: Float64Array, members: NDArray[np.bool_], chosen: Float64Array, among: Float64Array) -> Float64Array:
    """The share of favourable decisions among some people of each group, in each resample [B, groups]."""
    with np.errstate(invalid="ignore", divide="ignore"):
        rates: Float64Array = (drawn @ (members * chosen * among).T) / (drawn @ (members * among).T)
    return rates


def _difference(rates: Float64Array) -> Float64Array:
    difference: Float64Array = np.fmax.reduce(rates, axis=1) - np.fmin.reduce(rates, axis=1)
    return difference


def _ratio(rates: Float64Array) -> Float64Array:
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio: Float64Array = np.fmin.reduce(rates, axis=1) / np.fmax.reduce(rates, axis=1)
    return ratio


def _estimate(value: Any, resamples: Float64Array, alpha: float) -> Estimate | None:
    """None where the value itself is not a number: nobody in some group, or no group with any favourable decision."""
    if not np.isfinite(value):
        return None
    return Estimate(value=float(value), interval=percentile_interval(resamples, alpha))


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
