"""What a person can do about a line that could not be settled: a list of steps, the most telling first."""

from __future__ import annotations

from collections.abc import Iterator
from math import isinf

from caveat_spec.audit import SHARES, ConceptLine, GroupLine
from caveat_spec.power import amount, plan_audit
from caveat_spec.report import LineVerdict, Report
from caveat_spec.results import Change, ConceptTest, Effect, FlagCode
from caveat_spec.verdict.groups import Lack, lack
from caveat_spec.verdict.more_examples import times_to_settle
from caveat_spec.verdict.rules import in_unit

MEND: dict[FlagCode, str] = {
    "few_examples": "Give at least as many examples of every kind as `method.min_examples` asks.",
    "sets_differ_in_kind": (
        "Make the concept's examples from the reference's own, say by drawing the mark on the same photographs, and "
        "pair them."
    ),
    "zero_gradient": "Choose target examples at which the target can still change, or `scale: logit`.",
    "weak_cav": "Give clearer examples of the concept, or more of them, or name layers that may encode it.",
    "unstable_estimators": "Look at the layer's examples in order: the two estimators take the concept for two things.",
}
"""What mends a flag that keeps a test from deciding."""


_FOR_LACK: dict[Lack, str] = {
    "outcomes": "Name the column of true outcomes in `{group}.label`; each group needs both outcomes.",
    "strata": "Give more people, or fewer columns in `{group}.given`, so that more are alike in them.",
    "groups": "Name a column with two values or more in `{group}.sensitive`.",
    "selected": "Check which decision is the favourable one: the target's class and `{group}.threshold`, or the column "
    "`{group}.decision`.",
}


def next_steps(report: Report, verdict: LineVerdict) -> list[str]:
    """What would settle a line of the gate; empty where it is settled."""
    line = report.audit.gate[verdict.line]
    if verdict.finding not in ("inconclusive", "not_encoded") and verdict.outcome != "inconclusive":
        return []
    if verdict.outcome == "pass":
        return []
    unseen = verdict.finding == "not_encoded"
    found = _for_groups(report, line) if isinstance(line, GroupLine) else _for_concept(report, line, unseen=unseen)
    first, *others = dict.fromkeys(found) or [""]
    alone = first.removeprefix("Or ")
    return [step for step in (f"{alone[:1].upper()}{alone[1:]}", *others) if step]


def _for_groups(report: Report, line: GroupLine) -> Iterator[str]:
    comparison = next((one for one in report.comparisons if one.name == line.group), None)
    if comparison is None or line.metric not in comparison.metrics:
        yield _FOR_LACK[lack(comparison, line)].format(group=f"groups.{line.group}")
        return
    smallest = sorted(comparison.rows, key=lambda row: row.n)[:2]
    yield f"Add people to the smallest groups: {', '.join(f'{row.group} has {row.n:,}' for row in smallest)}."
    yield "Or say `judge: point`, if the rule is about these people and not about others like them."


def _for_concept(report: Report, line: ConceptLine, *, unseen: bool) -> Iterator[str]:
    pair = line.concept, line.target
    tests = [one for one in report.associations if (one.concept, one.target) == pair]
    measured = next((one for one in report.interventions if (one.concept, one.target) == pair), None)
    if line.must == "not_grow":
        yield "Give the report of the earlier version, made on the same examples: `--baseline report.json`."
        return
    if measured is None:
        yield (
            f"Give each example of {line.concept} also without the concept, and name that set in `pairs_with`: the "
            "change itself is then measured, and decides."
        )
        if unseen and line.must == "not_matter" and line.when_not_encoded == "pass":
            yield from _narrower_gap(report, report.audit.gate.index(line))
    else:
        yield from _more_pairs(line, measured, report.alpha)
    yield from (MEND[flag.code] for test in tests for flag in test.flags if flag.blocking and flag.code in MEND)
    if unseen or measured is not None or not any(flag.blocking for test in tests for flag in test.flags):
        yield from _tolerance(line, _deciding(line, tests, measured, unseen=unseen))


def _narrower_gap(report: Report, number: int) -> Iterator[str]:
    """The examples that bring the output gap of a concept that does nothing inside the tolerance."""
    planned = plan_audit(report.audit, {one.name: one.count for one in report.plan.examples}).lines[number]
    if planned.needs:
        needed = " and ".join(f"{count:,} of {name}" for name, count in planned.needs.items())
        yield (
            f"Or give {needed}: if the concept does nothing and no layer encodes it then either, nine of ten such "
            "audits pass the line, because the model's own numbers differ by less than the tolerance."
        )


def _more_pairs(line: ConceptLine, measured: ConceptTest, alpha: float) -> Iterator[str]:
    """How many more pairs settle the line, where any number within reach does."""
    figure = in_unit(measured.effect, line)
    if figure is None:
        yield "Give the tolerance in `sd`: the change has no figure in the line's unit."
        return
    times = times_to_settle(figure, line, alpha)
    if not isinf(times):
        yield (
            f"Give about {times:.1f} times as many pairs and target examples: nine of ten such audits are settled. "
            "`caveat plan audit.yaml --report report.json` has the figures."
        )


def _deciding(
    line: ConceptLine, tests: list[ConceptTest], measured: ConceptTest | None, *, unseen: bool
) -> list[Effect | Change]:
    """The figures whose intervals have to lie inside the tolerance; for what no layer encodes, the output gap."""
    if measured is not None:
        return [measured.effect]
    if unseen:
        return [test.output_gap for test in tests if test.output_gap is not None]
    steps: list[Effect | Change] = [test.finite_step for test in tests if test.finite_step is not None]
    return steps if line.unit in SHARES else [*(test.effect for test in tests), *steps]


def _tolerance(line: ConceptLine, figures: list[Effect | Change]) -> Iterator[str]:
    """The tolerance that holds every interval: their farthest end."""
    found = [estimate for figure in figures if (estimate := in_unit(figure, line)) is not None]
    farthest = max((abs(end) for one in found for end in one.interval), default=0.0)
    if farthest > line.tolerance:
        yield (
            f"Or decide that a larger change is harmless: with {amount(farthest, line.unit)} every interval that "
            "decides this line lies inside the tolerance."
        )
