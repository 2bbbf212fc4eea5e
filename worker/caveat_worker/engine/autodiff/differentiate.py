"""The differentiable export: one graph of standard ONNX operators with the outputs ∂h_k/∂a_l for chosen layers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from types import MappingProxyType

import onnx_ir as ir

from caveat_worker.engine.autodiff.backward import Blocked, Cotangent, backward
from caveat_worker.engine.autodiff.builder import GraphBuilder, Tensor, ref
from caveat_worker.engine.autodiff.by_example import group_by_example
from caveat_worker.engine.autodiff.chosen_scores import chosen_scores
from caveat_worker.engine.autodiff.model import USUAL, Model
from caveat_worker.engine.autodiff.reference import write_reference
from caveat_worker.engine.autodiff.rules import VJP, Table
from caveat_worker.engine.autodiff.shapes import ones_like
from caveat_worker.engine.autodiff.target import Resolved, Target, resolve_target, write_target
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.onnx.graph import Graph, prune


def expose(model: Model, tensors: Sequence[str]) -> Graph:
    """The forward graph with these tensors, batch first, as its outputs; raises `InvalidInput` for unknown names."""
    names = [find_layer(model, tensor) for tensor in tensors]
    forward = _by_example(model, names)
    return Graph(prune(forward.ir, [_value(forward, name) for name in dict.fromkeys(names)]))


def differentiate(
    model: Model,
    layers: Sequence[str],
    targets: Sequence[Target],
    *,
    also: Sequence[str] = (),
    rules: Table = VJP,
    against: Sequence[str] = (),
    alone: bool = False,
) -> Graph:
    """One graph with the outputs `value/<target>` [n] and `gradient/<target>/<layer>`, in the layer's shape [n, ...].

    Each example has its own gradient, because h_k is summed over a batch whose examples do not interact. `also` names
    tensors of the forward graph that become outputs too; `rules` is the table of backward rules. Rules that compare
    with a reference find it in a further input, `reference/<tensor>`, for each tensor of `against`, and the target's
    value there is a further output, `reference/<target>` [n]. `alone` computes
    the scores of the targets' classes and no others, whose last bits may differ. Raises `InvalidInput` for unknown
    layers and targets, and for layers that no gradient reaches.
    """
    chosen = dict.fromkeys(find_layer(model, layer) for layer in layers)
    resolved = [resolve_target(model, target) for target in targets]
    others = dict.fromkeys(find_layer(model, tensor) for tensor in also)
    copy = _by_example(model, [*chosen, *others])
    graph = copy.ir.graph
    nodes = list(graph)
    builder = GraphBuilder(graph)
    outputs = []
    references = _reference_inputs(copy, against)
    for one in resolved:
        value, cotangents = _backpropagate(builder, copy, nodes, one, list(chosen), rules, references, alone=alone)
        outputs.append(_output(builder, f"value/{one.target.name}", value, _batch_of(model)))
        if references:
            outputs.append(_output(builder, f"reference/{one.target.name}", ref(value), _batch_of(model)))
        for layer in chosen:
            cotangent = cotangents.get(layer)
            if not isinstance(cotangent, Tensor):
                raise _no_gradient(model, one.target, layer, cotangent)
            shape = _value(copy, layer).shape
            outputs.append(_output(builder, f"gradient/{one.target.name}/{layer}", cotangent, shape))
    outputs += [_value(copy, name) for name in others]
    graph.extend(builder.nodes)
    return Graph(prune(copy.ir, outputs))


def vjp(model: Model, upper: str, lowers: Sequence[str], *, rules: Table = VJP, also: Sequence[str] = ()) -> Graph:
    """One graph that pulls a seed back: a further input `seed/<upper>`, and the outputs `gradient/<lower>`.

    The tensors in `also` are outputs under their own names. Seeds and gradients have their tensors' shapes. Any row of
    a batch may have its own seed: a class, a position, a channel, a direction. Raises `InvalidInput` for unknown
    layers, and for layers that no gradient reaches.
    """
    chosen = list(dict.fromkeys(find_layer(model, lower) for lower in lowers))
    others = dict.fromkeys(find_layer(model, tensor) for tensor in also)
    copy = _by_example(model, [find_layer(model, upper), *chosen, *others])
    nodes, builder = list(copy.ir.graph), GraphBuilder(copy.ir.graph)
    top = _value(copy, find_layer(model, upper))
    seed = ir.Value(name=f"seed/{top.name}", shape=top.shape, type=top.type)
    copy.ir.graph.inputs.append(seed)
    sources = {name: _value(copy, name) for name in chosen}
    found = backward(builder, nodes, sources.values(), {top: Tensor(builder, seed)}, rules)
    outputs = []
    for name, source in sources.items():
        cotangent = found.get(source)
        if not isinstance(cotangent, Tensor):
            raise _no_path(upper, name, cotangent)
        outputs.append(_output(builder, f"gradient/{name}", cotangent, source.shape))
    outputs += [_value(copy, name) for name in others]
    copy.ir.graph.extend(builder.nodes)
    return Graph(prune(copy.ir, outputs))


def cut_at(model: Model, layer: str, targets: Sequence[Target], *, scores: bool = False, alone: bool = False) -> Graph:
    """The forward graph from a layer on: the layer's tensor is an input, and the outputs are `value/<target>` [n].

    With `scores` the tensors that the targets are read from are outputs too, as `scores/<target>`; `alone` is as in
    `differentiate`.
    """
    resolved = [resolve_target(model, target) for target in targets]
    copy = opened_at(model, layer)
    builder = GraphBuilder(copy.ir.graph)
    outputs = [
        _output(builder, f"value/{one.target.name}", write_value(builder, copy, one, alone=alone), _batch_of(model))
        for one in resolved
    ]
    for one in resolved if scores else ():
        read = builder.read(_value(copy, one.tensor))
        assert read is not None
        outputs.append(_output(builder, f"scores/{one.target.name}", read, _value(copy, one.tensor).shape))
    copy.ir.graph.extend(builder.nodes)
    return Graph(prune(copy.ir, outputs))


def opened_at(model: Model, layer: str) -> Model:
    """A copy of the model in which the layer's tensor is an input instead of a node's output."""
    name = find_layer(model, layer)
    copy = _by_example(model, [name])
    value = _value(copy, name)
    if not value.is_graph_input():
        entry = ir.Value(name=name, shape=value.shape, type=value.type)
        value.name = f"{name}/computed"
        value.replace_all_uses_with(entry, replace_graph_outputs=True)
        copy.ir.graph.inputs.append(entry)
    return replace(copy, rows=model.rows | {name: USUAL})


def gradient_state(model: Model, target: Target, tensors: Sequence[str]) -> dict[str, str | None]:
    """For each tensor on a differentiable path to the target: None, or the reason why it has no gradient."""
    resolved = resolve_target(model, target)
    copy = copy_of(model)
    builder = GraphBuilder(copy.ir.graph)
    _, cotangents = _backpropagate(builder, copy, list(copy.ir.graph), resolved, tensors, VJP)
    return {name: c.reason if isinstance(c, Blocked) else None for name, c in cotangents.items()}


def find_layer(model: Model, layer: str) -> str:
    """The name of a layer's tensor: `layer` itself, or the first output of the node of that name.

    Raises `InvalidInput` with the closest names if there is neither.
    """
    value = model.value(layer)
    if value is None or value.is_initializer():
        names = [o.name or "" for node in model.ir.graph for o in node.outputs]
        names += [node.name or "" for node in model.ir.graph]
        close = get_close_matches(layer, names, n=5, cutoff=0.3) or names[-5:]
        raise InvalidInput(
            "unknown-layer",
            f"The model has no layer '{layer}'.",
            f"Close to it are {', '.join(repr(name) for name in close)}; `caveat layers` lists all.",
            "layers",
        )
    return value.name or ""


def _reference_inputs(model: Model, against: Sequence[str]) -> dict[ir.Value, ir.Value]:
    """A further input for each tensor that has a reference."""
    found = {}
    for value in (_value(model, name) for name in against):
        found[value] = ir.Value(name=f"reference/{value.name}", shape=value.shape, type=value.type)
        model.ir.graph.inputs.append(found[value])
    return found


def _backpropagate(
    builder: GraphBuilder,
    model: Model,
    nodes: list[ir.Node],
    resolved: Resolved,
    layers: Sequence[str],
    rules: Table,
    references: Mapping[ir.Value, ir.Value] = MappingProxyType({}),
    *,
    alone: bool = False,
) -> tuple[Tensor, dict[str, Cotangent]]:
    """Writes the target's value [n] and the cotangents of the layers; returns both, the cotangents by layer."""
    named = {v.name: v for v in model.ir.graph.inputs} | {v.name: v for n in nodes for v in n.outputs}
    sources = {layer: named[layer] for layer in layers}
    value = write_value(builder, model, resolved, alone=alone, keep=set(sources.values()))
    if references:
        builder.references = write_reference(builder, [*nodes, *builder.nodes], references)
    cotangents = backward(builder, [*nodes, *builder.nodes], sources.values(), {value.value: ones_like(value)}, rules)
    return value, {layer: cotangents[source] for layer, source in sources.items() if source in cotangents}


def write_value(
    builder: GraphBuilder, model: Model, resolved: Resolved, *, alone: bool = False, keep: Collection[ir.Value] = ()
) -> Tensor:
    """Writes the target's value [n] of a model's own graph; `alone` without other classes, but never past `keep`."""
    found = _value(model, resolved.tensor)
    mask = builder.read(_value(model, resolved.mask)) if resolved.mask is not None else None
    chosen = chosen_scores(builder, resolved, found, keep) if alone else None
    if chosen is not None:
        return write_target(*chosen, mask)
    scores = builder.read(found)
    assert scores is not None
    return write_target(resolved, scores, mask)


def copy_of(model: Model) -> Model:
    """A copy of the model that has its own nodes and shares the weights."""
    return replace(model, ir=model.ir.clone())


def _by_example(model: Model, tensors: Sequence[str]) -> Model:
    """A copy of the model in which the tensors have the shapes that they have as layers."""
    copy = copy_of(model)
    group_by_example(copy, tensors)
    return copy


def _value(model: Model, name: str) -> ir.Value:
    value = model.value(name)
    assert value is not None, name
    return value


def _output(builder: GraphBuilder, name: str, tensor: Tensor, shape: ir.Shape | None) -> ir.Value:
    """The tensor as a graph output of that name and shape."""
    output = builder.named(tensor, name)
    output.shape = shape
    return output


def _batch_of(model: Model) -> ir.Shape:
    shape = model.inputs[0].shape if model.inputs else ()
    return ir.Shape([shape[0] if shape else None])


def _no_path(upper: str, lower: str, cotangent: Cotangent | None) -> InvalidInput:
    blocked = isinstance(cotangent, Blocked)
    return InvalidInput(
        "no-gradient-rule" if blocked else "no-gradient",
        f"Layer '{lower}' has no gradient of layer '{upper}'. "
        + (cotangent.reason if isinstance(cotangent, Blocked) else "No path of numbers leads from one to the other."),
        "Name a layer that comes before it; `caveat layers` lists them in order.",
        "layer",
    )


def _no_gradient(model: Model, target: Target, layer: str, cotangent: Cotangent | None) -> InvalidInput:
    why = f"No gradient reaches it: paths to the target '{target.name}' pass through integers, or there is none."
    if isinstance(cotangent, Blocked):
        why = cotangent.reason
    names = [o.name or "" for node in model.ir.graph for o in node.outputs]
    state = gradient_state(model, target, names)
    open_layers = [name for name in names if name in state and state[name] is None]
    return InvalidInput(
        "no-gradient-rule" if isinstance(cotangent, Blocked) else "no-gradient",
        f"Layer '{layer}' cannot be audited. {why}",
        f"Layers that can be: {', '.join(repr(n) for n in open_layers[-8:]) or 'none'}.",
        "layers",
    )
