"""The second witness: what adding the concept to the same examples does to the target.

An intervention is measured, not inferred from a direction: the model runs on each example without and with the concept.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logsumexp

from worker.engine.chance import sign_flip_p
from worker.engine.errors import Refused
from worker.engine.gram import Floats
from worker.engine.intervals import studentised_interval

Link = Literal["softmax", "sigmoid"]


@dataclass(frozen=True)
class Change:
    """The paired change of a target, in its own unit and in standard deviations over the target examples."""

    pairs: int
    change: float
    interval: tuple[float, float]
    change_in_sd: float
    interval_in_sd: tuple[float, float]
    p: float
    probability_without: float | None
    probability_with: float | None
    flips_to: int
    flips_from: int
    rank: int | None
    classes: int | None
    changes: Floats = field(repr=False)
    """Each pair's own change [n]."""


def target_value(
    logits: NDArray[Any], index: int | None = None, versus: int | None = None, scale: str = "logit"
) -> Floats:
    """The target's scalar h [n] from logits [n, classes], or [n] for a single output, on the scale asked for."""
    logits = np.asarray(logits, dtype=float)
    if logits.ndim == 1 or logits.shape[1] == 1:
        single = logits.reshape(len(logits))
        if scale == "logit":
            return single
        return _sigmoid(single) if scale == "probability" else -np.logaddexp(0.0, -single)
    wanted = [each for each in (index, versus) if each is not None]
    if not wanted or max(wanted) >= logits.shape[1]:
        raise Refused(
            "unknown-class",
            f"The target names the class {max(wanted, default=None)}; the output has {logits.shape[1]}.",
            f"Give an 'index' from 0 to {logits.shape[1] - 1}.",
        )
    by_class = logits
    if scale != "logit":
        by_class = _softmax(logits) if scale == "probability" else _log_softmax(logits)
    value: Floats = by_class[:, wanted[0]]
    return value if versus is None else value - by_class[:, versus]


def intervention(
    values_without: NDArray[Any],
    values_with: NDArray[Any],
    *,
    sd: float,
    alpha: float,
    sets: int,
    resamples: int,
    rng: np.random.Generator,
    logits_without: NDArray[Any] | None = None,
    logits_with: NDArray[Any] | None = None,
    index: int | None = None,
    link: Link | None = None,
    threshold: float = 0.0,
) -> Change:
    """The mean paired change of h, its interval, and what it does to decisions.

    `values_*` [n] are h without and with the concept; `sd` that of h over the target examples. With the link
    `softmax`, `logits_*` [n, classes] and `index` give probabilities, flips of the top class and the rank of the
    target among all classes by mean change. Otherwise a decision is favourable over `threshold`, read from `logits_*`
    [n] where they are given (their probabilities too, with the link `sigmoid`), else from the values.
    """
    before, after = np.asarray(values_without, dtype=float), np.asarray(values_with, dtype=float)
    if before.shape != after.shape or before.ndim != 1 or len(before) < 2:
        raise Refused(
            "pairs-incomplete",
            f"An intervention needs pairs; there are {before.size} values without and {after.size} with the concept.",
            "Pair at least two examples by file name or position.",
        )
    change = after - before  # [n]
    mean = float(change.mean())
    for_p, for_interval = rng.spawn(2)
    interval = studentised_interval(change, resamples, alpha, for_interval)
    unit = sd if sd > 0 else 1.0
    if link == "softmax":
        if logits_without is None or logits_with is None or index is None:
            raise Refused(
                "logits-missing", "A class has no probability without logits.", "Give the logits and the class's index."
            )
        outcome = _class_outcome(np.asarray(logits_without, float), np.asarray(logits_with, float), index)
    else:
        decided = [
            value if logits is None else np.asarray(logits, float).reshape(value.shape)
            for value, logits in ((before, logits_without), (after, logits_with))
        ]
        outcome = _decision_outcome(decided[0], decided[1], threshold, link)
    return Change(
        len(change),
        mean,
        interval,
        mean / unit,
        (interval[0] / unit, interval[1] / unit),
        sign_flip_p(change, sets, for_p),
        *outcome,
        changes=change,
    )


Outcome = tuple[float | None, float | None, int, int, int | None, int | None]
"""Probability without and with, flips to and from, rank and number of classes."""


def _class_outcome(before: Floats, after: Floats, index: int) -> Outcome:
    was, is_now = before.argmax(1) == index, after.argmax(1) == index
    moved = (after - before).mean(0)  # [classes]
    return (
        float(_softmax(before)[:, index].mean()),
        float(_softmax(after)[:, index].mean()),
        int((~was & is_now).sum()),
        int((was & ~is_now).sum()),
        int(1 + (moved > moved[index]).sum()),
        before.shape[1],
    )


def _decision_outcome(before: Floats, after: Floats, threshold: float, link: Link | None) -> Outcome:
    was, is_now = before > threshold, after > threshold
    chances = (float(_sigmoid(before).mean()), float(_sigmoid(after).mean())) if link == "sigmoid" else (None, None)
    return (*chances, int((~was & is_now).sum()), int((was & ~is_now).sum()), None, None)


def _sigmoid(logits: Floats) -> Floats:
    return np.asarray(expit(logits), dtype=float)


def _log_softmax(logits: Floats) -> Floats:
    total: Floats = logsumexp(logits, axis=1, keepdims=True)
    return logits - total


def _softmax(logits: Floats) -> Floats:
    share: Floats = np.exp(_log_softmax(logits))
    return share
