"""The model with each example's concept scores and sensitivities as further outputs: one standard graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from caveat_worker.engine.acting.directions import Direction
from caveat_worker.engine.autodiff.builder import GraphBuilder, Tensor, op
from caveat_worker.engine.autodiff.channels import channels_of
from caveat_worker.engine.autodiff.differentiate import differentiate
from caveat_worker.engine.autodiff.model import Model
from caveat_worker.engine.autodiff.target import Target
from caveat_worker.engine.autodiff.tokens import mask_of_layer, write_reduced
from caveat_worker.engine.base.arrays import Float64Array
from caveat_worker.engine.onnx.graph import Graph, prune


@dataclass(frozen=True)
class Watched:
    """A direction as a monitoring model computes along it."""

    concept: str
    layer: str
    """As results name it."""
    tensor: str
    reduce: str
    vector: Float64Array
    step: float
    mean: float
    sd: float

    @classmethod
    def of(cls, found: Direction) -> Watched:
        """What is watched along a direction that was found."""
        mean, sd = found.centre
        layer = found.layer
        return cls(found.concept, layer.name, layer.tensor, layer.reduce, found.vector, found.step, mean, sd)


WATCHED = ("concept/", "sensitivity/")
"""What the names of the outputs begin with that a monitoring model has beside its own."""


def score_name(concept: str, layer: str) -> str:
    """The output with a concept's scores [n], in standard deviations of the audit's target examples."""
    return f"concept/{concept}/{layer}"


def sensitivity_name(concept: str, target: str, layer: str) -> str:
    """The output with what the concept's whole step would change of a target [n], by the slope at the example."""
    return f"sensitivity/{concept}/{target}/{layer}"


def monitoring_graph(model: Model, watched: Sequence[Watched], targets: Sequence[Target]) -> Graph:
    """A graph with the model's inputs, its own outputs, and for each example scores and sensitivities [n].

    A score is `((a·v) − mean) / sd`, averaged over positions where the layer is reduced; a sensitivity is `∂h/∂a·v`
    times the step, summed over positions. Raises InvalidInput for layers that no gradient reaches.
    """
    tensors = list(dict.fromkeys(one.tensor for one in watched))
    own = [one.name for one in model.outputs]
    graph = differentiate(model, tensors, targets, also=[*own, *tensors], alone=True).ir
    values = {value.name: value for value in graph.graph.outputs}
    builder = GraphBuilder(graph.graph, prefix="monitor")
    outputs = [values[name] for name in own]
    batch = ir.Shape([model.inputs[0].shape[0] if model.inputs[0].shape else None])
    for one in watched:
        activations = _read(builder, values[one.tensor])
        channel = channels_of(model, one.tensor, activations.rank)
        mask = _mask(builder, graph.graph, model, one)
        found = {score_name(one.concept, one.layer): _score(activations, one, channel, mask)}
        for target in targets:
            gradient = _read(builder, values[f"gradient/{target.name}/{one.tensor}"])
            found[sensitivity_name(one.concept, target.name, one.layer)] = _sensitivity(gradient, one, channel, mask)
        for name, tensor in found.items():
            output = builder.named(tensor, name)
            output.shape = batch
            outputs.append(output)
    graph.graph.extend(builder.nodes)
    return Graph(prune(graph, outputs))


def _read(builder: GraphBuilder, value: ir.Value) -> Tensor:
    tensor = builder.read(value)
    assert tensor is not None
    return tensor


def _mask(builder: GraphBuilder, graph: ir.Graph, model: Model, one: Watched) -> Tensor | None:
    """The input that tells the tokens of a layer from padding, over which the audit had its mean."""
    name = None if one.reduce == "flatten" else mask_of_layer(model, one.tensor)
    mask = next((builder.read(value) for value in graph.inputs if value.name == name), None)
    return None if mask is None else op.Flatten(mask, axis=1)


def _score(a: Tensor, one: Watched, channel: int, mask: Tensor | None) -> Tensor:
    v = _placed(a, one, channel)
    if mask is not None:
        along = write_reduced(_by_token(a * v, channel), "mean", mask)
    elif one.reduce == "flatten":
        along = op.ReduceSum(a * v, [*range(1, a.rank)], keepdims=0)
    else:
        along = op.ReduceMean(op.ReduceSum(a * v, [channel], keepdims=1), [*range(1, a.rank)], keepdims=0)
    return (along - one.mean) / one.sd


def _sensitivity(g: Tensor, one: Watched, channel: int, mask: Tensor | None) -> Tensor:
    if mask is not None:
        return write_reduced(_by_token(g * _placed(g, one, channel), channel), "sum", mask) * one.step
    return op.ReduceSum(g * _placed(g, one, channel), [*range(1, g.rank)], keepdims=0) * one.step


def _by_token(products: Tensor, channel: int) -> Tensor:
    """The sum over channels at each token [n, tokens]."""
    return op.Flatten(op.ReduceSum(products, [channel], keepdims=0), axis=1)


def _placed(like: Tensor, one: Watched, channel: int) -> Tensor:
    """The direction as it is multiplied with a batch."""
    vector = one.vector.astype(like.dtype.numpy())
    if one.reduce == "flatten":
        return like.builder.constant(vector[None])
    return like.builder.constant(vector.reshape([-1 if axis == channel else 1 for axis in range(like.rank)]))
