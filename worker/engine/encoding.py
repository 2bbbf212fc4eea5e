"""Whether a layer encodes a concept: how well a classifier tells examples that it did not fit."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from worker.engine.cav import Cavs
from worker.engine.gram import Floats
from worker.engine.problem import ConceptData, Problem, Settings, fit, null_sets, problem_of
from worker.engine.resampling import Sets, fold_numbers, matched


@dataclass(frozen=True)
class Accuracy:
    """Held-out balanced accuracy of the concept's classifier, against shuffled labels."""

    held_out: float
    shuffled_mean: float
    shuffled_high: float
    encoded: bool


def encoding(problem: Problem, rng: np.random.Generator) -> tuple[Accuracy, float]:
    """Accuracy by k-fold against shuffled labels, and the pool's held-out standard deviation along the CAV.

    A shuffle is a null set, so that this comparison is exact too.
    """
    alpha = problem.settings.alpha
    shuffles = shuffles_for(alpha)
    labels = np.vstack([problem.sides[0], null_sets(problem, shuffles, rng)])  # [1 + shuffles, n]
    accuracy, spread = _held_out(problem, labels, rng)
    high = float(np.sort(accuracy[1:])[math.ceil((1 - alpha) * (shuffles + 1)) - 1])
    return Accuracy(float(accuracy[0]), float(accuracy[1:].mean()), high, bool(accuracy[0] > high)), spread


def shuffles_for(alpha: float) -> int:
    """How many label shuffles place the (1 − alpha) quantile: five of them are expected beyond it."""
    return math.ceil(5 / alpha) - 1


def pool_against_targets(data: ConceptData, settings: Settings, rng: np.random.Generator) -> float | None:
    """Held-out accuracy between pool and targets.

    None where that says nothing: pairs match the pool to the concept, and a pool of target examples is one with them.
    """
    if data.targets is None or data.pairs is not None or len(np.intersect1d(data.targets, data.pool)):
        return None
    if min(len(data.targets), len(data.pool)) < 2:
        return None
    other = problem_of(ConceptData(data.k, data.targets, data.pool, work=data.work), settings)
    accuracy, _ = _held_out(other, other.sides[0], rng)
    return float(accuracy[0])


def place_of_targets(data: ConceptData, problem: Problem, cav: Cavs) -> float:
    """Where the targets lie along the CAV from the pool (0) to the concept (1)."""
    assert data.targets is not None  # nobody asks where there are none
    along = problem.spread_out(cav, len(data.k)) @ data.k  # [N]; rows of k would be a copy of most of the memory
    pool, concept, targets = (float(along[each].mean()) for each in (data.pool, data.concept, data.targets))
    return (targets - pool) / (concept - pool) if concept != pool else 0.0


def apart(problem: Problem) -> tuple[float, float]:
    """How far apart concept and pool are, `|μ_C − μ_P|²` over the variance within them, and their variances' ratio.

    What chance adds to the step is taken off. Pairs match the two sets, so that (0, 1) stands for them.
    """
    if problem.partners is not None:
        return 0.0, 1.0
    (concept,), (pool,) = problem.sides
    diagonal = np.diag(problem.k)

    def inner(left: Sets, right: Sets) -> float:
        return float(left @ (problem.k @ right)) / float(left.sum() * right.sum())

    varies = [  # without bias, summed over the layer's directions
        (float(diagonal[one].mean()) - inner(one, one)) * (n / (n - 1))
        for one, n in ((concept, problem.n_concept), (pool, problem.n_pool))
    ]
    step = inner(concept, concept) + inner(pool, pool) - 2 * inner(concept, pool)
    step -= varies[0] / problem.n_concept + varies[1] / problem.n_pool
    if min(varies) <= 0:
        return 0.0, 1.0
    return max(0.0, step) / (sum(varies) / 2), varies[0] / varies[1]


def _held_out(problem: Problem, labels: Sets, rng: np.random.Generator) -> tuple[Floats, float]:
    """Balanced accuracy of each labelling [R], and for the first the held-out spread of its negatives.

    Each fold fits as many examples of either side, like the published runs: with sides of very different sizes the
    boundary of a classifier in many dimensions leans to the larger one, and held-out accuracy shows that, not the
    concept.
    """
    folds = max(2, min(problem.settings.folds, problem.n_concept, problem.n_pool))
    numbers = fold_numbers(labels, folds, problem.partners, rng)
    right = np.zeros(labels.shape, dtype=bool)
    squares = 0.0  # of held-out negatives' distances from their mean along each fold's CAV
    for fold in range(folds):
        held = numbers == fold
        cavs = fit(problem, *matched(labels & ~held, ~labels & ~held, rng))
        right |= held & ((cavs.along + cavs.intercept[:, None] > 0) == labels)
        negatives = cavs.along[0, held[0] & ~labels[0]]
        squares += float(((negatives - negatives.mean()) ** 2).sum()) if len(negatives) else 0.0
    accuracy = ((right & labels).sum(1) / labels.sum(1) + (right & ~labels).sum(1) / (~labels).sum(1)) / 2
    return accuracy, math.sqrt(squares / max(1, problem.n_pool - folds))
