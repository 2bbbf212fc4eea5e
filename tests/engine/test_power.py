"""A plan is right about the engine's intervals: with the examples that it names, nine of ten audits settle a line."""

from __future__ import annotations

import numpy as np
import pytest

from caveat_spec.audit import Audit
from caveat_spec.power import plan_audit
from caveat_worker.engine.activations.gram import gram, products
from caveat_worker.engine.concepts.concept_test import ConceptData, Settings, TargetData, run_concept_test
from caveat_worker.engine.concepts.output_gap import output_gap
from caveat_worker.engine.statistics.intervals import mean_interval, scaled_mean_interval
from tests.api_spec.test_power import audit

AUDITS = 400
LEAST, MOST = 0.86, 0.96
"""What 400 audits that settle with a probability of 0.9 stay in but for 1 in 100, and what the expansions cost."""


def needed(asked: Audit, **counts: int) -> dict[str, int]:
    """The examples that the plan of the first line names."""
    return plan_audit(asked, counts).lines[0].needs


@pytest.mark.slow
@pytest.mark.parametrize("tolerance", [0.5, 0.25])
def test_pairs_in_sd(tolerance: float) -> None:
    """The concept does nothing; the changes of single examples vary as a plan assumes."""
    n = needed(audit(tolerance=tolerance, paired=True), photos=40, marked=40)["marked"]
    rng = np.random.default_rng(0)
    settled = 0
    for _ in range(AUDITS):
        change, target = 0.5 * rng.normal(size=n), rng.normal(size=n)
        low, high = scaled_mean_interval(change, target, 0.05, 299, rng, together=True)
        settled += -tolerance <= low and high <= tolerance
    assert LEAST <= settled / AUDITS <= MOST


@pytest.mark.slow
def test_pairs_in_percentage_points() -> None:
    n = needed(audit(tolerance=0.03, unit="probability", paired=True), photos=40, marked=40)["marked"]
    rng = np.random.default_rng(0)
    ends = np.array([mean_interval(0.1 * rng.normal(size=n), 0.05) for _ in range(AUDITS)])
    settled = (np.abs(ends) <= 0.03).all(axis=1)
    assert LEAST <= settled.mean() <= MOST


@pytest.mark.slow
def test_sets_without_pairs() -> None:
    """A linear model whose target varies over concept and reference as over its own examples."""
    tolerance = 0.5
    n = needed(audit(tolerance=tolerance), photos=80, marked=40)
    rng, settings = np.random.default_rng(0), Settings(
        "mean_difference", None, runs=2, permutations=19, bootstrap=199, folds=2
    )  # fmt: skip
    n |= {"targets": n["photos"]}  # the target's examples are the photos
    weights = rng.normal(size=30)
    weights /= np.linalg.norm(weights)
    shift = rng.normal(size=30)
    shift -= shift @ weights * weights
    settled = 0
    for _ in range(AUDITS):
        x = rng.normal(size=(n["marked"] + n["photos"], 30))
        x[: n["marked"]] += shift
        rows, targets = np.arange(len(x)), rng.normal(size=(n["targets"], 30))
        data = ConceptData(gram(x), rows[: n["marked"]], rows[n["marked"] :])
        target = TargetData(products(np.tile(weights, (len(targets), 1)), x), targets @ weights)
        low, high = run_concept_test(data, [target], settings, rng).figures[0].effect.interval_in_sd
        settled += -tolerance <= low and high <= tolerance
    assert LEAST <= settled / AUDITS <= MOST


@pytest.mark.slow
def test_the_examples_that_a_plan_names_bring_an_output_gap_inside() -> None:
    """Of what no layer encodes and does nothing: the report's next step names these examples too."""
    tolerance, rng, settled = 0.3, np.random.default_rng(3), 0
    n = needed(audit(tolerance=tolerance), photos=80, marked=40)
    for _ in range(AUDITS):
        concept, reference = rng.normal(size=n["marked"]), rng.normal(size=n["photos"])
        low, high = output_gap(concept, reference, reference, Settings(bootstrap=199), rng).interval_in_sd
        settled += -tolerance <= low and high <= tolerance
    assert LEAST <= settled / AUDITS <= MOST
