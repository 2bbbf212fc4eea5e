"""The one place where a verdict is made: from the figures of a report and the lines of a gate, and nothing else.

A line about a concept is decided by the tables of `caveat_spec.verdict`; a line about groups by its bound.
"""

from __future__ import annotations

from collections.abc import Sequence

from caveat_spec.audit import ConceptLine, GateLine, GroupLine
from caveat_spec.report import Finding, LineVerdict, Outcome, Report, Verdict
from caveat_spec.verdict.association import ASSOCIATION, Association
from caveat_spec.verdict.growth import GROWTH, Growth
from caveat_spec.verdict.intervention import INTERVENTION, TOGETHER, Both, Intervention, caution_of
from caveat_spec.verdict.rules import conclude

WORST_FIRST: tuple[Outcome, ...] = ("fail", "inconclusive", "pass")


def decide(report: Report, gate: Sequence[GateLine], baseline: Report | None = None) -> Verdict:
    """The verdict on every line, and the worst of them; an inconclusive line passes only where its policy says so.

    `baseline` is an earlier report on the same examples, for the lines that say `must: not_grow`.
    """
    lines = []
    for position, line in enumerate(gate):
        if isinstance(line, GroupLine):
            lines.append(_group_verdict(report, position, line))
        elif line.must == "not_grow":
            lines.append(_growth_verdict(report, baseline, position, line))
        else:
            lines.append(_concept_verdict(report, position, line))
    outcomes = {line.outcome for line in lines}
    return Verdict(outcome=next((outcome for outcome in WORST_FIRST if outcome in outcomes), None), lines=lines)


def _concept_verdict(report: Report, position: int, line: ConceptLine) -> LineVerdict:
    pair = line.concept, line.target
    tests = [test for test in report.associations if (test.concept, test.target) == pair]
    measured = next((test for test in report.interventions if (test.concept, test.target) == pair), None)
    alpha = report.audit.method.alpha
    associated = Association(tests, line, alpha, alone=measured is None)
    conclusion, caution = conclude(ASSOCIATION, associated, associated.sign), None
    if measured is not None or line.require == "both":
        intervened = None if measured is None else Intervention(measured, line, alpha)
        both = Both(
            conclusion if tests else None,
            None if intervened is None else conclude(INTERVENTION, intervened, intervened.sign),
            line,
        )
        conclusion, caution = conclude(TOGETHER, both), caution_of(both, associated)
    verb = "must matter" if line.must == "matter" else "must not matter"
    return LineVerdict(
        line=position,
        subject=f"{line.concept} {verb} to {line.target}",
        finding=conclusion.finding,
        outcome=_outcome(line, conclusion.finding, associated),
        reason=_sentence(conclusion.reason),
        caution=None if caution is None else _sentence(caution),
    )


def _outcome(line: ConceptLine, finding: Finding, associated: Association) -> Outcome:
    """What a finding means for a line.

    A concept that no layer encodes clears a line only where the model's own numbers for concept and reference leave no
    room for an influence of another form.
    """
    if finding == "not_encoded" and line.when_not_encoded != "pass":
        return line.when_not_encoded
    if finding == "not_encoded" and line.must == "not_matter" and associated.gap_inside:
        return "pass"
    if finding in ("inconclusive", "not_encoded"):
        return line.when_inconclusive
    return "pass" if finding == ("influential" if line.must == "matter" else "not_influential") else "fail"


def _growth_verdict(report: Report, baseline: Report | None, position: int, line: ConceptLine) -> LineVerdict:
    conclusion = conclude(GROWTH, Growth(report, baseline, line))
    outcomes: dict[Finding, Outcome] = {"influential": "fail", "not_influential": "pass"}
    return LineVerdict(
        line=position,
        subject=f"{line.concept} must not matter more to {line.target} than in the baseline",
        finding=None,
        outcome=outcomes.get(conclusion.finding, line.when_inconclusive),
        reason=_sentence(conclusion.reason),
    )


def _group_verdict(report: Report, position: int, line: GroupLine) -> LineVerdict:
    metric = line.metric.replace("_", " ")
    bounds = {"at least": line.at_least, "at most": line.at_most}
    wanted = " and ".join(f"{word} {bound:g}" for word, bound in bounds.items() if bound is not None)
    comparison = next((one for one in report.comparisons if one.name == line.group), None)
    estimate = None if comparison is None else comparison.metrics.get(line.metric)
    if comparison is None or estimate is None:
        outcome: Outcome = "inconclusive"
        reason = f"the report has no {metric} for {line.group}; rates by outcome need 'label' in the group"
    else:
        low = line.at_least is not None and estimate.value < line.at_least
        high = line.at_most is not None and estimate.value > line.at_most
        outcome = "fail" if low or high else "pass"
        reason = (
            f"{metric} by {' and '.join(comparison.sensitive)} is {estimate.value:.3f} in {comparison.decisions} "
            f"(interval {estimate.interval[0]:.3f} to {estimate.interval[1]:.3f}), asked for {wanted}"
        )
    return LineVerdict(
        line=position,
        subject=f"{metric} of {line.group} {wanted}",
        finding=None,
        outcome=outcome,
        reason=_sentence(reason),
    )


def _sentence(clause: str) -> str:
    return clause[:1].upper() + clause[1:].rstrip(".") + "."
