"""Linear probes: whether a layer encodes a concept, by how well a classifier separates held-out examples."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import ndtri

from caveat_spec.results import Accuracy
from caveat_worker.engine.base.arrays import Float64Array
from caveat_worker.engine.concepts.cav import Cavs
from caveat_worker.engine.concepts.fit_problem import (
    ConceptData,
    FitProblem,
    Settings,
    batches,
    fit_draws,
    fit_problem_of,
    permuted_sets,
)
from caveat_worker.engine.concepts.kept_draws import NOT_KEPT, KeptDraws
from caveat_worker.engine.statistics.resampling import Sets, fold_numbers, matched


def encoding(problem: FitProblem, rng: np.random.Generator, kept: KeptDraws = NOT_KEPT) -> tuple[Accuracy, float]:
    """Accuracy by k-fold against shuffled labels, and the reference's held-out standard deviation along the CAV.

    A shuffle is a permutation as in the test itself, so that this comparison is exact too.
    """
    alpha = problem.settings.alpha
    shuffles = shuffles_for(alpha)

    def draw() -> list[Float64Array]:
        labels = np.vstack([problem.sides[0], permuted_sets(problem, shuffles, rng)])  # [1 + shuffles, n]
        return _held_out(problem, labels, rng)

    accuracy, spread = kept.vectors([1 + shuffles, 1], draw, shuffles=shuffles, folds=problem.settings.folds)
    high = float(np.sort(accuracy[1:])[math.ceil((1 - alpha) * (shuffles + 1)) - 1])
    found = Accuracy(
        held_out=float(accuracy[0]),
        shuffled_mean=float(accuracy[1:].mean()),
        shuffled_high=high,
        encoded=bool(accuracy[0] > high),
        detectable=detectable_accuracy(high, float(accuracy[1:].std(ddof=1))),
    )
    return found, float(spread[0])


def detectable_accuracy(threshold: float, spread: float) -> float | None:
    """The smallest true accuracy whose estimate exceeds `threshold` in 95 of 100 cases; None where even 1 does not.

    `spread` is the standard deviation of accuracies under shuffled labels, whose true accuracy is 1/2; at a true
    accuracy `a` it is `2 √(a (1 − a))` times that, as for a proportion. So `a − threshold` is 1.645 times that.
    """
    width = (2 * float(ndtri(0.95)) * spread) ** 2
    middle = (2 * threshold + width) / (2 * (1 + width))
    root = middle**2 - threshold**2 / (1 + width)
    found = middle + math.sqrt(max(root, 0.0))
    return found if threshold < 1 else None


def shuffles_for(alpha: float) -> int:
    """How many label shuffles place the (1 − alpha) quantile: five of them are expected beyond it."""
    return math.ceil(5 / alpha) - 1


def reference_against_targets(
    data: ConceptData, settings: Settings, rng: np.random.Generator, kept: KeptDraws = NOT_KEPT
) -> float | None:
    """Held-out accuracy between reference and targets.

    None where that says nothing: pairs match the reference set to the concept, and reference examples may be target
    examples themselves.
    """
    if data.targets is None or data.pairs is not None or len(np.intersect1d(data.targets, data.reference)):
        return None
    if min(len(data.targets), len(data.reference)) < 2:
        return None
    other = ConceptData(data.k, data.targets, data.reference, work=data.work)

    def draw() -> list[Float64Array]:
        problem = fit_problem_of(other, settings)
        return _held_out(problem, problem.sides[0], rng)

    accuracy, _ = kept.vectors([1, 1], draw, against="targets", folds=settings.folds)
    return float(accuracy[0])


def place_of_targets(data: ConceptData, problem: FitProblem, cav: Cavs) -> float:
    """Where the targets lie along the CAV from the reference set (0) to the concept (1)."""
    assert data.targets is not None  # nobody asks where there are none
    along = problem.spread_out(cav, len(data.k)) @ data.k  # [N]; rows of k would be a copy of most of the memory
    reference, concept, targets = (float(along[each].mean()) for each in (data.reference, data.concept, data.targets))
    return (targets - reference) / (concept - reference) if concept != reference else 0.0


def set_separation(problem: FitProblem) -> tuple[float, float]:
    """The separation of concept and reference, `|μ_C − μ_R|²` over the variance within, and their variances' ratio.

    The part of the step that chance adds is subtracted. Pairs match the two sets, so that (0, 1) stands for them.
    """
    if problem.partners is not None:
        return 0.0, 1.0
    (concept,), (reference,) = problem.sides
    diagonal = problem.k.diagonal()

    def inner(left: Sets, right: Sets) -> float:
        return float(left @ (problem.k @ right)) / float(left.sum() * right.sum())

    varies = [  # without bias, summed over the layer's directions
        (float(diagonal[one].mean()) - inner(one, one)) * (n / (n - 1))
        for one, n in ((concept, problem.n_concept), (reference, problem.n_reference))
    ]
    step = inner(concept, concept) + inner(reference, reference) - 2 * inner(concept, reference)
    step -= varies[0] / problem.n_concept + varies[1] / problem.n_reference
    if min(varies) <= 0:
        return 0.0, 1.0
    return max(0.0, step) / (sum(varies) / 2), varies[0] / varies[1]


def _held_out(problem: FitProblem, labels: Sets, rng: np.random.Generator) -> list[Float64Array]:
    """Balanced accuracy of each labelling [R], and for the first the held-out spread of its negatives [1].

    Each fold fits as many examples of either side, like the published runs: with sides of very different sizes the
    boundary of a classifier in many dimensions leans to the larger one, and held-out accuracy shows that, not the
    concept.
    """
    folds = max(2, min(problem.settings.folds, problem.n_concept, problem.n_reference))
    found, done = [], 0
    for size in batches(problem, len(labels)):
        found.append(_folded(problem, labels[done : done + size], folds, rng))
        done += size
    spread = math.sqrt(found[0][1] / max(1, problem.n_reference - folds))
    return [np.concatenate([accuracy for accuracy, _ in found]), np.array([spread])]


def _folded(problem: FitProblem, labels: Sets, folds: int, rng: np.random.Generator) -> tuple[Float64Array, float]:
    """Balanced accuracy of each labelling [R], and the sum of squares of the first one's held-out negatives."""
    numbers = fold_numbers(labels, folds, problem.partners, rng)
    right = np.zeros(labels.shape, dtype=bool)
    squares = 0.0  # of distances from their mean along each fold's CAV
    for fold in range(folds):
        held = numbers == fold
        cavs = fit_draws(problem, *matched(labels & ~held, ~labels & ~held, rng))
        along = cavs.along
        right |= held & ((along > -cavs.intercept[:, None]) == labels)
        negatives = along[0, held[0] & ~labels[0]]
        squares += float(((negatives - negatives.mean()) ** 2).sum()) if len(negatives) else 0.0
    accuracy = ((right & labels).sum(1) / labels.sum(1) + (right & ~labels).sum(1) / (~labels).sum(1)) / 2
    return accuracy, squares
