"""Whether a line of a sequential audit is settled, or could still be settled by all of its examples."""

from __future__ import annotations

from caveat_spec.audit import ConceptLine
from caveat_spec.report import Report
from caveat_spec.results import ConceptTest, Estimate
from caveat_spec.verdict.association import Association
from caveat_spec.verdict.more_examples import chances
from caveat_spec.verdict.rules import in_unit

LEAST_CHANCE = 0.05
"""A line with less chance than this of being settled by all examples holds up no audit (Lan, Simon, Halperin 1982)."""


def out_of_reach(report: Report, line: ConceptLine, times: float, final_alpha: float) -> bool:
    """Whether `times` as many examples, at the last look's alpha, would hardly settle an open line.

    A line by association needs every layer inside the tolerance or one beyond it. Never of a line whose concept no
    layer encodes so far, which more examples may change, or that compares with a baseline.
    """
    figures = None if line.must == "not_grow" else _deciding(report, line)
    if not figures:
        return False
    found = [chances(one, line.tolerance, times, report.alpha, final_alpha) for one in figures]
    return min(inside for inside, _ in found) + max(outside for _, outside in found) < LEAST_CHANCE


def _deciding(report: Report, line: ConceptLine) -> list[Estimate] | None:
    """The figures that decide a line: the measured change, or the effect at each layer; None where they do not yet."""
    pair = line.concept, line.target
    tests = [test for test in report.associations if (test.concept, test.target) == pair]
    measured = [test for test in report.interventions if (test.concept, test.target) == pair]
    found: list[ConceptTest] = measured
    if not measured:
        facts = Association.of(tests, line, report.alpha, alone=True)
        found = facts.sound if facts.encoded and not facts.withheld else []
    figures = [in_unit(test.effect, line) for test in found]
    known = [one for one in figures if one is not None]
    return known if len(known) == len(figures) else None
