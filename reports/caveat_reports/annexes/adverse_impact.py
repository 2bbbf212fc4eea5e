"""Adverse impact: the four-fifths rule, whether chance could explain a difference, and the shortfall.

The rule and the use of statistical tests beside it: Uniform Guidelines on Employee Selection Procedures, 29 CFR
1607.4(D). The tests compare each group with the one of the highest rate, as a 2 x 2 table with fixed margins (Morris
and Dunleavy 2017, chapters 2 and 3): Fisher's exact test, and the difference in standard deviations of the
hypergeometric distribution (Hazelwood School District v. United States, 433 U.S. 299, note 14).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, exp, lgamma, sqrt

from caveat_reports.annexes.form import Table
from caveat_reports.formatting import count, fixed, p_value, share
from caveat_spec.results import Comparison, GroupRow

FOUR_FIFTHS = 0.8
ROUNDING = 1e-7
"""Tables as likely as the one observed count as at least as extreme, up to this relative rounding."""


@dataclass(frozen=True)
class Group:
    """People of one category, and how many of them were selected."""

    name: str
    people: int
    selected: int

    @property
    def rate(self) -> float:
        """The selection rate."""
        return self.selected / self.people


@dataclass(frozen=True)
class Impact:
    """One group beside the group of the highest rate."""

    group: Group
    ratio: float
    p: float
    """Fisher's exact test, two-sided."""
    p_corrected: float
    """After Holm's correction over the groups of the table."""
    standard_deviations: float | None
    """Selected minus expected, in standard deviations; None where everybody or nobody was selected."""
    shortfall: float
    """How many fewer were selected than if both groups had been selected alike; below 0 for more."""
    to_four_fifths: int
    """How many more selections bring the ratio to four fifths; 0 where it is there."""


def impacts(groups: Sequence[Group]) -> list[Impact]:
    """Every group but the one of the highest rate, compared with that one; nothing where nobody was selected."""
    best = highest(groups)
    if best is None:
        return []
    others = [group for group in groups if group is not best]
    ps = [fisher(group, best) for group in others]
    return [
        Impact(
            group=group,
            ratio=group.rate / best.rate,
            p=p,
            p_corrected=corrected,
            standard_deviations=_standard_deviations(group, best),
            shortfall=_expected(group, best) - group.selected,
            to_four_fifths=max(0, ceil(FOUR_FIFTHS * best.rate * group.people - group.selected - ROUNDING)),
        )
        for group, p, corrected in zip(others, ps, holm(ps), strict=True)
    ]


def highest(groups: Sequence[Group]) -> Group | None:
    """The group of the highest rate, the larger of two; None where nobody was selected or all are one group."""
    best = max(groups, key=lambda group: (group.rate, group.people), default=None)
    return None if best is None or best.selected == 0 or len(groups) < 2 else best


def fisher(one: Group, other: Group) -> float:
    """The two-sided p-value of Fisher's exact test: all tables at most as likely as the one observed."""
    selected = one.selected + other.selected
    lowest, most = max(0, selected - other.people), min(selected, one.people)
    logs = [_log_choose(one.people, k) + _log_choose(other.people, selected - k) for k in range(lowest, most + 1)]
    peak = max(logs)
    weights = [exp(value - peak) for value in logs]
    observed = weights[one.selected - lowest] * (1 + ROUNDING)
    return min(1.0, sum(weight for weight in weights if weight <= observed) / sum(weights))


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's step-down correction, in the order given."""
    order = sorted(range(len(ps)), key=lambda i: ps[i])
    corrected, highest_so_far = [0.0] * len(ps), 0.0
    for rank, i in enumerate(order):
        highest_so_far = max(highest_so_far, min(1.0, (len(ps) - rank) * ps[i]))
        corrected[i] = highest_so_far
    return corrected


def _expected(group: Group, best: Group) -> float:
    return group.people * (group.selected + best.selected) / (group.people + best.people)


def _standard_deviations(group: Group, best: Group) -> float | None:
    people, selected = group.people + best.people, group.selected + best.selected
    variance = group.people * best.people * selected * (people - selected) / (people**2 * (people - 1))
    return (group.selected - _expected(group, best)) / sqrt(variance) if variance > 0 else None


def _log_choose(n: int, k: int) -> float:
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)


def groups_of(comparison: Comparison) -> list[Group]:
    """The groups of a comparison."""
    return [group_of(row, row.group) for row in comparison.rows]


def group_of(row: GroupRow, name: str) -> Group:
    """A group under a name; the rate gives the count where an older report has none (six digits: up to 100,000)."""
    selected = round(row.selection_rate.value * row.n) if row.selected is None else row.selected
    return Group(name, row.n, selected)


def table(caption: str, groups: Sequence[Group]) -> Table | None:
    """The adverse impact on every group but the one of the highest rate; None where there is no such group."""
    best = highest(groups)
    if best is None:
        return None
    return Table(
        caption=f"{caption}: each group beside {best.name}, which has the highest rate ({share(best.rate)})",
        head=(
            "Group",
            "Rate",
            "Ratio",
            "Four-fifths rule",
            "p (Fisher)",
            "p, corrected (Holm)",
            "Standard deviations",
            "Shortfall",
            "Missing to four fifths",
        ),
        rows=tuple(
            (
                one.group.name,
                share(one.group.rate),
                fixed(one.ratio, 3),
                "met" if one.ratio >= FOUR_FIFTHS else "not met",
                p_value(one.p),
                p_value(one.p_corrected),
                "–" if one.standard_deviations is None else fixed(one.standard_deviations, 2),
                fixed(one.shortfall, 1),
                count(one.to_four_fifths),
            )
            for one in impacts(groups)
        ),
        notes=(
            "Standard deviations: selected minus expected people, were both groups selected alike. Shortfall: expected "
            "minus selected people. The group of the highest rate was found in the same data, so that p-values are "
            "somewhat too small where there are many groups; the corrected ones allow for their number.",
        ),
    )
