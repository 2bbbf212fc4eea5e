"""Growth: whether a concept's figures grew since a baseline report."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from caveat_spec.audit import ConceptLine
from caveat_spec.baseline import Difference, diff, differing_examples
from caveat_spec.report import Report
from caveat_spec.verdict.rules import Rule, always, size


@dataclass(frozen=True)
class Growth:
    """A concept's figures in a report and in its baseline."""

    report: Report
    baseline: Report | None
    line: ConceptLine

    @cached_property
    def other_examples(self) -> list[str]:
        """Example sets that the baseline had with other bytes."""
        return [] if self.baseline is None else differing_examples(self.report, self.baseline)

    @cached_property
    def found(self) -> list[Difference]:
        """Every figure of the concept and the target that both reports have."""
        if self.baseline is None:
            return []
        pair = self.line.concept, self.line.target
        return [one for one in diff(self.report, self.baseline) if (one.concept, one.target) == pair]

    @cached_property
    def worst(self) -> Difference:
        """The figure that grew most."""
        return max(self.found, key=lambda one: one.growth)

    @cached_property
    def grown(self) -> list[Difference]:
        """Figures that grew beyond the tolerance by more than noise."""
        return [one for one in self.found if one.growth - one.noise > self.line.tolerance]

    def course(self, of: Difference) -> str:
        """What became of a figure, as a clause."""
        return f"the {of.kind} of {of.subject} went from {size(of.before, self.line)} to {size(of.after, self.line)}"


GROWTH: tuple[Rule[Growth], ...] = (
    Rule(
        "there is no baseline",
        lambda facts: facts.baseline is None,
        "inconclusive",
        lambda _: "no baseline report was given to compare with (`--baseline`)",
    ),
    Rule(
        "the baseline is of other examples",
        lambda facts: facts.other_examples,
        "inconclusive",
        lambda facts: f"the baseline was made on other examples: {', '.join(facts.other_examples)}",
    ),
    Rule(
        "the baseline has no such figure",
        lambda facts: not facts.found,
        "inconclusive",
        lambda facts: f"the baseline has no figure of {facts.line.concept} and {facts.line.target} to compare with",
    ),
    Rule(
        "the tolerance is in another unit",
        lambda facts: facts.line.unit != "sd",
        "inconclusive",
        lambda _: "growth is compared in standard deviations; give the tolerance with `unit: sd`",
    ),
    Rule(
        "a figure grew beyond tolerance and noise",
        lambda facts: facts.grown,
        "influential",
        lambda facts: f"{facts.course(facts.grown[0])}, beyond the tolerance and noise ({facts.grown[0].noise:.3g} sd)",
    ),
    Rule(
        "no figure can have grown beyond the tolerance",
        lambda facts: all(one.growth + one.noise <= facts.line.tolerance for one in facts.found),
        "not_influential",
        lambda facts: f"no figure grew by more than the tolerance; most of all {facts.course(facts.worst)}",
    ),
    Rule(
        "noise hides the growth",
        always,
        "inconclusive",
        lambda facts: (
            f"{facts.course(facts.worst)}, which noise of {facts.worst.noise:.3g} sd does not tell from the tolerance"
        ),
    ),
)
