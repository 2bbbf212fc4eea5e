"""Groups: whether a group metric keeps its bound, by its value or by its whole interval."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from caveat_spec.audit import CONDITIONAL, GroupLine
from caveat_spec.report import Outcome, Report
from caveat_spec.results import Comparison, Estimate

MOST_NAMED = 3
"""Small groups that a caution names."""


@dataclass(frozen=True)
class Judged:
    """A line about groups: what was asked, what came of it, why, and what stands against it, as clauses."""

    subject: str
    outcome: Outcome
    reason: str
    caution: str | None = None


def judge(report: Report, line: GroupLine) -> Judged:
    """What the report's figures say about a line, before the line's own policy for what is not settled."""
    metric = line.metric.replace("_", " ")
    subject = f"{metric} of {line.group} {_wanted(line)}"
    comparison = next((one for one in report.comparisons if one.name == line.group), None)
    estimate = None if comparison is None else comparison.metrics.get(line.metric)
    if comparison is None or estimate is None:
        reason = f"the report has no {metric} for {line.group}; {_LACKING[lack(comparison, line)]}"
        return Judged(subject, "inconclusive", reason)
    found = (
        f"{metric} by {' and '.join(comparison.sensitive)}{_given(comparison, line)} is {_figure(estimate)} in "
        f"{comparison.decisions}, asked for {_wanted(line)}"
    )
    crossing = _crossing(estimate, line)
    disagreement = _disagreement(comparison)
    if line.judge == "point" or crossing is None:
        against = [crossing and _consequence(crossing, comparison), disagreement]
        return Judged(subject, _by_point(estimate, line), found, ". ".join(filter(None, against)) or None)
    reason = f"{found}: {crossing}, so that these people are too few to tell{_few(comparison)}"
    return Judged(subject, "inconclusive", reason, disagreement)


Lack = Literal["outcomes", "strata", "groups", "selected"]
"""What a metric would need that these groups do not have."""


def lack(comparison: Comparison | None, line: GroupLine) -> Lack:
    """What the groups of a line lack for its metric, where the report has no figure of it."""
    if line.metric in CONDITIONAL:
        return "strata"
    if comparison is None or not comparison.rows or not line.metric.startswith("selection_rate"):
        return "outcomes"
    return "groups" if len(comparison.rows) == 1 else "selected"


_LACKING: dict[Lack, str] = {
    "outcomes": "rates by outcome need 'label' in the group",
    "strata": "no two groups have enough people who are alike in the columns of 'given'",
    "groups": "all people are in one group",
    "selected": "nobody in any group has the favourable decision",
}


def _given(comparison: Comparison, line: GroupLine) -> str:
    alike = comparison.conditional
    return f" given {' and '.join(alike.given)}" if alike is not None and line.metric in CONDITIONAL else ""


def _disagreement(comparison: Comparison) -> str | None:
    """What the crude and the conditional difference say against each other, where they do."""
    alike = comparison.conditional
    return None if alike is None or alike.disagreement is None else alike.sentence


def _wanted(line: GroupLine) -> str:
    bounds = {"at least": line.at_least, "at most": line.at_most}
    return " and ".join(f"{word} {bound:g}" for word, bound in bounds.items() if bound is not None)


def _figure(estimate: Estimate) -> str:
    low, high = estimate.interval
    return f"{estimate.value:.3f} (interval {low:.3f} to {high:.3f})"


def _by_point(estimate: Estimate, line: GroupLine) -> Outcome:
    low = line.at_least is not None and estimate.value < line.at_least
    high = line.at_most is not None and estimate.value > line.at_most
    return "fail" if low or high else "pass"


def _crossing(estimate: Estimate, line: GroupLine) -> str | None:
    """Which bound lies inside the interval, as a clause; None where the whole interval says what its value says."""
    low, high = estimate.interval
    if _by_point(estimate, line) == "fail":
        least = line.at_least is not None and estimate.value < line.at_least
        bound = line.at_least if least else line.at_most
        assert bound is not None
        if least:
            return f"the interval reaches up to {high:.3f}, over {bound:g}" if high >= bound else None
        return f"the interval reaches down to {low:.3f}, under {bound:g}" if low <= bound else None
    if line.at_least is not None and low < line.at_least:
        return f"the interval reaches below {line.at_least:g}"
    if line.at_most is not None and high > line.at_most:
        return f"the interval reaches above {line.at_most:g}"
    return None


def _consequence(crossing: str, comparison: Comparison) -> str:
    return (
        f"{crossing}, so another sample of as many people from these groups may well give the other outcome"
        f"{_few(comparison)}; judged by its interval (`judge: interval`), this line is inconclusive"
    )


def _few(comparison: Comparison) -> str:
    """Groups of few people, which widen an interval most."""
    small = comparison.small
    if not small:
        return ""
    named = ", ".join(f"{row.group} has {row.n}" for row in small[:MOST_NAMED])
    more = f" and {len(small) - MOST_NAMED} more groups have few" if len(small) > MOST_NAMED else ""
    return f" ({named}{more})"
