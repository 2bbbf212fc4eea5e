"""Interventions on examples: what adding the concept to the same examples does to the target.

An intervention is measured, not inferred from a direction: the model runs on each example without and with the concept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caveat_spec.results import DecisionChange, Effect, Estimate, Figures
from caveat_worker.engine.activations.target_values import Link, probabilities
from caveat_worker.engine.base.arrays import Float64Array
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.statistics.intervals import mean_interval, scaled_mean_interval
from caveat_worker.engine.statistics.p_values import sign_flip_p
from caveat_worker.engine.statistics.proportions import exact_interval
from caveat_worker.engine.statistics.scale import scale


@dataclass(frozen=True)
class ChangedShares:
    """Each example's change of probability [n], where there are any, and whether its decision flips [n]."""

    probability: Float64Array | None
    flipped: NDArray[np.bool_]


def measure_change(
    values_without: NDArray[Any],
    values_with: NDArray[Any],
    *,
    over: Float64Array,
    same_examples: bool = False,
    alpha: float,
    permutations: int,
    resamples: int,
    rng: np.random.Generator,
    scores_without: NDArray[Any] | None = None,
    scores_with: NDArray[Any] | None = None,
    index: int | None = None,
    link: Link | None = None,
    decides: bool = True,
) -> Figures:
    """The mean paired change of h, its interval, and what it does to decisions.

    `values_*` [n] are h without and with the concept; `over` [m] is h at the target examples, which give its scale, and
    which may be those of the pairs without the concept (`same_examples`). `scores_*` are what h is read from: for
    classes that compete [n, classes], which with `index` give probabilities by the `link`, flips of the top class, and
    the rank of the target among all classes by mean change; for a single number [n], whose decision is favourable over
    0, or over half if it is a probability. Without `decides` no decision is made by them.
    """
    before, after = np.asarray(values_without, dtype=float), np.asarray(values_with, dtype=float)
    if before.shape != after.shape or before.ndim != 1 or len(before) < 2:
        raise InvalidInput(
            "pairs-incomplete",
            f"An intervention needs pairs; there are {before.size} values without and {after.size} with the concept.",
            "Pair at least two examples by file name or position.",
        )
    change = after - before  # [n]
    mean = float(change.mean())
    for_p, for_interval = rng.spawn(2)
    unit = scale(over) or 1.0
    decisions = shares = None
    if decides:
        scored = [
            np.asarray(value if scores is None else scores, dtype=float)
            for value, scores in ((before, scores_without), (after, scores_with))
        ]
        decisions = _decisions(scored[0], scored[1], index, link)
        shares = changed_shares(scored[0], scored[1], index, link)
    effect = Effect(
        value=mean,
        interval=mean_interval(change, alpha),
        in_sd=mean / unit,
        interval_in_sd=scaled_mean_interval(change, over, alpha, resamples, for_interval, together=same_examples),
        p=sign_flip_p(change, permutations, for_p),
        in_probability=None if shares is None else in_probability(shares, alpha),
        in_decisions=None if shares is None else in_decisions(shares, alpha),
    )
    n = len(change)
    return Figures(effect=effect, changes=change.tolist(), n_concept=n, n_reference=n, n_target=n, decisions=decisions)


def changed_shares(before: Float64Array, after: Float64Array, index: int | None, link: Link | None) -> ChangedShares:
    """What happens to each example's probability of the target and to its decision, from scores of both."""
    if before.ndim == 1 and link != "softmax":
        threshold = 0.5 if link == "probabilities" else 0.0
        probability = None if link is None else probabilities(after, link) - probabilities(before, link)
        return ChangedShares(probability, (before > threshold) != (after > threshold))
    assert link is not None
    assert index is not None
    moved = probabilities(after, link)[:, index] - probabilities(before, link)[:, index]
    return ChangedShares(moved, (before.argmax(1) == index) != (after.argmax(1) == index))


def in_probability(changed: ChangedShares, alpha: float) -> Estimate | None:
    """The mean change of the probability with its interval; None where there are no probabilities."""
    moved = changed.probability
    return None if moved is None else Estimate(value=float(moved.mean()), interval=mean_interval(moved, alpha))


def in_decisions(changed: ChangedShares, alpha: float) -> Estimate:
    """The share of examples whose decision flips, with its exact interval."""
    flips, n = int(changed.flipped.sum()), len(changed.flipped)
    return Estimate(value=flips / n, interval=exact_interval(flips, n, alpha))


def _decisions(before: Float64Array, after: Float64Array, index: int | None, link: Link | None) -> DecisionChange:
    if before.ndim == 1 and link != "softmax":
        return _decision_outcome(before, after, link)
    if link is None or index is None or before.ndim == 1:
        raise InvalidInput(
            "scores-missing",
            "A class has no probability without the scores of all classes.",
            "Give those scores and the class's index.",
        )
    return _class_outcome(before, after, index, link)


def _class_outcome(before: Float64Array, after: Float64Array, index: int, link: Link) -> DecisionChange:
    """Flips of the top class to and from `index`, and its rank among all classes by mean change."""
    was, is_now = before.argmax(1) == index, after.argmax(1) == index
    moved = (after - before).mean(0)  # [classes]
    return DecisionChange(
        probability_without=_mean(probabilities(before, link)[:, index]),
        probability_with=_mean(probabilities(after, link)[:, index]),
        flips_to=int((~was & is_now).sum()),
        flips_from=int((was & ~is_now).sum()),
        rank=int(1 + (moved > moved[index]).sum()),
        classes=before.shape[1],
    )


def _decision_outcome(before: Float64Array, after: Float64Array, link: Link | None) -> DecisionChange:
    """Decisions that became favourable and unfavourable, a score above the threshold being favourable."""
    threshold = 0.5 if link == "probabilities" else 0.0
    was, is_now = before > threshold, after > threshold
    return DecisionChange(
        probability_without=None if link is None else _mean(probabilities(before, link)),
        probability_with=None if link is None else _mean(probabilities(after, link)),
        flips_to=int((~was & is_now).sum()),
        flips_from=int((was & ~is_now).sum()),
        rank=None,
        classes=None,
    )


def _mean(shares: Float64Array) -> float:
    """The mean of probabilities, which float32 may have put a little outside 0 and 1."""
    return float(np.clip(shares.mean(), 0, 1))
