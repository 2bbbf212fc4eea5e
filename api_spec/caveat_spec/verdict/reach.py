"""Whether a line of a sequential audit is settled, or could still be settled by all of its examples."""

from __future__ import annotations

from statistics import NormalDist

from caveat_spec.audit import ConceptLine
from caveat_spec.report import Report
from caveat_spec.results import ConceptTest, Estimate
from caveat_spec.verdict.association import Association
from caveat_spec.verdict.rules import in_unit

LEAST_CHANCE = 0.05
"""A line with less chance than this of being settled by all examples holds up no audit (Lan, Simon, Halperin 1982)."""


def out_of_reach(report: Report, line: ConceptLine, times: float, final_alpha: float) -> bool:
    """Whether `times` as many examples, at the last look's alpha, would hardly settle an open line.

    What was found is uncertain itself: with `times` as many examples the figure lies around it with `1 − 1/times` of
    its variance. A line by association needs every layer inside the tolerance or one beyond it. Never of a line whose
    concept no layer encodes so far, which more examples may change, or that compares with a baseline.
    """
    figures = None if line.must == "not_grow" else _deciding(report, line)
    if not figures:
        return False
    chances = [_chances(one, line.tolerance, times, report.alpha, final_alpha) for one in figures]
    return min(inside for inside, _ in chances) + max(outside for _, outside in chances) < LEAST_CHANCE


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


def _chances(found: Estimate, tolerance: float, times: float, alpha: float, final_alpha: float) -> tuple[float, float]:
    """The chance that the final interval lies inside the tolerance, and that it lies beyond it."""
    z, final_z = (NormalDist().inv_cdf(1 - each / 2) for each in (alpha, final_alpha))
    error = (found.interval[1] - found.interval[0]) / 2 / z
    value, half = abs(found.value), final_z * error / times**0.5
    if error == 0 or times <= 1:
        return float(value + half <= tolerance), float(value - half > tolerance)
    later = NormalDist(value, error * (1 - 1 / times) ** 0.5)
    inside = max(0.0, later.cdf(tolerance - half) - later.cdf(half - tolerance))
    return inside, 1 - later.cdf(tolerance + half) + later.cdf(-tolerance - half)
