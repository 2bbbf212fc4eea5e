"""Batches of examples: what one holds, and how many examples one may have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from caveat_worker.engine.activations.requirements import Plan, SetRequirements
from caveat_worker.engine.onnx.values import shape_of_value

BATCH_BYTES = 128 * 2**20
"""Memory that the tensors of one batch may take while the model runs."""
LARGEST_BATCH = 1024
UNKNOWN_SIZE = 64
"""The size that is assumed for a dimension which the model leaves open."""


@dataclass(frozen=True)
class Batch:
    """Consecutive examples of one set: the model's inputs [n, …] by name, and the examples' names."""

    start: int
    names: tuple[str, ...]
    values: Mapping[str, NDArray[Any]]


class Read(Protocol):
    """Example sets and their batch sizes → their batches with the set's name, in that order."""

    def __call__(
        self, sizes: Mapping[str, int], rows: Mapping[str, range] | None = None
    ) -> Iterable[tuple[str, Batch]]:
        """The batches of all examples, or of some rows."""
        ...


def batch_size(plan: Plan, need: SetRequirements) -> int:
    """As many examples as keep a batch within bounds; one where the model's batch is fixed.

    A forward pass holds a few tensors at a time, a backward pass those of the forward pass. Larger batches than these
    are no faster on a CPU: what they hold does not fit its caches.
    """
    if not plan.model.symbolic_batch or (need.gradients and plan.external is not None and plan.external.batch == 1):
        return 1
    tensors = [numbers_in(shape_of_value(value) or ()) for node in plan.model.ir.graph for value in node.outputs]
    held = sum(tensors) if need.gradients else 4 * max(tensors, default=0)
    layers = sum(numbers_in(layer.shape) for layer in plan.layers) * (1 + len(need.gradients))
    inputs = 3 * sum(numbers_in(tensor.shape) for tensor in plan.inputs)
    return int(np.clip(BATCH_BYTES // (4 * (held + layers + inputs)), 1, LARGEST_BATCH))


def numbers_in(shape: Sequence[int | str | None], sizes: Mapping[str | None, int] | None = None) -> int:
    """How many numbers one example of a tensor has, where some axes that the model leaves open have known sizes."""
    known = sizes or {}
    return int(np.prod([size if isinstance(size, int) else known.get(size, UNKNOWN_SIZE) for size in shape[1:]]))
