"""The names and cache keys of the arrays that a plan collects.

A key says everything that an array's numbers depend on, by names that do not depend on one audit's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations_with_replacement
from typing import Any

from caveat_spec.audit import Examples
from caveat_worker.engine.activations.batches import batch_size, numbers_in
from caveat_worker.engine.activations.feature_space import in_feature_space
from caveat_worker.engine.activations.pooling import features
from caveat_worker.engine.activations.requirements import Layer, Plan, SetRequirements
from caveat_worker.engine.autodiff.channels import usual_axis
from caveat_worker.engine.base.store import key_of
from caveat_worker.engine.onnx.session import Provider

Array = tuple[str, ...]
"""What an array is, in the audit's names: ("activations", set, layer) [n, d], ("gradients", set, target, layer) [m, d],
("tensors", set, tensor) [m, ...], ("values", set, target) [m], ("outputs", set, target) [n, classes],
("features", set) [layers], ("checks", set)."""

MOST_KEPT = 1 << 27
"""Bytes of a tensor that is kept for finite steps; to compute more of it again takes less room."""
CHECK_FIGURES = ("cosine", "residual", "step", "drift", "ok")
"""What is kept of a gradient check, in the columns of ("checks", set) [layers * targets, figures]."""


def all_keys(plan: Plan, provider: Provider, versions: Mapping[str, str]) -> dict[Array, str]:
    """The key of every array that the audit needs of its example sets."""
    by = {"provider": provider, **versions}
    return {array: key for name in plan.needs for array, key in _keys(plan, name, by).items()}


def _keys(plan: Plan, name: str, by: Mapping[str, str]) -> dict[Array, str]:
    """The key of every array that a run over one example set yields, by names that do not depend on this audit's.

    The graph as a whole and the batch's size are part of a key, because what else a graph yields may decide how ONNX
    Runtime fuses its nodes, and so the last bit of what it yields.
    """
    need, method = plan.needs[name], plan.audit.method
    examples, base = plan.audit.examples[name], plan.audit.drawn_like(name)
    targets = {target: target_content(plan, target) for target in {*need.gradients, *need.outputs}}
    run = key_of(
        model=[plan.audit.model, plan.audit.gradient, plan.audit.constants],
        examples=_content(examples),
        seed=None if examples.limit is None and examples.half is None else method.seed,
        gradients=[sorted(targets[target] for target in need.gradients), sorted(layer_tensors(plan.layers))],
        also=other_tensors(plan, need),
        batch=batch_size(plan, need),
        rules=need.rules,
        by=dict(by),
        **({} if base is None else {"drawn_like": _content(plan.audit.examples[base])}),
        **({} if plan.look is None else {"look": [method.seed, *plan.look.counts[name]]}),
    )
    shapes = key_of(run=run, features=[_read(layer) for layer in plan.layers])
    keys: dict[Array, str] = {("features", name): shapes}
    for layer in plan.layers:
        where = _read(layer)
        if need.activations:
            keys["activations", name, layer.name] = key_of(run=run, activations=where)
        for target in need.gradients:
            keys["gradients", name, target, layer.name] = key_of(run=run, gradient=[targets[target], where])
    for tensor in kept_tensors(plan, name):
        keys["tensors", name, tensor] = key_of(run=run, tensor=tensor)
    for target in (*need.gradients, *plan.reduced_at(need)):
        keys["values", name, target] = key_of(run=run, value=targets[target])
    for target in need.outputs:
        keys["outputs", name, target] = key_of(run=run, output=targets[target])
    if need.gradients:
        order = [targets[target] for target in need.gradients], layer_tensors(plan.layers)
        settings = method.seed, method.gradient_tolerance
        keys["checks", name] = key_of(run=run, checks=order, settings=settings, figures=CHECK_FIGURES)
    return keys


def _content(examples: Examples) -> dict[str, Any]:
    """What a set's declaration says about its examples."""
    return examples.model_dump(mode="json", exclude={"pairs_with"})


def _read(layer: Layer) -> list[str]:
    """What is read of a layer, whatever it is called."""
    usual = layer.reduce == "flatten" or layer.channels == usual_axis(len(layer.shape))
    of_tokens = [] if layer.mask is None else [f"tokens:{layer.mask}"]
    return [layer.tensor, layer.reduce, *([] if usual else [f"channels:{layer.channels}"]), *of_tokens]


def target_content(plan: Plan, target: str) -> list[str]:
    """What a target is, whatever it is called."""
    asked, mask = plan.targets[target], plan.resolved[target].mask
    parts = asked.output, asked.index, asked.versus, asked.scale, asked.reduce, asked.class_axis
    return [*map(str, parts), *([] if mask is None else [f"tokens:{mask}"])]


def other_tensors(plan: Plan, need: SetRequirements) -> list[str]:
    """The tensors that are read beside gradients: layers, and the targets' whole outputs."""
    layers = layer_tensors(plan.layers) if need.activations or need.gradients else []
    return sorted({*layers, *(plan.resolved[target].tensor for target in need.outputs)})


def kept_tensors(plan: Plan, name: str) -> list[str]:
    """The tensors of reduced layers that a set with gradients keeps whole, for the finite steps that begin there.

    Their axes have to be known, since batches are put into one array, and all examples may not take too many bytes.
    """
    if not (plan.requires.finite_steps and plan.needs[name].gradients and name in plan.row_ranges):
        return []
    examples = len(plan.rows(name))
    reduced = {layer.tensor: layer.shape for layer in plan.layers if layer.reduce != "flatten"}
    return [
        tensor
        for tensor, shape in reduced.items()
        if all(isinstance(size, int) or size in plan.lengths for size in shape[1:])
        and 4 * examples * numbers_in(shape, plan.lengths) <= MOST_KEPT
    ]


def layer_tensors(layers: Sequence[Layer]) -> list[str]:
    """The tensors of layers, each once."""
    return list(dict.fromkeys(layer.tensor for layer in layers))


def inner_key(left: str, right: str) -> str:
    """The key of the inner products of two arrays, by theirs."""
    return key_of(inner_products=[left, right])


def works_on_features(plan: Plan, layer: Layer) -> bool:
    """Whether statistics of a layer read its activations and gradients themselves, because it has few features."""
    width = features(layer.shape, layer.reduce, layer.channels)
    return width is not None and in_feature_space(width, plan.examples)


def arrays_read(plan: Plan) -> Iterator[Array]:
    """Every array that the statistics read itself, in place of inner products."""
    for layer in plan.layers if plan.requires.products else ():
        if works_on_features(plan, layer):
            yield from (("activations", name, layer.name) for name in plan.row_ranges)
            yield from _gradients_at(plan, layer)


def inner_pairs(plan: Plan) -> Iterator[tuple[Array, Array]]:
    """Every two arrays whose inner products the statistics read."""
    for layer in plan.layers:
        if works_on_features(plan, layer):
            continue
        placed = [("activations", name, layer.name) for name in plan.row_ranges]
        yield from combinations_with_replacement(placed, 2)
        yield from ((gradients, array) for gradients in _gradients_at(plan, layer) for array in placed)


def _gradients_at(plan: Plan, layer: Layer) -> Iterator[Array]:
    """The gradients of each target that are taken at a layer."""
    for target, asked in plan.audit.targets.items():
        if asked.examples in plan.needs and target in plan.needs[asked.examples].gradients:
            yield ("gradients", asked.examples, target, layer.name)


def piece_key(key: str, start: int) -> str:
    """The key of the piece of an array that begins with an example."""
    return f"{key}.{start}"
