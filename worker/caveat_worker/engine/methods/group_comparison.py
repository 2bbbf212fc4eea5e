"""Group comparison: recorded decisions, or the model's own, compared between groups of people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caveat_spec.audit import Group
from caveat_spec.methods import NoOptions
from caveat_spec.results import AnyResult, Comparison, Note
from caveat_worker.engine.activations.collected import Collected, Runtime
from caveat_worker.engine.activations.requirements import Outputs
from caveat_worker.engine.base.arrays import Float64Array
from caveat_worker.engine.base.errors import InvalidInput
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
    from caveat_worker.engine.fairness.groups import compare_groups  # pandas takes longer to import than this to run

    plan = collected.plan
    settings = plan.audit.method
    read = collected.examples[asked.examples].columns
    assert read is not None, "the audit's own validation: groups are compared in tables"
    columns = read([*asked.sensitive, *asked.given, *filter(None, (asked.decision, asked.score, asked.label))])
    decided = _decided(collected, asked, columns)
    alike = {column: columns[column] for column in asked.given}
    given = Given(alike, settings.bootstrap, np.random.default_rng([settings.seed, 2])) if alike else None
    figures = compare_groups(
        decided.decisions,
        {column: columns[column] for column in asked.sensitive},
        None if asked.label is None else columns[asked.label],
        given,
        alpha=settings.alpha if plan.look is None else plan.look.alpha,
    )
    return Comparison(
        method="group_comparison",
        name=name,
        decisions=decided.words,
        sensitive=asked.sensitive,
        threshold=decided.threshold,
        **dict(figures),
    )


@dataclass(frozen=True)
class _Decided:
    """Decisions [n], whose they are in words, and the threshold behind them where they come from scores."""

    decisions: NDArray[Any]
    words: str
    threshold: float | None = None


def _decided(collected: Collected, asked: Group, columns: Mapping[str, NDArray[Any]]) -> _Decided:
    if asked.decision is not None:
        return _Decided(columns[asked.decision], f"the recorded decisions ({asked.decision})")
    if asked.target is not None:
        scores = collected.target_values(asked.examples, asked.target)
        whose = f"the model's own decisions ({asked.target} over "
        usual = collected.threshold(asked.target)
    else:
        scores, usual = _scores(columns, str(asked.score)), 0.0
        whose = f"the recorded scores ({asked.score} over "
    over = "its median, " if asked.threshold == "median" else ""
    threshold = float(np.median(scores)) if asked.threshold == "median" else asked.threshold
    threshold = usual if threshold is None else threshold
    return _Decided(scores > threshold, f"{whose}{over}{threshold:g})", threshold)


def _scores(columns: Mapping[str, NDArray[Any]], name: str) -> Float64Array:
    """A column of numbers [n]; raises InvalidInput for people without a score."""
    import pandas as pd  # its libraries start threads, which a forkserver must not have

    scores = pd.to_numeric(pd.Series(np.asarray(columns[name])), errors="coerce").to_numpy(float)
    if missing := int(np.isnan(scores).sum()):
        raise InvalidInput(
            "no-score", f"{missing} people have no number in '{name}'.", "Leave them out with `where`, or score them."
        )
    return scores
