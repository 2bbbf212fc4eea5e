"""Interventions on examples: what adding the concept to the same examples does to the target.

An intervention is measured, not inferred from a direction: the model runs on each example without and with the concept.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from caveat_spec.results import DecisionChange, Effect, Figures
from caveat_worker.engine.activations.target_values import sigmoid, softmax
from caveat_worker.engine.base.arrays import Float64Array
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.statistics.intervals import mean_interval, scaled_mean_interval
from caveat_worker.engine.statistics.p_values import sign_flip_p
from caveat_worker.engine.statistics.scale import scale

Link = Literal["softmax", "sigmoid"]


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
    logits_without: NDArray[Any] | None = None,
    logits_with: NDArray[Any] | None = None,
    index: int | None = None,
    link: Link | None = None,
    threshold: float = 0.0,
) -> Figures:
    """The mean paired change of h, its interval, and what it does to decisions.

    `values_*` [n] are h without and with the concept; `over` [m] is h at the target examples, which give its scale, and
    which may be those of the pairs without the concept (`same_examples`). With the link
    `softmax`, `logits_*` [n, classes] and `index` give probabilities, flips of the top class and the rank of the
    target among all classes by mean change. Otherwise a decision is favourable over `threshold`, read from `logits_*`
    [n] where they are given (their probabilities too, with the link `sigmoid`), else from the values.
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
    if link == "softmax":
        if logits_without is None or logits_with is None or index is None:
            raise InvalidInput(
                "logits-missing", "A class has no probability without logits.", "Give the logits and the class's index."
            )
        decisions = _class_outcome(np.asarray(logits_without, float), np.asarray(logits_with, float), index)
    else:
        scored = [
            value if logits is None else np.asarray(logits, float).reshape(value.shape)
            for value, logits in ((before, logits_without), (after, logits_with))
        ]
        decisions = _decision_outcome(scored[0], scored[1], threshold, link)
    effect = Effect(
        value=mean,
        interval=mean_interval(change, alpha),
        in_sd=mean / unit,
        interval_in_sd=scaled_mean_interval(change, over, alpha, resamples, for_interval, together=same_examples),
        p=sign_flip_p(change, permutations, for_p),
    )
    n = len(change)
    return Figures(effect=effect, changes=change.tolist(), n_concept=n, n_reference=n, n_target=n, decisions=decisions)


def _class_outcome(before: Float64Array, after: Float64Array, index: int) -> DecisionChange:
    """Flips of the top class to and from `index`, and its rank among all classes by mean change."""
    was, is_now = before.argmax(1) == index, after.argmax(1) == index
    moved = (after - before).mean(0)  # [classes]
    return DecisionChange(
        probability_without=float(softmax(before)[:, index].mean()),
        probability_with=float(softmax(after)[:, index].mean()),
        flips_to=int((~was & is_now).sum()),
        flips_from=int((was & ~is_now).sum()),
        rank=int(1 + (moved > moved[index]).sum()),
        classes=before.shape[1],
    )


def _decision_outcome(before: Float64Array, after: Float64Array, threshold: float, link: Link | None) -> DecisionChange:
    """Decisions that became favourable and unfavourable, a score above the threshold being favourable."""
    was, is_now = before > threshold, after > threshold
    return DecisionChange(
        probability_without=float(sigmoid(before).mean()) if link == "sigmoid" else None,
        probability_with=float(sigmoid(after).mean()) if link == "sigmoid" else None,
        flips_to=int((~was & is_now).sum()),
        flips_from=int((was & ~is_now).sum()),
        rank=None,
        classes=None,
    )
