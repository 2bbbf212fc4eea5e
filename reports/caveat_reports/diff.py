"""What moved since an earlier report, in the words that terminal and Markdown share."""

from __future__ import annotations

from dataclasses import dataclass

from caveat_reports.formatting import count, of, signed_fixed
from caveat_reports.summary import METRIC_WORDS
from caveat_spec.baseline import Difference, diff, differing_examples
from caveat_spec.report import Report

DECIMALS = 3


@dataclass(frozen=True)
class ShownDifference:
    """One figure then and now; `verdict` says whether the difference is beyond noise."""

    figure: str
    before: str
    after: str
    change: str
    noise: str
    beyond_noise: bool

    @property
    def verdict(self) -> str:
        """In two words."""
        return "beyond noise" if self.beyond_noise else "within noise"


def shown_diff(report: Report, baseline: Report) -> list[ShownDifference]:
    """Every figure that both reports have; those beyond noise first, the largest move for its noise before others."""
    found = sorted(diff(report, baseline), key=_rank)
    return [
        ShownDifference(
            figure=f"{METRIC_WORDS.get(one.kind, one.kind)} of {one.subject}",
            before=signed_fixed(one.before, DECIMALS),
            after=signed_fixed(one.after, DECIMALS),
            change=signed_fixed(one.after - one.before, DECIMALS),
            noise=f"±{one.noise:.{DECIMALS}f}",
            beyond_noise=one.beyond_noise,
        )
        for one in found
    ]


def sentences(report: Report, baseline: Report) -> list[str]:
    """What the comparison comes to, and what stands in its way."""
    found = diff(report, baseline)
    beyond = sum(one.beyond_noise for one in found)
    if not found:
        said = ["The baseline has no figure in common with this report."]
    elif not beyond:
        said = [f"Since the baseline no figure moved beyond noise, of {count(len(found))} compared."]
    else:
        said = [f"Since the baseline {of(beyond, len(found), 'figure')} moved beyond noise."]
    if report.audit.model == baseline.audit.model:
        said.append("The baseline is of the same model.")
    if others := differing_examples(report, baseline):
        said.append(f"The baseline was made on other examples: {', '.join(others)}.")
    return said


def _rank(move: Difference) -> tuple[bool, float]:
    size = abs(move.after - move.before)
    return not move.beyond_noise, -(size / move.noise if move.noise else size)
