"""What a default tolerance would do that followed from the number of examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from bench.validation.audits import ALPHA, DRAWS, STRICT
from caveat_spec.audit import Audit, ConceptLine, Method
from caveat_spec.power import SPREAD, plan_audit
from caveat_spec.verdict.rules import exceeds, inside
from caveat_worker.engine.statistics.intervals import scaled_mean_interval

PAIRS = (40, 100, 400, 1600)
CHANGES = (0.05, 0.25)
"""True changes in sd, within the default tolerance and beyond it."""
RESAMPLES = Method().bootstrap
AUDIT = Audit.model_validate(
    {
        "model": "model.onnx",
        "examples": {
            "marked": {"arrays": "marked.npy", "pairs_with": "plain"},
            "plain": {"arrays": "plain.npy"},
            "targets": {"arrays": "targets.npy"},
        },
        "concepts": {"mark": {"examples": "marked", "against": "plain"}},
        "targets": {"target": {"index": 0, "examples": "targets"}},
        "gate": [{"concept": "mark", "target": "target", "must": "not_matter"}],
    }
)

TEXT = """## A tolerance that follows from the examples

Made by `python -m bench.validation tolerance`. {count} audits a row of a model that the concept moves by the same true
change, whatever the number of pairs; single changes vary by {spread:g} sd, and there are as many target examples.
*Derived* is the smallest tolerance that `caveat plan` says these examples settle, *fixed* is {fixed:g} sd.

| true change (sd) | pairs | derived (sd) | by it: passes | fails | open | by the fixed one: passes | fails | open |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
{rows}

A gate by the derived tolerance passes a model for want of examples; by the fixed one it says that they are too few.
"""


def tolerance(quick: bool) -> tuple[str, bool]:
    """Gates by both tolerances; holds where the fixed one never clears a change beyond it too often."""
    count, rows, holds = 50 if quick else 300, [], True
    for change in CHANGES:
        for pairs in PAIRS:
            derived = plan_audit(AUDIT, {"marked": pairs, "plain": pairs, "targets": pairs}).lines[0].settles
            assert derived is not None, "so many pairs settle some tolerance"
            intervals = list(_intervals(change, pairs, count))
            by_derived, by_fixed = (_found(intervals, allowed) for allowed in (derived, STRICT))
            holds &= change <= STRICT or by_fixed["passes"] <= ALPHA * count
            shares = [f"{one[kind] / count:.1%}" for one in (by_derived, by_fixed) for kind in KINDS]
            rows.append(f"| {change:g} | {pairs} | {derived:.2f} | {' | '.join(shares)} |")
    return TEXT.format(count=count, spread=SPREAD["sd"], fixed=STRICT, rows="\n".join(rows)), holds


KINDS = ("passes", "fails", "open")


def _intervals(change: float, pairs: int, count: int) -> Iterator[tuple[float, float]]:
    rng = np.random.default_rng([DRAWS, 11, pairs])
    for _ in range(count):
        changes, values = change + SPREAD["sd"] * rng.normal(size=pairs), rng.normal(size=pairs)
        yield scaled_mean_interval(changes, values, ALPHA, RESAMPLES, rng, together=False)


def _found(intervals: list[tuple[float, float]], allowed: float) -> Counter[str]:
    line = ConceptLine(concept="mark", target="target", must="not_matter", tolerance=allowed)
    return Counter("passes" if inside(one, line) else "fails" if exceeds(one, line) else "open" for one in intervals)
