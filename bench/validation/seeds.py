"""The same audits by many seeds: what chance in permutations and resamples alone does to a verdict."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from bench.validation.ground_truth import Asked, audited
from bench.validation.tables import tables

SEEDS = 20

TEXT = """## Seeds

Made by `python -m bench.validation seeds`: the audits of the eight tables by seeds 0 to {last}. The examples stay
the same, and the seed draws permutations, resamples and folds anew.

| lines | passed by every seed | failed by every seed | open by every seed | passed or open | failed or open | passed and failed |
| --- | --- | --- | --- | --- | --- | --- |
| {counts} |
"""  # noqa: E501

KINDS = (
    {"pass"},
    {"fail"},
    {"inconclusive"},
    {"pass", "inconclusive"},
    {"fail", "inconclusive"},
)


def seeds(quick: bool, folder: Path) -> tuple[str, bool]:
    """What each line comes to by every seed; holds where none both passes and fails."""
    asked = tables(folder)[: 2 if quick else None]
    outcomes = [line for one in asked for line in _outcomes(one, 3 if quick else SEEDS)]
    both = sum({"pass", "fail"} <= one for one in outcomes)
    found = Counter(next((number for number, kind in enumerate(KINDS) if kind == one), None) for one in outcomes)
    counts = [len(outcomes), *(found[number] for number in range(len(KINDS))), both]
    return TEXT.format(last=SEEDS - 1, counts=" | ".join(map(str, counts))), not both


def _outcomes(asked: Asked, count: int) -> list[set[str]]:
    """For each line of the gate, every outcome that some seed gave it."""
    found: list[set[str]] = [set() for _ in asked.audit.gate]
    for seed in range(count):
        method = asked.audit.method.model_copy(update={"seed": seed})
        report = audited(asked.audit.model_copy(update={"method": method}))
        for outcomes, line in zip(found, report.verdict.lines, strict=True):
            outcomes.add(line.outcome)
    return found
