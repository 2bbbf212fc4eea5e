"""Group comparison: recorded decisions, or the model's own, compared between groups of people."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from caveat_spec.audit import Group
from caveat_spec.methods import NoOptions
from caveat_spec.results import AnyResult, Comparison, Note
from caveat_worker.engine.activations.collected import Collected, Runtime
from caveat_worker.engine.activations.requirements import Outputs
from caveat_worker.engine.methods import method


@method(requires=lambda _: (Outputs(at=("groups",)),))
def group_comparison(collected: Collected, runtime: Runtime, options: NoOptions) -> Iterator[AnyResult]:
    """Selection rates, error rates and metrics of every group that the audit declares."""
    for name, asked in collected.plan.audit.groups.items():
        comparison = _compared(collected, name, asked)
        yield comparison
        if comparison.left_out:
            yield Note(
                method="group_comparison",
                sentence=f"{comparison.left_out} people have no value in a column of '{name}' and are in none of its "
                "groups.",
            )
        if asked.given and comparison.conditional is None:
            yield Note(
                method="group_comparison",
                sentence=f"'{name}' is not compared given {' and '.join(asked.given)}: no two groups have enough "
                "people who are alike in that. Give fewer columns, or columns with fewer values.",
            )


def _compared(collected: Collected, name: str, asked: Group) -> Comparison:
    from caveat_worker.engine.fairness.conditional import Given
    from caveat_worker.engine.fairness.groups import compare_groups  # fairlearn takes longer to import than to run

    plan = collected.plan
    settings = plan.audit.method
    read = collected.examples[asked.examples].columns
    assert read is not None, "the audit's own validation: groups are compared in tables"
    columns = read([*asked.sensitive, *asked.given, *filter(None, (asked.decision, asked.label))])
    if asked.target is not None:
        threshold = collected.threshold(asked.target) if asked.threshold is None else asked.threshold
        decisions = collected.target_values(asked.examples, asked.target) > threshold
        words = f"the model's own decisions ({asked.target} over {threshold:g})"
    else:
        decisions = columns[str(asked.decision)]
        words = f"the recorded decisions ({asked.decision})"
    alike = {column: columns[column] for column in asked.given}
    given = Given(alike, settings.bootstrap, np.random.default_rng([settings.seed, 2])) if alike else None
    figures = compare_groups(
        decisions,
        {column: columns[column] for column in asked.sensitive},
        None if asked.label is None else columns[asked.label],
        given,
        alpha=settings.alpha if plan.look is None else plan.look.alpha,
    )
    return Comparison(method="group_comparison", name=name, decisions=words, sensitive=asked.sensitive, **dict(figures))
