"""The inner products of one layer: all activations with each other, and each target's gradients with all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from caveat_worker.engine.activations.array_keys import Array, inner_key, inner_pairs
from caveat_worker.engine.activations.collected import Collected, Runtime
from caveat_worker.engine.activations.gram import Product
from caveat_worker.engine.activations.requirements import Layer
from caveat_worker.engine.base.arrays import Float64Array


def layer_products(collected: Collected, runtime: Runtime, layer: Layer, k: Float64Array) -> dict[str, Float64Array]:
    """Fills the Gram matrix `k` [N, N] of all examples that have a row; returns `G Xᵀ` [m, N] for each target."""
    plan = collected.plan
    gx = {name: np.empty((len(collected.values(name)), plan.examples)) for name in plan.targets}
    _fill(collected, runtime, [pair for pair in inner_pairs(plan) if pair[0][-1] == layer.name], k, gx)
    return gx


def gram_of(collected: Collected, runtime: Runtime, layer: Layer) -> Float64Array:
    """The Gram matrix [N, N] of all examples that have a row, without any target's gradients."""
    k = np.empty((collected.plan.examples,) * 2)
    pairs = [pair for pair in inner_pairs(collected.plan) if pair[0][-1] == layer.name and pair[0][0] == "activations"]
    _fill(collected, runtime, pairs, k, {})
    return k


def _fill(
    collected: Collected,
    runtime: Runtime,
    pairs: Sequence[tuple[Array, Array]],
    k: Float64Array,
    gx: Mapping[str, Float64Array],
) -> None:
    """Fills the matrices with the inner products of some arrays.

    They are put together from blocks, one for each two arrays, so that a block does not depend on what else is asked;
    blocks that the store does not have are computed together, and kept there.
    """
    plan = collected.plan
    missing: list[tuple[str, Product]] = []
    for left, right in pairs:
        columns = plan.row_ranges[right[1]]
        block = gx[left[2]][:, columns] if left[0] == "gradients" else k[plan.row_ranges[left[1]], columns]
        key = inner_key(collected.keys[left], collected.keys[right])
        found = runtime.store.get(key)
        if found is None:
            missing.append((key, Product(collected.arrays[left], collected.arrays[right], block)))
        else:
            block[...] = found
    runtime.multiply([product for _, product in missing], runtime.cores)
    for key, product in missing:
        runtime.store.put(key, product.out)
    for left, right in pairs:
        if left[0] != "gradients" and left != right:
            above, beside = plan.row_ranges[left[1]], plan.row_ranges[right[1]]
            k[beside, above] = k[above, beside].T
