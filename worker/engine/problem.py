"""What is tested: a concept against its pool at one layer, as n examples and their inner products."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.engine.cav import Cavs, fit_cavs
from worker.engine.errors import Refused
from worker.engine.gram import Floats, Indices, centred, panels
from worker.engine.resampling import Sets, pool_draws, random_sets, swapped_pairs

MOST_CAVS, MOST_WEIGHTS = 512, 1 << 21
"""CAVs held at a time, and their weights for examples; always the same, so that draws do not depend on memory."""


@dataclass(frozen=True)
class Settings:
    """How a concept is tested; `api_spec.audit.Method` says what each setting means."""

    estimator: str = "logistic"
    cross_check: str | None = "mean_difference"
    runs: int = 500
    null_sets: int = 499
    bootstrap: int = 499
    alpha: float = 0.05
    folds: int = 5
    regularisation: float = 1.0
    min_examples: int = 20


@dataclass(frozen=True)
class ConceptData:
    """What a layer shows of a concept and its pool: inner products `k` [N, N] of any examples, and who is who."""

    k: Floats
    concept: Indices  # [n_c] rows of k
    pool: Indices  # [n_p] rows of k
    pairs: Indices | None = None
    """For each concept example, the position in `pool` of the same example without the concept."""
    targets: Indices | None = None
    """The target examples' rows of k, where it holds them; without them the pool is not compared with them."""
    work: Floats | None = None
    """As many numbers as k has, perhaps in a file: where a problem has its part of k until the next; else in memory."""


@dataclass(frozen=True)
class TargetData:
    """What a layer shows of a target: `gx` [m, N], gradients times activations, and `values` [m], the target itself."""

    gx: Floats
    values: Floats


@dataclass(frozen=True)
class Problem:
    """A concept and its pool as n examples, the concept's first."""

    k: Floats  # [n, n] centred
    taken: Indices  # [n] rows of ConceptData.k
    n_concept: int
    partners: Indices | None  # [n_concept] the same example without the concept
    settings: Settings

    @property
    def n(self) -> int:
        """Examples of concept and pool together."""
        return len(self.k)

    @property
    def n_pool(self) -> int:
        """Examples of the pool."""
        return self.n - self.n_concept

    @property
    def null_kind(self) -> str:
        """What plays the concept in the permutation test."""
        return "random_sets" if self.partners is None else "swapped_pairs"

    @property
    def sides(self) -> tuple[Sets, Sets]:
        """The concept and its pool as they are, each [1, n]."""
        concept = np.arange(self.n) < self.n_concept
        return concept[None], ~concept[None]

    def spread_out(self, cavs: Cavs, size: int) -> Floats:
        """The first CAV over all `size` examples of the layer; zero but at the concept's and the pool's."""
        alpha = np.zeros(size)
        alpha[self.taken] = cavs.alpha[0]
        return alpha


def problem_of(data: ConceptData, settings: Settings) -> Problem:
    """The concept's and the pool's part of a layer.

    Raises Refused for sets that overlap, have fewer than two examples, or are paired incompletely.
    """
    if len(shared := np.intersect1d(data.concept, data.pool)):
        raise Refused(
            "concept-in-pool",
            f"{len(shared)} examples are in both the concept and its pool.",
            "Take them out of one of the two.",
        )
    for name, index in (("concept", data.concept), ("pool", data.pool)):
        if len(index) < 2:
            raise Refused(
                "few-examples",
                f"The {name} has {len(index)} examples; a test needs at least 2.",
                "Give it more examples.",
            )
    partners = None
    if data.pairs is not None:
        if not len(data.pairs) == len(np.unique(data.pairs)) == len(data.concept):
            raise Refused(
                "pairs-incomplete",
                f"Pairs name {len(np.unique(data.pairs))} pool examples for {len(data.concept)} concept examples.",
                "Pair each concept example with its own pool example, or leave the pairs out.",
            )
        partners = np.asarray(data.pairs, dtype=np.intp) + len(data.concept)
    taken = np.concatenate([data.concept, data.pool])
    own = _part(data, taken)
    return Problem(centred(own, out=own), taken, len(data.concept), partners, settings)


def _part(data: ConceptData, taken: Indices) -> Floats:
    """The inner products [n, n] of some rows."""
    if data.work is None:
        return data.k[np.ix_(taken, taken)]
    own = data.work[: len(taken) ** 2].reshape(len(taken), len(taken))
    for rows in panels(len(taken)):
        own[rows] = data.k[np.ix_(taken[rows], taken)]
    return own


def fit(problem: Problem, positives: NDArray[Any], negatives: NDArray[Any], estimator: str | None = None) -> Cavs:
    """The CAVs of some draws [R, n] by the problem's estimator, or another."""
    settings = problem.settings
    name = estimator or settings.estimator
    return fit_cavs(problem.k, positives, negatives, name, settings.regularisation, centre=False)


def gaps(cavs: Cavs, positives: NDArray[Any], negatives: NDArray[Any]) -> Floats:
    """How far the positives' mean lies from the negatives' along each CAV [R]."""
    between = positives / positives.sum(1, keepdims=True) - negatives / negatives.sum(1, keepdims=True)
    found: Floats = np.vecdot(cavs.along, between)
    return found


def null_sets(problem: Problem, count: int, rng: np.random.Generator) -> Sets:
    """Sets [count, n] that could as well have been the concept, were its label meaningless."""
    if problem.partners is None:
        return random_sets(problem.n, problem.n_concept, count, rng)
    return swapped_pairs(problem.n, problem.partners, count, rng)


def null_draws(problem: Problem, count: int, rng: np.random.Generator) -> Iterator[tuple[Sets, Sets]]:
    """Each null set against all the rest, a batch at a time."""
    for size in batches(problem, count):
        sets = null_sets(problem, size, rng)
        yield sets, ~sets


def run_draws(problem: Problem, count: int, rng: np.random.Generator) -> Iterator[tuple[Sets, Sets]]:
    """The concept against random draws from the pool, a batch at a time: the runs of Kim et al. 2018, section 3.2."""
    for size in batches(problem, count):
        concept = np.repeat(problem.sides[0], size, axis=0)
        yield concept, pool_draws(problem.n_concept, problem.n_pool, size, rng)


def batches(problem: Problem, count: int) -> Sequence[int]:
    """How many draws each batch of `count` has."""
    most = min(MOST_CAVS, max(1, MOST_WEIGHTS // problem.n))
    return [min(most, count - start) for start in range(0, count, most)]
