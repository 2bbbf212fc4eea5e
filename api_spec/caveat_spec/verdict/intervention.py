"""Intervention: what a measured change of matched pairs says about a line, and what the association adds to it."""

from __future__ import annotations

from dataclasses import dataclass

from caveat_spec.audit import SHARES, ConceptLine
from caveat_spec.base import Interval
from caveat_spec.report import Finding
from caveat_spec.results import ConceptTest, Estimate
from caveat_spec.verdict.association import Association
from caveat_spec.verdict.more_examples import advice, times_to_settle
from caveat_spec.verdict.rules import Conclusion, Rule, always, exceeds, in_unit, inside, size, span, unmeasured


@dataclass(frozen=True)
class Intervention:
    """What the measured change of the same examples says about a line."""

    test: ConceptTest
    line: ConceptLine
    alpha: float

    @property
    def known(self) -> bool:
        """Whether the change was measured in the line's unit."""
        return in_unit(self.test.effect, self.line) is not None

    @property
    def figure(self) -> Estimate:
        """The mean change, in the line's unit."""
        found = in_unit(self.test.effect, self.line)
        assert found is not None
        return found

    @property
    def change(self) -> float:
        """Its value."""
        return self.figure.value

    @property
    def interval(self) -> Interval:
        """Its interval."""
        return self.figure.interval

    @property
    def beyond_chance(self) -> bool:
        """Whether chance does not explain it; an interval of probabilities or decisions says so by itself."""
        return self.line.unit in SHARES or self.test.effect.deciding_p < self.alpha

    @property
    def sign(self) -> int:
        """The direction of the change."""
        return 1 if self.test.effect.value > 0 else -1

    @property
    def measured(self) -> str:
        """The measurement, as a clause."""
        does = f"adding {self.line.concept} to {self.test.n_concept} examples"
        if self.line.unit == "decisions":
            return f"{does} flips {size(self.change, self.line)} about {self.line.target}"
        what = f"the probability of {self.line.target}" if self.line.unit == "probability" else self.line.target
        return f"{does} changes {what} by {size(self.change, self.line)}"


def _significant(facts: Intervention) -> str:
    decisions = facts.test.decisions
    rank = f", rank {decisions.rank} of {decisions.classes} classes" if decisions and decisions.rank else ""
    return f"{facts.measured} ({span(facts.interval, facts.line)}; p {facts.test.effect.deciding_p:.2g}{rank})"


def _not_settled(facts: Intervention) -> str:
    times = times_to_settle(facts.figure, facts.line, facts.alpha)
    return (
        f"{facts.measured}, which the interval {span(facts.interval, facts.line)} does not settle for the tolerance "
        f"{size(facts.line.tolerance, facts.line, signed=False)}; {advice(times, 'pairs and target examples')}"
    )


INTERVENTION: tuple[Rule[Intervention], ...] = (
    Rule(
        "the change has no figure in the line's unit",
        lambda facts: not facts.known,
        "inconclusive",
        lambda facts: f"{unmeasured(facts.line)}; give the tolerance in `sd`",
    ),
    Rule(
        "the whole interval is beyond the tolerance",
        lambda facts: facts.beyond_chance and exceeds(facts.interval, facts.line),
        "influential",
        _significant,
    ),
    Rule(
        "the whole interval is inside the tolerance",
        lambda facts: inside(facts.interval, facts.line),
        "not_influential",
        lambda facts: f"{facts.measured}, within the tolerance ({span(facts.interval, facts.line)})",
    ),
    Rule(
        "the interval settles nothing",
        always,
        "inconclusive",
        _not_settled,
    ),
)


@dataclass(frozen=True)
class Both:
    """The two lines of evidence about a line of the gate; None for the one that the report does not hold."""

    association: Conclusion | None
    intervention: Conclusion | None
    line: ConceptLine

    @property
    def complete(self) -> bool:
        """Whether the report holds both."""
        return self.association is not None and self.intervention is not None

    @property
    def agree(self) -> bool:
        """Whether both give the same finding, in the same direction."""
        first, second = self.association, self.intervention
        return first is not None and second is not None and (first.finding, first.sign) == (second.finding, second.sign)

    @property
    def measured(self) -> Finding | None:
        """What the intervention finds."""
        return None if self.intervention is None else self.intervention.finding

    @property
    def reasons(self) -> str:
        """The reasons that there are, as one clause."""
        return "; ".join(one.reason for one in (self.intervention, self.association) if one is not None)


def _decided(facts: Both) -> str:
    """The intervention's reason, and what the association adds: where in the model, or nothing."""
    assert facts.intervention is not None
    measured, association = facts.intervention, facts.association
    if association is None:
        return f"{measured.reason}; the report holds no test by association, so that the measured change alone decides"
    if measured.finding == "inconclusive":
        return f"{measured.reason}; association does not decide where pairs exist"
    if facts.agree:
        return f"{measured.reason}; association agrees: {association.reason.removeprefix(BY)}"
    if association.finding in ("inconclusive", "not_encoded"):
        return f"{measured.reason}; association does not say where in the model"
    return measured.reason


BY = "by association, "
"""How a reason by association begins."""

TOGETHER: tuple[Rule[Both], ...] = (
    Rule(
        "both are required, and the report holds one",
        lambda facts: facts.line.require == "both" and not facts.complete,
        "inconclusive",
        lambda facts: (
            f"the line requires both lines of evidence (`require: both`), and the report holds one: {facts.reasons}"
        ),
    ),
    Rule(
        "both are required, and they do not agree",
        lambda facts: facts.line.require == "both" and not facts.agree,
        "inconclusive",
        lambda facts: f"the line requires both lines of evidence, and they do not agree: {facts.reasons}",
    ),
    Rule(
        "the measured change is beyond the tolerance",
        lambda facts: facts.measured == "influential",
        "influential",
        _decided,
    ),
    Rule(
        "the measured change is inside the tolerance",
        lambda facts: facts.measured == "not_influential",
        "not_influential",
        _decided,
    ),
    Rule("the measured change is not settled", always, "inconclusive", _decided),
)


def caution_of(facts: Both, associated: Association) -> str | None:
    """What the association says against a measured change that decides, and why it may; None where it says nothing."""
    first, second = facts.association, facts.intervention
    if first is None or second is None or facts.line.require == "both" or facts.agree:
        return None
    if "influential" not in (first.finding, second.finding) or first.finding in ("inconclusive", "not_encoded"):
        return None
    if second.finding == "inconclusive":
        return None
    return f"association says otherwise: {first.reason.removeprefix(BY)}; {_why(associated)}"


def _why(associated: Association) -> str:
    """Why a slope may differ from a measured change."""
    if not associated.upheld:
        return (
            "a slope misses a change that the model makes only farther along the step, or in a form that is not linear"
        )
    test = associated.strongest(associated.upheld)
    slope, step = associated.size(test.effect), test.finite_step
    if step is not None and abs(associated.size(step) - slope) > associated.line.tolerance:
        return (
            f"the model bends along that step (taken in full it gives "
            f"{size(associated.size(step), associated.line)}), so that the slope is not the change"
        )
    return "that step may leave the data: it moves every example alike, to where perhaps no example lies"
