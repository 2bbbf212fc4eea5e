"""Batches of examples: what one holds, and how many examples one may have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from caveat_worker.engine.activations.requirements import Plan, SetRequirements
from caveat_worker.engine.autodiff.backward import of_numbers, reached_from
from caveat_worker.engine.base.threads import split_threads
from caveat_worker.engine.onnx.session import Provider
from caveat_worker.engine.onnx.values import factors_of, shape_of_value

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
    """As many examples as keep a batch within bounds; one where the model's batch is fixed, or changes them.

    A forward pass holds a few tensors at a time, a backward pass those of the forward pass. Larger batches than these
    are no faster on a CPU: what they hold does not fit its caches. Where each batch reads large weights again, it has
    the memory of two, and what a backward pass holds is counted from the first layer on.
    """
    alone = not plan.model.symbolic_batch or plan.model.runs_alone
    if alone or (need.gradients and plan.external is not None and plan.external.batch == 1):
        return 1
    large = plan.model.weights_in_file
    tensors = {value: numbers_in(shape_of_value(value) or (), plan.lengths) for value in _computed(plan)}
    held = 4 * max(tensors.values(), default=0)
    if need.gradients and large:
        held += sum(tensors[value] for value in _behind_layers(plan) if value in tensors)
    elif need.gradients:
        held = sum(tensors.values())
    layers = sum(numbers_in(layer.shape, plan.lengths) for layer in plan.layers) * (1 + len(need.gradients))
    inputs = 3 * sum(numbers_in(tensor.shape, plan.lengths) for tensor in plan.inputs)
    room = 2 * BATCH_BYTES if large else BATCH_BYTES
    return int(np.clip(room // (4 * (held + layers + inputs)), 1, LARGEST_BATCH))


def _computed(plan: Plan) -> list[ir.Value]:
    return [value for node in plan.model.ir.graph for value in node.outputs]


def _behind_layers(plan: Plan) -> set[ir.Value]:
    """The tensors that depend on an audited layer."""
    layers = [value for layer in plan.layers if (value := plan.model.value(layer.tensor)) is not None]
    return reached_from(of_numbers(plan.model.ir.graph), layers)


def side_by_side(plan: Plan, threads: int, provider: Provider) -> tuple[int, int]:
    """How many batches run at a time, and the threads of each: one with all on a device, and where each reads weights.

    Two that run side by side would each widen and pack the same weights.
    """
    return split_threads(threads, one_at_a_time=provider != "cpu" or plan.model.weights_in_file)


def numbers_in(shape: Sequence[int | str | None], sizes: Mapping[Any, int] | None = None) -> int:
    """How many numbers one example of a tensor has, where some axes that the model leaves open have known sizes.

    Of a first axis of `4*batch`, an example has four rows.
    """
    known = sizes or {}
    rows = [factor for factor in factors_of(shape[0] if shape else None) if isinstance(factor, int)]
    others = [size if isinstance(size, int) else known.get(size, UNKNOWN_SIZE) for size in shape[1:]]
    return int(np.prod([*rows, *others]))
