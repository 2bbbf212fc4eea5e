"""Strata of people who are alike in some columns: categories as they are, numbers in quantiles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from caveat_worker.engine.base.arrays import Indices

MOST_VALUES = 10
"""A column of numbers with more values than these is divided into quantiles."""
PEOPLE_A_RANGE = 20
"""How many people of the smallest group a range of numbers should hold on average."""
RANGES = (2, 20)
"""The fewest and the most quantiles of a column; within five, nine tenths of its bias are gone (Cochran 1968)."""


@dataclass(frozen=True)
class Strata:
    """Which stratum each person is in [n], and the columns that make the strata, in words."""

    of: Indices
    words: str


def strata(columns: Mapping[str, NDArray[Any]], smallest_group: int) -> Strata:
    """The strata that columns [n] make together; people without a value are alike in that.

    The more people the smallest group has, the finer are the quantiles that divide numbers.
    """
    series = {name: pd.Series(np.asarray(values)) for name, values in columns.items()}
    divided = [
        name for name, one in series.items() if pd.api.types.is_numeric_dtype(one) and one.nunique() > MOST_VALUES
    ]
    codes = {name: _categories(one) for name, one in series.items() if name not in divided}
    ranges = _ranges(smallest_group, len(np.unique(_together(codes))) if codes else 1, len(divided))
    codes |= {name: _quantiles(series[name], ranges) for name in divided}
    _, numbers = np.unique(_together(codes), return_inverse=True)
    words = [f"{name} (in {codes[name].max() + 1} ranges)" if name in divided else name for name in columns]
    return Strata(numbers.ravel(), " and ".join(filter(None, [", ".join(words[:-1]), words[-1]])))


def _ranges(smallest_group: int, categories: int, divided: int) -> int:
    """So many quantiles for each of the `divided` columns that strata hold enough people."""
    fewest, most = RANGES
    strata_wanted = smallest_group / (PEOPLE_A_RANGE * categories)
    return int(np.clip(strata_wanted ** (1 / max(divided, 1)), fewest, most))


def _categories(series: pd.Series) -> Indices:
    """A number from 0 for each value; -1 for none."""
    return np.asarray(pd.factorize(series)[0])


def _quantiles(series: pd.Series, ranges: int) -> Indices:
    """The quantile of each number from 0, equal numbers together; -1 for none."""
    return pd.qcut(series, ranges, labels=False, duplicates="drop").fillna(-1).to_numpy(int)


def _together(codes: Mapping[str, Indices]) -> Indices:
    """A number for each combination of codes [n] that occurs."""
    _, numbers = np.unique(np.column_stack(list(codes.values())), axis=0, return_inverse=True)
    return numbers.ravel()
