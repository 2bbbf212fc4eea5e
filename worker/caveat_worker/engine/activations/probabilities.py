"""Finds targets whose scores are probabilities although no softmax was recognised before them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caveat_worker.engine.activations.collected import Collected
from caveat_worker.engine.activations.pooling import scores
from caveat_worker.engine.autodiff.differentiate import expose
from caveat_worker.engine.autodiff.tokens import LAST
from caveat_worker.engine.onnx.session import open_session

EXAMPLES = 8
"""Examples of a target that are looked at."""
_ROUNDING = 1e-3  # how far a sum of float16 probabilities may be from 1

ReadFirst = Callable[[str, int], Mapping[str, NDArray[Any]]]
"""Example set and a number of examples → the model's inputs for its first examples, by name."""


def probability_cautions(collected: Collected, read_first: ReadFirst) -> Iterator[str]:
    """Yields a sentence for each target without a link function whose scores sum to 1 over the classes."""
    plan = collected.plan
    for name, resolved in plan.resolved.items():
        if resolved.link != "none" or resolved.classes == 1:
            continue
        found = _known(collected, name)
        if found is None:
            values = read_first(plan.audit.targets[name].examples, EXAMPLES if plan.model.symbolic_batch else 1)
            session = open_session(expose(plan.model, [resolved.tensor]), threads=1, optimise=False)
            raw = session.run(plan.feeds(values))[resolved.tensor]
            found = np.asarray(scores(raw, None, plan.targets[name].axis(raw.ndim)), np.float64)
        kind = _kind_of(found)
        if kind is not None:
            yield (
                f"The scores of target '{name}', tensor '{resolved.tensor}', look like {kind} although no softmax was "
                f"recognised before them, so its effects are in {kind} and not in logits. If a tensor of logits comes "
                f"before it, name that as the target's output."
            )


def _known(collected: Collected, target: str) -> NDArray[np.float64] | None:
    """The scores [n, classes] of a few examples that went through the model, of any set; None if none were kept."""
    if collected.plan.targets[target].reduce not in (None, "mean", LAST):  # a mean over positions has the sum of each
        return None
    kept = (array for (kind, *of), array in collected.arrays.items() if (kind, of[-1]) == ("outputs", target))
    return next((array[:EXAMPLES] for array in kept), None)


def _kind_of(found: NDArray[np.float64]) -> str | None:
    """What scores [n, classes] are by their sums, if they are the result of a softmax."""
    if found.ndim != 2 or found.shape[1] < 2 or not np.isfinite(found).all():
        return None
    if found.min() >= 0 and np.abs(found.sum(axis=1) - 1).max() <= _ROUNDING:
        return "probabilities"
    if found.max() <= 0 and np.abs(np.exp(found).sum(axis=1) - 1).max() <= _ROUNDING:
        return "log-probabilities"
    return None
