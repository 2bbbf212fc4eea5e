"""The differentiable export: one graph of plain ONNX operators that yields ∂h_k/∂a_l for every layer asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches

import onnx_ir as ir

from .backward import Blocked, Cotangent, Table, backward
from .errors import Refused
from .graph import Graph, prune
from .model import Model
from .rules import VJP
from .shapes import ones_like
from .tape import Tape, Tensor
from .target import Resolved, Target, resolve_target, write_target

__all__ = ["Resolved", "Target", "cut_at", "differentiate", "expose", "resolve_target"]


def expose(model: Model, tensors: Sequence[str]) -> Graph:
    """The forward graph, cut down to these tensors as its outputs."""
    names = [find_layer(model, tensor) for tensor in tensors]
    forward = _copy(model)
    return Graph(prune(forward.ir, [_value(forward, name) for name in dict.fromkeys(names)]))


def differentiate(
    model: Model,
    layers: Sequence[str],
    targets: Sequence[Target],
    *,
    also: Sequence[str] = (),
    rules: Table = VJP,
) -> Graph:
    """One graph with outputs `value/<target>` [n] and `gradient/<target>/<layer>`, shaped as the layer.

    `also` names tensors of the forward graph that become outputs beside them.

    The gradients are per example, because h_k is summed over a batch whose examples do not interact.
    `rules` may be a table with alternative backward rules (see `rules.rescale`).
    """
    chosen = dict.fromkeys(find_layer(model, layer) for layer in layers)
    resolved = [resolve_target(model, target) for target in targets]
    copy = _copy(model)
    graph = copy.ir.graph
    nodes = list(graph)
    tape = Tape(graph)
    outputs = []
    for one in resolved:
        value, cotangents = _walk(tape, copy, nodes, one, list(chosen), rules)
        outputs.append(_output(tape, f"value/{one.target.name}", value, _batch_of(model)))
        for layer in chosen:
            cotangent = cotangents.get(layer)
            if not isinstance(cotangent, Tensor):
                raise _no_gradient(model, one.target, layer, cotangent)
            shape = _value(copy, layer).shape
            outputs.append(_output(tape, f"gradient/{one.target.name}/{layer}", cotangent, shape))
    outputs += [_value(copy, name) for name in dict.fromkeys(find_layer(model, tensor) for tensor in also)]
    graph.extend(tape.nodes)
    return Graph(prune(copy.ir, outputs))


def cut_at(model: Model, layer: str, targets: Sequence[Target]) -> Graph:
    """The forward graph with the layer's tensor as an input, and `value/<target>` as outputs."""
    resolved = [resolve_target(model, target) for target in targets]
    copy = opened_at(model, layer)
    tape = Tape(copy.ir.graph)
    outputs = [
        _output(tape, f"value/{one.target.name}", _target_value(tape, copy, one), _batch_of(model)) for one in resolved
    ]
    copy.ir.graph.extend(tape.nodes)
    return Graph(prune(copy.ir, outputs))


def opened_at(model: Model, layer: str) -> Model:
    """The model with one more input: the layer's tensor, which nothing computes any more."""
    name = find_layer(model, layer)
    copy = _copy(model)
    value = _value(copy, name)
    if not value.is_graph_input():
        entry = ir.Value(name=name, shape=value.shape, type=value.type)
        value.name = f"{name}/computed"
        value.replace_all_uses_with(entry, replace_graph_outputs=True)
        copy.ir.graph.inputs.append(entry)
    return copy


def gradient_state(model: Model, target: Target, tensors: Sequence[str]) -> dict[str, str | None]:
    """For each tensor that a gradient reaches: None, or the sentence that says what stands in its way."""
    resolved = resolve_target(model, target)
    copy = _copy(model)
    tape = Tape(copy.ir.graph)
    _, cotangents = _walk(tape, copy, list(copy.ir.graph), resolved, tensors, VJP)
    return {name: c.reason if isinstance(c, Blocked) else None for name, c in cotangents.items()}


def find_layer(model: Model, layer: str) -> str:
    """The tensor that a layer's name means: a tensor's own name, or a node's for its first output."""
    value = model.value(layer)
    if value is None or value.is_initializer():
        names = [o.name or "" for node in model.ir.graph for o in node.outputs]
        names += [node.name or "" for node in model.ir.graph]
        close = get_close_matches(layer, names, n=5, cutoff=0.3) or names[-5:]
        raise Refused(
            "unknown-layer",
            f"The model has no layer '{layer}'.",
            f"Close to it are {', '.join(repr(name) for name in close)}; `caveat layers` lists all.",
            "layers",
        )
    return value.name or ""


def _walk(
    tape: Tape, model: Model, nodes: list[ir.Node], resolved: Resolved, layers: Sequence[str], rules: Table
) -> tuple[Tensor, dict[str, Cotangent]]:
    """The target's value, and the layers' cotangents by name."""
    value = _target_value(tape, model, resolved)
    named = {v.name: v for v in model.ir.graph.inputs} | {v.name: v for n in nodes for v in n.outputs}
    sources = {layer: named[layer] for layer in layers}
    cotangents = backward(tape, [*nodes, *tape.nodes], sources.values(), {value.value: ones_like(value)}, rules)
    return value, {layer: cotangents[source] for layer, source in sources.items() if source in cotangents}


def _target_value(tape: Tape, model: Model, resolved: Resolved) -> Tensor:
    scores = tape.read(_value(model, resolved.tensor))
    assert scores is not None
    return write_target(tape, resolved, scores)


def _copy(model: Model) -> Model:
    """The model with nodes of its own and the same weights."""
    return replace(model, ir=model.ir.clone())


def _value(model: Model, name: str) -> ir.Value:
    value = model.value(name)
    assert value is not None, name
    return value


def _output(tape: Tape, name: str, tensor: Tensor, shape: ir.Shape | None) -> ir.Value:
    """The tensor as a graph output of that name and shape."""
    output = tape.named(tensor, name)
    output.shape = shape
    return output


def _batch_of(model: Model) -> ir.Shape:
    shape = model.inputs[0].shape if model.inputs else ()
    return ir.Shape([shape[0] if shape else None])


def _no_gradient(model: Model, target: Target, layer: str, cotangent: Cotangent | None) -> Refused:
    why = f"No gradient reaches it: paths to the target '{target.name}' pass through integers, or there is none."
    if isinstance(cotangent, Blocked):
        why = cotangent.reason
    names = [o.name or "" for node in model.ir.graph for o in node.outputs]
    state = gradient_state(model, target, names)
    open_layers = [name for name in names if name in state and state[name] is None]
    return Refused(
        "no-gradient-rule" if isinstance(cotangent, Blocked) else "no-gradient",
        f"Layer '{layer}' cannot be audited. {why}",
        f"Layers that can be: {', '.join(repr(n) for n in open_layers[-8:]) or 'none'}.",
        "layers",
    )
