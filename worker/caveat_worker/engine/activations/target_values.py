"""A target's number from the scores of a model, on the scale that the audit asks for."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logsumexp

from caveat_worker.engine.activations.pooling import Mask, over_positions, scores
from caveat_worker.engine.autodiff.target import Link as GraphLink
from caveat_worker.engine.autodiff.target import Target
from caveat_worker.engine.autodiff.tokens import LAST
from caveat_worker.engine.base.arrays import Float64Array
from caveat_worker.engine.base.errors import InvalidInput

Link = Literal["softmax", "sigmoid", "shares_of_sigmoids", "probabilities"]
"""How scores become probabilities; `probabilities` are that already."""
_LINKS: dict[GraphLink, Link] = {
    "softmax": "softmax",
    "sigmoid": "sigmoid",
    "shares_of_sigmoids": "shares_of_sigmoids",
    "probabilities": "probabilities",
    "values": "probabilities",
}
"""A graph's link → how its scores become probabilities, as far as the graph says."""
ROUNDING = 1e-3
"""How far probabilities of float32, or of half precision, may be from adding up to 1."""


def target_value(
    logits: NDArray[Any],
    index: int | None = None,
    versus: int | None = None,
    scale: str = "logit",
    link: Link | None = None,
) -> Float64Array:
    """The target's number h [n] from scores [n, classes], or [n] for a single output, on the scale asked for.

    Without a `link` a single score is squashed by a sigmoid, and several by a softmax. Raises InvalidInput for a class
    that the output does not have, and for the logarithm of a probability of 0.
    """
    logits = np.asarray(logits, dtype=float)
    if logits.ndim == 1 or logits.shape[1] == 1:
        single = logits.reshape(len(logits))
        return single if scale == "logit" else _on_scale(single, scale, link or "sigmoid")
    wanted = [each for each in (index, versus) if each is not None]
    if not wanted or max(wanted) >= logits.shape[1]:
        raise InvalidInput(
            "unknown-class",
            f"The target names the class {max(wanted, default=None)}; the output has {logits.shape[1]}.",
            f"Give an 'index' from 0 to {logits.shape[1] - 1}.",
        )
    by_class = logits if scale == "logit" else _on_scale(logits, scale, link or "softmax")
    value: Float64Array = by_class[:, wanted[0]]
    return value if versus is None else np.asarray(value - by_class[:, versus], dtype=float)


def reduced_value(
    output: NDArray[Any], asked: Target, axis: int, link: GraphLink, mask: Mask | None = None
) -> Float64Array:
    """The target's number [n] at each position of an output [n, …], reduced over the positions as the audit asks.

    The order matters: the mean of probabilities is not the probability of mean logits. The mask tells tokens from
    padding.
    """
    if asked.reduce == LAST:
        at_last = scores(output, LAST, axis, mask)
        return target_value(at_last, asked.index, asked.versus, asked.scale, _LINKS.get(link))
    whole = output[:, None] if output.ndim == 1 else output
    positions = np.moveaxis(whole, axis if output.ndim > 1 else 1, -1).reshape(-1, whole.shape[axis or 1])
    values = target_value(positions, asked.index, asked.versus, asked.scale, _LINKS.get(link))
    by_position = values.reshape(len(output), -1, 1)
    return np.asarray(over_positions(by_position, asked.reduce or "mean", mask)[:, 0], dtype=float)


def probabilities(scores: Float64Array, link: Link) -> Float64Array:
    """Probabilities of the shape of the scores: [n, classes], or [n] where each score has its own."""
    match link:
        case "probabilities":
            return scores
        case "sigmoid":
            return sigmoid(scores)
        case "shares_of_sigmoids":
            return np.asarray(sigmoid(scores) / sigmoid(scores).sum(1, keepdims=True), dtype=float)
        case "softmax":
            return softmax(scores)


def are_probabilities(scores: Float64Array) -> bool:
    """Whether all scores [n, classes] lie between 0 and 1 and those of each example add up to 1."""
    inside = scores.min(initial=0.0) >= -ROUNDING and scores.max(initial=1.0) <= 1 + ROUNDING
    return bool(inside and (np.abs(scores.sum(1) - 1) <= ROUNDING).all())


def _on_scale(scores: Float64Array, scale: str, link: Link) -> Float64Array:
    if scale == "probability":
        return probabilities(scores, link)
    if link == "softmax":
        return log_softmax(scores)
    if link == "sigmoid":
        return np.asarray(-np.logaddexp(0.0, -scores), dtype=float)
    shares = probabilities(scores, link)
    if shares.min(initial=1.0) <= 0:
        raise InvalidInput(
            "no-logarithm",
            "The model gives a class the probability 0, which has no logarithm.",
            "Use the scale 'probability'.",
        )
    return np.asarray(np.log(shares), dtype=float)


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
