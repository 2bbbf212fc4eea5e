"""One classification problem: a concept against its reference set at one layer, in inner products."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caveat_spec.audit import Method
from caveat_spec.results import NullKind
from caveat_worker.engine.activations.feature_space import AnyProducts, FactoredProducts
from caveat_worker.engine.activations.gram import centred, panels
from caveat_worker.engine.base.arrays import Float64Array, Indices
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.concepts.cav import Cavs, FeatureCavs, fit_cavs, mean_differences
from caveat_worker.engine.statistics.resampling import Sets, random_sets, reference_draws, swapped_pairs

DEFAULT = Method()
MOST_CAVS, MOST_WEIGHTS = 512, 1 << 21
"""CAVs held at a time, and their weights for examples; always the same, so that draws do not depend on memory."""


@dataclass(frozen=True)
class Settings:
    """How a concept is tested; `caveat_spec.audit.Method` has the defaults and says what each setting means."""

    estimator: str = DEFAULT.estimator
    cross_check: str | None = DEFAULT.cross_check
    runs: int = DEFAULT.runs
    permutations: int = DEFAULT.permutations
    bootstrap: int = DEFAULT.bootstrap
    alpha: float = DEFAULT.alpha
    folds: int = DEFAULT.folds
    regularisation: float = DEFAULT.regularisation
    min_examples: int = DEFAULT.min_examples

    @classmethod
    def of(cls, method: Method) -> Settings:
        """Those that an audit asks for."""
        return cls(**{field.name: getattr(method, field.name) for field in fields(cls)})


@dataclass(frozen=True)
class ConceptData:
    """A concept and its reference set at a layer: inner products `k` [N, N] of all examples, and the rows of each."""

    k: AnyProducts
    concept: Indices  # [n_c] rows of k
    reference: Indices  # [n_p] rows of k
    pairs: Indices | None = None
    """For each concept example, the position in `reference` of the same example without the concept."""
    targets: Indices | None = None
    """The target examples' rows of k, where it holds them; without them the reference set is not compared with them."""
    work: Float64Array | None = None
    """Room for as many numbers as k has, perhaps in a file, for the part of k that a problem works on."""


@dataclass(frozen=True)
class TargetData:
    """A target at a layer: `gx` [m, N], gradients times activations, and `values` [m], the target itself."""

    gx: AnyProducts
    values: Float64Array


@dataclass(frozen=True)
class FitProblem:
    """A concept and its reference set as n examples, the concept's first."""

    k: AnyProducts  # [n, n] centred
    taken: Indices  # [n] rows of ConceptData.k
    n_concept: int
    partners: Indices | None  # [n_concept] the same example without the concept
    settings: Settings

    @property
    def n(self) -> int:
        """Examples of concept and reference together."""
        return len(self.k)

    @property
    def n_reference(self) -> int:
        """Examples of the reference set."""
        return self.n - self.n_concept

    @property
    def null_kind(self) -> NullKind:
        """What takes the concept's place in the permutation test."""
        return "random_sets" if self.partners is None else "swapped_pairs"

    @property
    def sides(self) -> tuple[Sets, Sets]:
        """Membership of the concept and of its reference set, each [1, n]."""
        concept = np.arange(self.n) < self.n_concept
        return concept[None], ~concept[None]

    def spread_out(self, cavs: Cavs, size: int) -> Float64Array:
        """The first CAV over all `size` examples of the layer; zero but at the concept's and the reference's."""
        alpha = np.zeros(size)
        alpha[self.taken] = cavs.alpha[0]
        return alpha


def fit_problem_of(data: ConceptData, settings: Settings) -> FitProblem:
    """The problem of a concept and its reference set, with its own part of the Gram matrix.

    Raises InvalidInput for sets that overlap, have fewer than two examples, or are paired incompletely.
    """
    if len(shared := np.intersect1d(data.concept, data.reference)):
        raise InvalidInput(
            "concept-in-reference",
            f"{len(shared)} examples are in both the concept and its reference set.",
            "Take them out of one of the two.",
        )
    for name, index in (("concept", data.concept), ("reference set", data.reference)):
        if len(index) < 2:
            raise InvalidInput(
                "few-examples",
                f"The {name} has {len(index)} examples; a test needs at least 2.",
                "Give it more examples.",
            )
    partners = None
    if data.pairs is not None:
        if not len(data.pairs) == len(np.unique(data.pairs)) == len(data.concept):
            raise InvalidInput(
                "pairs-incomplete",
                f"Pairs name {len(np.unique(data.pairs))} reference examples for {len(data.concept)} concept examples.",
                "Pair each concept example with its own reference example, or leave the pairs out.",
            )
        partners = np.asarray(data.pairs, dtype=np.intp) + len(data.concept)
    taken = np.concatenate([data.concept, data.reference])
    own = _part(data, taken)
    moved = own.centred() if isinstance(own, FactoredProducts) else centred(own, out=own)
    return FitProblem(moved, taken, len(data.concept), partners, settings)


def _part(data: ConceptData, taken: Indices) -> AnyProducts:
    """The inner products [n, n] of some rows."""
    if data.work is None or isinstance(data.k, FactoredProducts):
        return data.k[np.ix_(taken, taken)]
    own = data.work[: len(taken) ** 2].reshape(len(taken), len(taken))
    for rows in panels(len(taken)):
        own[rows] = data.k[np.ix_(taken[rows], taken)]
    return own


def fit(problem: FitProblem, positives: NDArray[Any], negatives: NDArray[Any], estimator: str | None = None) -> Cavs:
    """The CAVs of some draws [R, n] by the problem's estimator, or another."""
    settings = problem.settings
    name = estimator or settings.estimator
    return fit_cavs(problem.k, positives, negatives, name, settings.regularisation, centre=False)


def fit_draws(problem: FitProblem, positives: NDArray[Any], negatives: NDArray[Any]) -> Cavs | FeatureCavs:
    """The same for draws that are only measured, whose CAVs need not be combinations of examples."""
    if problem.settings.estimator == "mean_difference" and isinstance(problem.k, FactoredProducts):
        return mean_differences(problem.k, positives, negatives)
    together = np.broadcast_shapes(positives.shape, negatives.shape)
    return fit(problem, np.broadcast_to(positives, together), np.broadcast_to(negatives, together))


def permuted_sets(problem: FitProblem, count: int, rng: np.random.Generator) -> Sets:
    """Sets [count, n] that are as likely as the concept's own, were its label meaningless."""
    if problem.partners is None:
        return random_sets(problem.n, problem.n_concept, count, rng)
    return swapped_pairs(problem.n, problem.partners, count, rng)


def null_draws(problem: FitProblem, count: int, rng: np.random.Generator) -> Iterator[tuple[Sets, Sets]]:
    """Each permuted set against all the rest, a batch at a time."""
    for size in batches(problem, count):
        sets = permuted_sets(problem, size, rng)
        yield sets, ~sets


def run_draws(problem: FitProblem, count: int, rng: np.random.Generator) -> Iterator[tuple[Sets, Sets]]:
    """The concept [1, n] against draws from the reference set, in batches: the runs of Kim et al. 2018, section 3.2."""
    for size in batches(problem, count):
        yield problem.sides[0], reference_draws(problem.n_concept, problem.n_reference, size, rng)


def batches(problem: FitProblem, count: int) -> Sequence[int]:
    """How many draws each batch of `count` has."""
    most = min(MOST_CAVS, max(1, MOST_WEIGHTS // problem.n))
    return [min(most, count - start) for start in range(0, count, most)]
