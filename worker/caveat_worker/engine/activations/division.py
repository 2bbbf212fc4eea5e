"""How an audit is divided into shards: rows of example sets, in parts that take about as long as each other."""

from __future__ import annotations

from collections.abc import Mapping

from caveat_worker.engine.activations.array_keys import all_keys
from caveat_worker.engine.activations.batches import batch_size
from caveat_worker.engine.activations.collect import recalled
from caveat_worker.engine.activations.requirements import Plan, SetRequirements
from caveat_worker.engine.autodiff.layers import depths
from caveat_worker.engine.base.store import ArrayStore
from caveat_worker.engine.onnx.session import Provider

BACKWARD_WORK = 2
"""Forward passes that take as long as one backward pass over the same nodes."""


def divide(
    plan: Plan,
    counts: Mapping[str, int],
    store: ArrayStore,
    *,
    provider: Provider,
    versions: Mapping[str, str],
    batches: int,
    most: int,
) -> list[dict[str, range]]:
    """The rows that have to go through the model, in at most so many parts of about so many whole batches each.

    There are two, four, eight or so of them, which workers in the usual numbers share evenly; each takes about as long.
    """
    _, unseen = recalled(plan, all_keys(plan, provider, versions), counts, store)
    sizes = {name: batch_size(plan, plan.needs[name]) for name in unseen}
    depth = depths(plan.model)
    work = {name: _work(plan, plan.needs[name], depth) for name in unseen}  # of an example
    needed = _over(sum(_over(counts[name], size) for name, size in sizes.items()), batches)
    each = sum(counts[name] * work[name] for name in unseen) / min(1 << (max(needed, 1) - 1).bit_length(), most)
    parts: list[dict[str, range]] = [{}]
    done = 0.0
    for name, size in sizes.items():
        for start in range(0, counts[name], size):
            if done >= each * len(parts):
                parts.append({})
            stop = min(start + size, counts[name])
            parts[-1][name] = range(parts[-1].get(name, range(start, stop)).start, stop)
            done += (stop - start) * work[name]
    return parts


def _work(plan: Plan, need: SetRequirements, depth: Mapping[str, int]) -> float:
    """How many forward passes a pass takes as long as; back to the first layer it goes through what is behind that."""
    first = min((layer.depth for layer in plan.layers), default=0)
    ends = [depth[plan.resolved[target].tensor] for target in need.gradients]
    return 1 + BACKWARD_WORK * sum(max(end - first, 0) / end for end in ends)


def _over(count: int, size: int) -> int:
    """How many of a size it takes to hold a count."""
    return -(-count // size)
