"""The inner products of one layer: all activations with each other, and each target's gradients with all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from caveat_worker.engine.activations.array_keys import Array, inner_key, inner_pairs, works_on_features
from caveat_worker.engine.activations.collected import Collected, Runtime
from caveat_worker.engine.activations.feature_space import AnyProducts, FactoredProducts
from caveat_worker.engine.activations.gram import Product, finite
from caveat_worker.engine.activations.requirements import Layer, Plan
from caveat_worker.engine.base.arrays import Float64Array
from caveat_worker.engine.base.store import ArrayStore


def gram_room(plan: Plan, store: ArrayStore) -> Float64Array | None:
    """Room for the Gram matrix [N, N] of one layer after the other; None where every layer has few features."""
    if all(works_on_features(plan, layer) for layer in plan.layers):
        return None
    return store.scratch((plan.examples, plan.examples), np.float64)


def layer_products(
    collected: Collected, runtime: Runtime, layer: Layer, room: Float64Array | None
) -> tuple[AnyProducts, dict[str, AnyProducts]]:
    """The Gram matrix [N, N] of all examples that have a row, in `room`, and `G Xᵀ` [m, N] for each target.

    Where the layer has few features, neither is multiplied out.
    """
    plan = collected.plan
    if room is None or works_on_features(plan, layer):
        k = _features(collected, runtime, layer)
        return k, {name: _gradients(collected, runtime, layer, name, k) for name in plan.targets}
    return room, _multiplied_out(collected, runtime, layer, room)


def _features(collected: Collected, runtime: Runtime, layer: Layer) -> FactoredProducts:
    """A layer's features [N, d] at all examples that have a row, as a Gram matrix."""
    plan = collected.plan
    x = np.empty((plan.examples, collected.features[layer.name]))
    for name, rows in plan.row_ranges.items():
        x[rows] = collected.array(("activations", name, layer.name), runtime.store)
    return FactoredProducts(finite(x), x)


def _gradients(
    collected: Collected, runtime: Runtime, layer: Layer, target: str, k: FactoredProducts
) -> FactoredProducts:
    """A target's gradients [m, d] beside the layer's features."""
    examples = collected.plan.audit.targets[target].examples
    gradients = collected.array(("gradients", examples, target, layer.name), runtime.store)
    return FactoredProducts(finite(gradients.astype(np.float64)), k.right)


def _multiplied_out(collected: Collected, runtime: Runtime, layer: Layer, k: Float64Array) -> dict[str, AnyProducts]:
    plan = collected.plan
    gx = {name: np.empty((len(collected.values(name)), plan.examples)) for name in plan.targets}
    _fill(collected, runtime, [pair for pair in inner_pairs(plan) if pair[0][-1] == layer.name], k, gx)
    return dict(gx)


def gram_of(collected: Collected, runtime: Runtime, layer: Layer) -> AnyProducts:
    """The Gram matrix [N, N] of all examples that have a row, without any target's gradients."""
    if works_on_features(collected.plan, layer):
        return _features(collected, runtime, layer)
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
