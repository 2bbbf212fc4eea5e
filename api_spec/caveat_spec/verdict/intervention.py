"""Intervention: what a measured change of matched pairs says about a line, alone and beside the association."""

from __future__ import annotations

from dataclasses import dataclass

from caveat_spec.audit import ConceptLine
from caveat_spec.base import Interval
from caveat_spec.report import Finding
from caveat_spec.results import ConceptTest
from caveat_spec.verdict.rules import Conclusion, Rule, always, size, span


@dataclass(frozen=True)
class Intervention:
    """What the measured change of the same examples says about a line."""

    test: ConceptTest
    line: ConceptLine
    alpha: float

    @property
    def change(self) -> float:
        """The mean change, in the line's unit."""
        return self.test.effect.in_sd if self.line.unit == "sd" else self.test.effect.value

    @property
    def interval(self) -> Interval:
        """Its interval, in the line's unit."""
        return self.test.effect.interval_in_sd if self.line.unit == "sd" else self.test.effect.interval

    @property
    def sign(self) -> int:
        """The direction of the change."""
        return 1 if self.change > 0 else -1

    @property
    def measured(self) -> str:
        """The measurement, as a clause."""
        return (
            f"adding {self.line.concept} to {self.test.n_concept} examples changes {self.line.target} by "
            f"{size(self.change, self.line)}"
        )


def _significant(facts: Intervention) -> str:
    decisions = facts.test.decisions
    rank = f", rank {decisions.rank} of {decisions.classes} classes" if decisions and decisions.rank else ""
    return f"{facts.measured} (p {facts.test.effect.deciding_p:.2g}{rank})"


INTERVENTION: tuple[Rule[Intervention], ...] = (
    Rule(
        "the change is significant and beyond the tolerance",
        lambda facts: facts.test.effect.deciding_p < facts.alpha and abs(facts.change) > facts.line.tolerance,
        "influential",
        _significant,
    ),
    Rule(
        "the change is inside the tolerance",
        lambda facts: -facts.line.tolerance <= facts.interval[0] and facts.interval[1] <= facts.line.tolerance,
        "not_influential",
        lambda facts: f"{facts.measured}, within the tolerance ({span(facts.interval, facts.line)})",
    ),
    Rule(
        "the interval settles nothing",
        always,
        "inconclusive",
        lambda facts: f"{facts.measured}, which the interval {span(facts.interval, facts.line)} does not settle",
    ),
)


@dataclass(frozen=True)
class Both:
    """The two lines of evidence about a line of the gate."""

    association: Conclusion
    intervention: Conclusion
    line: ConceptLine

    @property
    def agree(self) -> bool:
        """Whether both give the same finding, in the same direction."""
        return (self.association.finding, self.association.sign) == (self.intervention.finding, self.intervention.sign)

    def agree_on(self, finding: Finding) -> bool:
        """Whether both give this finding."""
        return self.agree and self.association.finding == finding

    def intervention_decides(self, finding: Finding) -> bool:
        """Whether the policy lets the intervention alone settle the line, and it gives this finding."""
        return self.line.when_evidence_disagrees == "intervention" and self.intervention.finding == finding

    @property
    def reasons(self) -> str:
        """Both reasons, as one clause."""
        return f"{self.association.reason}; {self.intervention.reason}"


def _intervention_decides(facts: Both) -> str:
    return f"the intervention decides: {facts.intervention.reason}; association alone: {facts.association.reason}"


TOGETHER: tuple[Rule[Both], ...] = (
    Rule("neither is settled", lambda facts: facts.agree_on("inconclusive"), "inconclusive", lambda f: f.reasons),
    Rule(
        "both find an influence",
        lambda facts: facts.agree_on("influential"),
        "influential",
        lambda facts: f"both lines of evidence agree: {facts.reasons}",
    ),
    Rule(
        "both find no influence",
        lambda facts: facts.agree_on("not_influential"),
        "not_influential",
        lambda facts: f"both lines of evidence agree: {facts.reasons}",
    ),
    Rule(
        "the policy trusts an intervention that finds an influence",
        lambda facts: facts.intervention_decides("influential"),
        "influential",
        _intervention_decides,
    ),
    Rule(
        "the policy trusts an intervention that finds no influence",
        lambda facts: facts.intervention_decides("not_influential"),
        "not_influential",
        _intervention_decides,
    ),
    Rule(
        "one of the two is not settled",
        lambda facts: "inconclusive" in (facts.association.finding, facts.intervention.finding),
        "inconclusive",
        lambda facts: f"one line of evidence is not settled: {facts.reasons}",
    ),
    Rule(
        "the two disagree",
        always,
        "inconclusive",
        lambda facts: f"association and intervention do not agree: {facts.reasons}",
    ),
)
