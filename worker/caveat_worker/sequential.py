"""A sequential audit: which examples each look has, what it spends, and whether it is the last one.

Examples are taken in an order that the seed draws from their keys, so that the same audit takes the same looks. Matched
pairs stay together. Sets that groups are compared in are whole from the first look on: a metric is about everybody.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from caveat_spec.alpha_spending import method_at, spending
from caveat_spec.artifacts import STAGES, Stage
from caveat_spec.audit import SHARES, ConceptLine
from caveat_spec.gate import decide, settled
from caveat_spec.report import Look, PassCounts, Report, SequentialSummary
from caveat_spec.results import FiniteStep
from caveat_spec.roles import always_whole
from caveat_spec.verdict.reach import out_of_reach
from caveat_worker.engine.activations.requirements import Plan
from caveat_worker.engine.plan import enough_examples, plan_look
from caveat_worker.progress import Progress
from caveat_worker.readers.example_sets import outline_of
from caveat_worker.readers.source import ExampleSource, drawn_order, taken


@dataclass(frozen=True)
class PlannedLook:
    """The examples of one look, and the plan for them."""

    share: float
    plan: Plan
    sources: Mapping[str, ExampleSource]


def planned_looks(plan: Plan, sources: Mapping[str, ExampleSource]) -> list[PlannedLook]:
    """Every look that the audit may take; one at which a concept or a target has too few examples is left out.

    What such a look would have spent, the next one spends.
    """
    asked = plan.audit.method.sequential
    assert asked is not None, "only a sequential audit has looks"
    whole, seed = always_whole(plan.audit), plan.audit.method.seed
    orders = {name: drawn_order(source, seed) for name, source in sources.items()}
    at = {
        share: {
            name: taken(source, [position for number, position in orders[name] if name in whole or number < share])
            for name, source in sources.items()
        }
        for share in asked.looks
    }
    outlines = {share: {name: outline_of(source) for name, source in there.items()} for share, there in at.items()}
    looks: list[PlannedLook] = []
    for spent in spending(
        [share for share in asked.looks if enough_examples(plan.audit, outlines[share])], plan.audit.method.alpha
    ):
        audit = plan.audit.model_copy(update={"method": method_at(plan.audit.method, spent)})
        before = looks[-1].plan if looks else None
        look = plan_look(plan, audit, outlines[spent.share], before)
        looks.append(PlannedLook(spent.share, look, at[spent.share]))
    return looks


def steps_decide(plan: Plan) -> bool:
    """Whether finite steps settle a line: no slope is a share, so that by association a step has to give it.

    Of any other line they can only take back what slopes say, so that one which is open without them stays open.
    """
    return any(
        isinstance(line, ConceptLine)
        and line.unit in SHARES
        and (line.concept not in plan.pairings or line.require == "both")
        for line in plan.audit.gate
    )


def with_steps(report: Report, steps: Mapping[tuple[str, str, str], FiniteStep]) -> Report:
    """A report whose finite steps were taken later, and its verdict; `steps` are by concept, layer and target."""
    tests = [
        test.model_copy(update={"finite_step": steps.get((test.concept, test.layer or "", test.target))})
        if test.evidence == "association"
        else test
        for test in report.tests
    ]
    found = report.model_copy(update={"tests": tests})
    return found.model_copy(update={"verdict": decide(found, found.audit.gate)})


def without_steps(look: Look, plan: Plan, earlier: Sequence[Look]) -> Look:
    """A look that goes on whatever its finite steps would say: it takes none, and settles no line that needs them."""
    gate = plan.audit.gate
    fewer = look.passes.model_copy(update={"partial": earlier[-1].passes.partial if earlier else 0})
    answered = [
        number
        for number in look.settled
        if not isinstance(line := gate[number], ConceptLine) or line.concept in plan.pairings
    ]
    return look.model_copy(update={"passes": fewer, "settled": answered})


def look_of(report: Report, look: PlannedLook, earlier: Sequence[Look], final: PlannedLook) -> Look:
    """What the gate makes of the examples so far."""
    gate = look.plan.audit.gate
    answered = [number for number, line in enumerate(gate) if settled(report, line)]
    passes = report.plan.passes
    assert passes is not None, "this version counts them"
    repeated = earlier[-1].passes.partial if earlier else 0
    return Look(
        share=look.share,
        examples={name: len(source) for name, source in look.sources.items()},
        alpha=look.plan.audit.method.alpha,
        passes=passes.model_copy(update={"partial": passes.partial + repeated}),
        settled=answered,
        out_of_reach=[
            number
            for number, line in enumerate(gate)
            if number not in answered
            and isinstance(line, ConceptLine)
            and out_of_reach(report, line, 1 / look.share, final.plan.audit.method.alpha)
        ],
    )


def is_last(look: Look, lines: int) -> bool:
    """Whether more examples would settle no other line of the gate."""
    return len(look.settled) + len(look.out_of_reach) == lines


def summary(looks: Sequence[Look], planned: Sequence[PlannedLook], whole: Plan, report: Report) -> SequentialSummary:
    """How the audit came to its end; the passes of a fixed audit are those at the layers that the report has."""
    partial = whole.passes.partial * len(report.plan.layers) // max(len(whole.layers), 1)
    return SequentialSummary(
        looks=list(looks),
        planned=[look.share for look in planned],
        fixed=PassCounts(forward=whole.passes.forward, backward=whole.passes.backward, partial=partial),
    )


def within(progress: Progress, number: int, looks: int, until: Stage) -> Progress:
    """The progress of one look, as its part of that of them all."""
    first, last = STAGES["collecting"], STAGES[until]

    def shown(stage: Stage, share: float) -> None:
        progress(stage, round(first + (number * (last - first) + share - first) / looks, 4))

    return shown
