"""Ground truths: audits whose right answer is known, because it was measured without Caveat."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from scipy.stats import norm

from caveat.pack import Archive, Content, addressed
from caveat_spec.audit import Audit, ConceptLine, GroupLine
from caveat_spec.report import Finding, Outcome, Report
from caveat_spec.results import ConceptTest
from caveat_worker import pipeline
from caveat_worker.engine.base.arrays import Float64Array

Agreement = Literal["right", "not encoded", "open", "at the tolerance", "other sign", "wrong"]
"""`open` is an inconclusive verdict, `not encoded` one that neither passes nor fails for that reason, and `at the
tolerance` a truth too near the tolerance to judge a verdict by."""


@dataclass(frozen=True)
class Fact:
    """The right finding for a concept and a target, and how it is known."""

    concept: str
    target: str
    finding: Finding | None
    """None where the truth lies too near the tolerance to judge a verdict by."""
    known: str
    """What was measured, with its numbers."""
    sign: int = 0
    """The direction of the measured change; 0 where it is within two standard errors of zero."""
    change: float | None = None
    """The measured change, in standard deviations of the target."""


@dataclass(frozen=True)
class Count:
    """A group metric counted without Caveat, and the outcome that a right gate gives it."""

    group: str
    metric: str
    value: float
    outcome: Outcome


@dataclass(frozen=True)
class Asked:
    """An audit whose sources are paths, and the truth about its lines."""

    title: str
    audit: Audit
    facts: Sequence[Fact]
    counts: Sequence[Count] = ()
    note: str = ""
    """A remark for the page."""


@dataclass(frozen=True)
class Answered:
    """One fact beside the report's answer."""

    fact: Fact
    tests: Sequence[ConceptTest]
    """By association, one a layer."""
    intervention: ConceptTest | None
    finding: Finding
    reason: str
    cleared: bool = False
    """Whether the gate takes `not_encoded` for *not influential*."""

    @property
    def sign(self) -> int:
        """The direction of the measured change, or of the largest effect over the layers."""
        measured = [] if self.intervention is None else [self.intervention.effect.in_sd]
        return int(np.sign(max(measured or [test.effect.in_sd for test in self.tests], key=abs, default=0.0)))

    @property
    def agreement(self) -> Agreement:
        """How the verdict compares with the truth."""
        if self.finding == "inconclusive":
            return "open"
        if self.finding == "not_encoded" and not self.cleared:
            return "not encoded"
        if self.finding == "influential" and self.sign * self.fact.sign < 0:
            return "other sign"
        if self.fact.finding is None:
            return "at the tolerance"
        found = "not_influential" if self.finding == "not_encoded" else self.finding
        return "right" if found == self.fact.finding else "wrong"


@dataclass(frozen=True)
class Answers:
    """A whole audit beside its truth."""

    asked: Asked
    report: Report
    facts: list[Answered]
    counts: list[tuple[Count, float, Outcome]] = field(default_factory=list)
    """Each count, the value in the report, and the gate's outcome."""

    @property
    def tally(self) -> Counter[Agreement]:
        """How many verdicts agree with the truth in each way."""
        return Counter(answered.agreement for answered in self.facts)


def audited(audit: Audit, *, threads: int = 1) -> Report:
    """Runs an audit whose sources are paths in this process, as `caveat gate --local` does in a child."""
    with tempfile.TemporaryDirectory(prefix="caveat-truths-") as folder:
        found = {pointer: addressed(Path(source)) for pointer, source in audit.sources().items()}
        by_digest = {digest: _on_disk(content, Path(folder) / digest[7:]) for content, digest in found.values()}
        digests = {pointer: digest for pointer, (_, digest) in found.items()}
        return pipeline.run(audit.with_sources(digests), by_digest.__getitem__, lambda *_: None, threads=threads)


def _on_disk(content: Content, path: Path) -> Path:
    """The file with these bytes; an archive is written to `path`."""
    if not isinstance(content, Archive):
        return content
    with path.open("wb") as file:
        file.writelines(content.chunks())
    return path


def answers(asked: Asked, *, threads: int = 1) -> Answers:
    """The audit's report beside the truth; every fact needs a gate line of its own."""
    report = audited(asked.audit, threads=threads)
    lines = dict(zip(map(_subject, asked.audit.gate), report.verdict.lines, strict=True))
    facts = []
    for fact in asked.facts:
        of_fact = (fact.concept, fact.target)
        line = lines[of_fact]
        assert line.finding is not None
        tests = [test for test in report.associations if (test.concept, test.target) == of_fact]
        intervention = next((one for one in report.interventions if (one.concept, one.target) == of_fact), None)
        cleared = line.finding == "not_encoded" and line.outcome == "pass"
        facts.append(Answered(fact, tests, intervention, line.finding, line.reason, cleared))
    metrics = {one.name: one.metrics for one in report.comparisons}
    counts = [(one, metrics[one.group][one.metric].value, lines[one.group, one.metric].outcome) for one in asked.counts]
    return Answers(asked, report, facts, counts)


def _subject(line: ConceptLine | GroupLine) -> tuple[str, str]:
    return (line.concept, line.target) if isinstance(line, ConceptLine) else (line.group, line.metric)


@dataclass(frozen=True)
class Measured:
    """A mean change and its standard error, in standard deviations of the target."""

    change: float
    error: float

    def finding(self, tolerance: float) -> Finding | None:
        """Beyond the tolerance or inside it, by two standard errors; None in between."""
        if abs(self.change) - 2 * self.error > tolerance:
            return "influential"
        return "not_influential" if abs(self.change) + 2 * self.error < tolerance else None

    def fact(self, concept: str, target: str, tolerance: float, known: str) -> Fact:
        """The fact that this measurement establishes; `known` puts it into words, with `{}` for its numbers."""
        sign = int(np.sign(self.change)) if abs(self.change) > 2 * self.error else 0
        return Fact(concept, target, self.finding(tolerance), known.format(self), sign, self.change)

    def __str__(self) -> str:
        return f"{self.change:+.2f} ± {2 * self.error:.2f} sd"


def middle_sd(values: Float64Array) -> float:
    """The standard deviation of a normal distribution with the same middle 70 %, as SciPy and NumPy have it."""
    low, high = np.quantile(values, [0.15, 0.85], method="median_unbiased")
    return float(high - low) / float(norm.ppf(0.85) - norm.ppf(0.15))


def paired_change(without: Float64Array, with_concept: Float64Array, over: Float64Array) -> Measured:
    """The mean change of the same examples [n], in standard deviations of the target's values `over` its examples."""
    change, sd = with_concept - without, middle_sd(over)
    return Measured(float(change.mean()) / sd, float(change.std(ddof=1)) / sd / len(change) ** 0.5)


def gap(without: Float64Array, with_concept: Float64Array, over: Float64Array) -> Measured:
    """The difference of two sets' means, in standard deviations of the target's values `over` its examples."""
    sd = middle_sd(over)
    error = (without.var(ddof=1) / len(without) + with_concept.var(ddof=1) / len(with_concept)) ** 0.5
    return Measured(float(with_concept.mean() - without.mean()) / sd, float(error) / sd)


# -- The page


def section(of: Answers) -> str:
    """One audit's truths and verdicts as a table, with the reason for each line that is inconclusive or wrong."""
    lines = [f"### {of.asked.title}", ""]
    if of.asked.note:
        lines += [of.asked.note, ""]
    if of.facts:
        lines += [
            "| concept → target | the truth | intervention (sd) | layer: effect (sd), 95 % interval, finite step, "
            "corrected p, score | flags | verdict | |",
            "| --- | --- | --- | --- | --- | --- | --- |",
            *map(_table_row, of.facts),
            "",
        ]
    if of.counts:
        lines += ["| group line | counted | in the report | gate | |", "| --- | --- | --- | --- | --- |"]
        for count, value, outcome in of.counts:
            right = abs(value - count.value) < 1e-5 and outcome == count.outcome
            lines.append(
                f"| {count.group}, {count.metric.replace('_', ' ')} | {count.value:.3f} | {value:.3f} | {outcome} "
                f"| {'right' if right else '**wrong**'} |"
            )
        lines.append("")
    unsettled = [one for one in of.facts if one.agreement not in ("right", "at the tolerance")]
    lines += [f"- {one.fact.concept} → {one.fact.target}, {_shown(one)}: {one.reason}" for one in unsettled]
    return "\n".join([*lines, ""]) + ("\n" if unsettled else "")


def summary(all_answers: Sequence[Answers]) -> str:
    """One row a title: how many of its verdicts are the truth, open, or wrong."""
    kinds: tuple[Agreement, ...] = ("right", "not encoded", "open", "at the tolerance", "other sign", "wrong")
    total = sum((one.tally for one in all_answers), Counter[Agreement]())
    by_title: dict[str, Counter[Agreement]] = {}
    for one in all_answers:
        by_title[one.asked.title] = by_title.get(one.asked.title, Counter()) + one.tally
    rows = [*by_title.items(), ("all", total)]
    return "\n".join(
        [
            f"| audit | {' | '.join(kinds)} |",
            f"| --- {'| --- ' * len(kinds)}|",
            *(f"| {title} | {' | '.join(str(tally[kind]) for kind in kinds)} |" for title, tally in rows),
            "",
        ]
    )


LARGE = 0.25
"""Slopes are compared with measured changes larger than this, in sd."""


def bends(all_answers: Sequence[Answers]) -> str:
    """How near slopes and finite steps come to the measured changes, at layers that encode the concept."""
    compared = [
        (of.fact.change, test.effect.in_sd, test.finite_step.in_sd)
        for one in all_answers
        for of in one.facts
        for test in of.tests
        if of.fact.change is not None and abs(of.fact.change) > LARGE and _encoded(test) and test.finite_step
    ]
    if not compared:
        return ""
    measured, *estimates = np.array(compared).T
    rows = []
    for name, estimate in zip(("slope (the effect)", "finite step"), estimates, strict=True):
        ratio = estimate / measured
        rows.append(
            f"| {name} | {np.median(np.abs(estimate - measured)):.2f} | {np.median(ratio):.2f} "
            f"| {np.mean((ratio > 0.5) & (ratio < 2)):.0%} | {np.mean(ratio > 0):.0%} |"
        )
    return "\n".join(
        [
            f"Over {len(compared)} tests at layers that encode the concept, for measured changes over {LARGE} sd:",
            "",
            "| | median distance from the measured change (sd) | median ratio | within a factor of two | of its sign |",
            "| --- | --- | --- | --- | --- |",
            *rows,
            "",
        ]
    )


def _table_row(one: Answered) -> str:
    measured = "" if one.intervention is None else f"{one.intervention.effect.in_sd:+.2f}"
    by_layer = "<br>".join(map(_at_layer, one.tests))
    flags = ", ".join(dict.fromkeys(flag.code for test in one.tests for flag in test.flags))
    truth = f"{'at the tolerance' if one.fact.finding is None else _words(one.fact.finding)}: {one.fact.known}"
    return (
        f"| {one.fact.concept} → {one.fact.target} | {truth} | {measured} | {by_layer} | {flags} "
        f"| {_words(one.finding)} | {_shown(one)} |"
    )


def _encoded(test: ConceptTest) -> bool:
    return test.accuracy is not None and test.accuracy.encoded


def _at_layer(test: ConceptTest) -> str:
    effect, (low, high) = test.effect, test.effect.interval_in_sd
    step = "" if test.finite_step is None else f", finite step {test.finite_step.in_sd:+.2f}"
    assert test.score is not None
    return (
        f"{test.layer}: {effect.in_sd:+.2f} [{low:+.2f}, {high:+.2f}]{step}, p {effect.deciding_p:.2g}, "
        f"score {test.score.value:.2f}"
    )


def _shown(one: Answered) -> str:
    return f"**{one.agreement}**" if one.agreement in ("wrong", "other sign") else one.agreement


def _words(finding: Finding) -> str:
    return finding.replace("_", " ")
