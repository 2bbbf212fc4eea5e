"""The inner products of one layer: all activations with each other, and each target's gradients with all of them."""

from __future__ import annotations

import numpy as np

from caveat_worker.engine.activations.array_keys import inner_key, inner_pairs
from caveat_worker.engine.activations.collected import Collected, Runtime
from caveat_worker.engine.activations.gram import Product
from caveat_worker.engine.activations.requirements import Layer
from caveat_worker.engine.base.arrays import Float64Array


def layer_products(collected: Collected, runtime: Runtime, layer: Layer, k: Float64Array) -> dict[str, Float64Array]:
    """Fills the Gram matrix `k` [N, N] of all examples that have a row; returns `G Xᵀ` [m, N] for each target.

    They are put together from blocks, one for each two arrays, so that a block does not depend on what else is asked;
    blocks that the store does not have are computed together, and kept there.
    """
    plan = collected.plan
    gx = {name: np.empty((len(collected.values(name)), plan.examples)) for name in plan.targets}
    pairs = [pair for pair in inner_pairs(plan) if pair[0][-1] == layer.name]
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
    return gx
