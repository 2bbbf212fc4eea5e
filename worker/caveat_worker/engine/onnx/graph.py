"""Graphs of ONNX operators, and rewrites that keep their weights in place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir
import onnx_ir as ir
import onnx_ir.passes.common as passes

from caveat_worker.engine.onnx.learned_shapes import shape_learned
from caveat_worker.engine.onnx.values import Dim, shape_of_value

_LARGE = 1024  # bytes: weights beyond this size are never copied through protobuf
_PROTOBUF_LIMIT = 2**31 - 2**20


@dataclass(frozen=True)
class TensorInfo:
    """A tensor's name, its shape with None or a name for unknown sizes, and its NumPy type."""

    name: str
    shape: tuple[Dim, ...]
    dtype: str


@dataclass(frozen=True)
class Graph:
    """A forward or gradient graph of standard ONNX operators; it shares its weights with its model."""

    ir: onnx_ir.Model

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """The graph's inputs."""
        return tuple(describe_value(v) for v in self.ir.graph.inputs)

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """The graph's outputs."""
        return tuple(describe_value(v) for v in self.ir.graph.outputs)

    def to_proto(self) -> onnx.ModelProto:
        """The graph as one protobuf message with its weights (at most 2 GB)."""
        return ir.to_proto(self.ir)

    def save(self, path: str | Path) -> None:
        """Writes an ONNX file; weights of more than 2 GB go to `<name>.data` next to it."""
        size = sum(v.const_value.nbytes for v in self.ir.graph.initializers.values() if v.const_value is not None)
        path = Path(path)
        ir.save(self.ir, path, external_data=f"{path.name}.data" if size > _PROTOBUF_LIMIT else None)
        onnx.checker.check_model(str(path))


def describe_value(value: ir.Value) -> TensorInfo:
    """The name, shape and NumPy type of a graph's value."""
    dtype = value.dtype
    numpy_name = "object" if dtype in (None, ir.DataType.STRING) else str(dtype.numpy())
    return TensorInfo(value.name or "", shape_of_value(value) or (), numpy_name)


_LIKE_INPUT = {"GroupNormalization", "InstanceNormalization", "LpNormalization", "MeanVarianceNormalization"}


_KEEPS_SHAPE = {"Identity", "LogSoftmax", "Sigmoid", "Softmax"}


def infer_shapes(model: ir.Model) -> None:
    """Sets the shapes and types of every tensor that onnx's inference finds, in place."""
    infer = passes.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)
    infer(model)
    skipped = [node for node in model.graph if node.op_type in _LIKE_INPUT and node.outputs[0].shape is None]
    for node in skipped:  # onnx infers no shape for these, although they keep their input's
        if node.inputs[0] is not None:
            node.outputs[0].shape, node.outputs[0].type = node.inputs[0].shape, node.inputs[0].type
            infer(model)
    while shape_learned(model):
        infer(model)
    for node in reversed(list(model.graph)):  # the shape of scores is known from the output, whatever made them
        scores = node.inputs[0] if node.op_type in _KEEPS_SHAPE else None
        if scores is not None and scores.shape is None and node.outputs[0].shape is not None:
            scores.shape, scores.type = node.outputs[0].shape, scores.type or node.outputs[0].type


def forget_shapes(model: ir.Model) -> None:
    """Removes all shapes but those of inputs and initializers, in place, so that they are inferred again."""
    for value in (v for node in model.graph.all_nodes() for v in node.outputs):
        value.shape = None


def prune(model: ir.Model, outputs: Sequence[ir.Value]) -> ir.Model:
    """Removes, in place, the nodes and inputs that these outputs do not need; returns the model."""
    graph = model.graph
    graph.outputs.clear()
    graph.outputs.extend(outputs)
    passes.RemoveUnusedNodesPass()(model)
    read = {x for node in graph.all_nodes() for x in node.inputs} | set(outputs)
    kept = [value for value in graph.inputs if value in read]
    graph.inputs.clear()
    graph.inputs.extend(kept)
    domains = {node.domain for node in graph.all_nodes()} | {""}
    for domain in set(graph.opset_imports) - domains:
        del graph.opset_imports[domain]
    return model


def without_weights(model: ir.Model, function: Callable[[onnx.ModelProto], onnx.ModelProto]) -> ir.Model:
    """Applies a function of protobuf messages to the model without copying its large weights."""
    weights = {
        value.name or "": value.const_value
        for value in model.graph.initializers.values()
        if value.const_value is not None and value.const_value.nbytes > _LARGE
    }
    light = model.clone()
    for name in weights:
        value = light.graph.initializers.pop(name)
        value.shape = value.shape or ir.Shape(list(weights[name].numpy().shape))
        value.dtype = weights[name].dtype
        value.const_value = None
        if value not in light.graph.inputs:
            light.graph.inputs.append(value)
    result = ir.from_proto(function(ir.to_proto(light)))
    own_inputs = {value.name for value in model.graph.inputs}
    _restore(result.graph, weights.items())
    kept = [value for value in result.graph.inputs if value.name in own_inputs]
    result.graph.inputs.clear()
    result.graph.inputs.extend(kept)
    return result


def _restore(graph: ir.Graph, weights: Iterable[tuple[str, ir.TensorProtocol]]) -> None:
    inputs = {value.name: value for value in graph.inputs}
    for name, tensor in weights:
        if name in inputs:
            inputs[name].const_value = tensor
            graph.register_initializer(inputs[name])
