"""The one place where a verdict is made: from the figures of a report and the lines of a gate, and nothing else.

A line about a concept is decided by the tables of `caveat_spec.verdict`, a line about groups by `verdict.groups`.
"""

from __future__ import annotations

from collections.abc import Sequence

from caveat_spec.audit import ConceptLine, GateLine, GroupLine
from caveat_spec.report import Finding, LineVerdict, Outcome, Report, Verdict
from caveat_spec.verdict.association import ASSOCIATION, Association
from caveat_spec.verdict.groups import judge
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


def settled(report: Report, line: GateLine) -> bool:
    """Whether a report's figures answer a line, whatever its policy makes of one that is open.

    A bound on groups always is: everybody is compared from the first look on, so that no later one changes it. No line
    is by a concept that no layer encodes: few examples show less of an encoding, which no alpha accounts for.
    """
    if isinstance(line, GroupLine):
        return True
    asked = line.model_copy(update={"when_inconclusive": "inconclusive", "when_not_encoded": "inconclusive"})
    return decide(report, [asked]).lines[0].outcome != "inconclusive"


def _concept_verdict(report: Report, position: int, line: ConceptLine) -> LineVerdict:
    pair = line.concept, line.target
    tests = [test for test in report.associations if (test.concept, test.target) == pair]
    measured = next((test for test in report.interventions if (test.concept, test.target) == pair), None)
    alpha = report.alpha
    associated = Association.of(tests, line, alpha, alone=measured is None)
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
    judged = judge(report, line)
    return LineVerdict(
        line=position,
        subject=judged.subject,
        finding=None,
        outcome=line.when_inconclusive if judged.outcome == "inconclusive" else judged.outcome,
        reason=_sentence(judged.reason),
        caution=None if judged.caution is None else _sentence(judged.caution),
    )


def _sentence(clause: str) -> str:
    return clause[:1].upper() + clause[1:].rstrip(".") + "."
