"""A target's number from the scores of a model, on the scale that the audit asks for."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logsumexp

from caveat_worker.engine.base.arrays import Float64Array
from caveat_worker.engine.base.errors import InvalidInput


def target_value(
    logits: NDArray[Any], index: int | None = None, versus: int | None = None, scale: str = "logit"
) -> Float64Array:
    """The target's number h [n] from logits [n, classes], or [n] for a single output, on the scale asked for.

    Raises InvalidInput for a class that the output does not have.
    """
    logits = np.asarray(logits, dtype=float)
    if logits.ndim == 1 or logits.shape[1] == 1:
        single = logits.reshape(len(logits))
        if scale == "logit":
            return single
        return sigmoid(single) if scale == "probability" else -np.logaddexp(0.0, -single)
    wanted = [each for each in (index, versus) if each is not None]
    if not wanted or max(wanted) >= logits.shape[1]:
        raise InvalidInput(
            "unknown-class",
            f"The target names the class {max(wanted, default=None)}; the output has {logits.shape[1]}.",
            f"Give an 'index' from 0 to {logits.shape[1] - 1}.",
        )
    by_class = logits
    if scale != "logit":
        by_class = softmax(logits) if scale == "probability" else log_softmax(logits)
    value: Float64Array = by_class[:, wanted[0]]
    return value if versus is None else value - by_class[:, versus]


def sigmoid(logits: Float64Array) -> Float64Array:
    """1 / (1 + e^-x), elementwise."""
    return np.asarray(expit(logits), dtype=float)


def log_softmax(logits: Float64Array) -> Float64Array:
    """Logarithms of probabilities [n, classes]."""
    total: Float64Array = logsumexp(logits, axis=1, keepdims=True)
    return logits - total


def softmax(logits: Float64Array) -> Float64Array:
    """Probabilities [n, classes]."""
    share: Float64Array = np.exp(log_softmax(logits))
    return share
