"""A sequential audit: which examples each look has, what it spends, and whether it is the last one.

Examples are taken in an order that the seed draws from their keys, so that the same audit takes the same looks. Matched
pairs stay together. Sets that groups are compared in are whole from the first look on: a metric is about everybody.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from caveat_spec.alpha_spending import method_at, spending
from caveat_spec.artifacts import STAGES, Stage
from caveat_spec.audit import Audit, ConceptLine
from caveat_spec.gate import settled
from caveat_spec.report import Look, PassCounts, Report, SequentialSummary
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
    whole, seed = _compared(plan.audit), plan.audit.method.seed
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


def _compared(audit: Audit) -> set[str]:
    """The sets that are whole at every look: those of groups, and what their examples pair with."""
    sets = {group.examples for group in audit.groups.values()}
    return sets | {base for name in sets if (base := audit.examples[name].pairs_with) is not None}


def look_of(report: Report, look: PlannedLook, earlier: Sequence[Look], final_alpha: float) -> Look:
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
            and out_of_reach(report, line, 1 / look.share, final_alpha)
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
