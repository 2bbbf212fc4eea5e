"""A graph that is ready to run: what `expose`, `differentiate` and `cut_at` return."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir
import onnx_ir as ir
import onnx_ir.passes.common as passes

from .tape import Dim, shape_of_value

_LARGE = 1024  # bytes: weights beyond this size never travel through a protobuf copy
_PROTOBUF_LIMIT = 2**31 - 2**20


@dataclass(frozen=True)
class TensorInfo:
    """A tensor's name, its shape as far as it is known, and its NumPy type."""

    name: str
    shape: tuple[Dim, ...]
    dtype: str


@dataclass(frozen=True)
class Graph:
    """A forward or gradient graph of plain ONNX operators; weights are shared with the model it came from."""

    ir: onnx_ir.Model

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """What the graph reads."""
        return tuple(describe_value(v) for v in self.ir.graph.inputs)

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """What it yields."""
        return tuple(describe_value(v) for v in self.ir.graph.outputs)

    def to_proto(self) -> onnx.ModelProto:
        """The graph as one protobuf message, weights included (at most 2 GB)."""
        return ir.to_proto(self.ir)

    def save(self, path: str | Path) -> None:
        """Writes an ONNX file; beyond 2 GB the weights go to `<name>.data` beside it."""
        size = sum(v.const_value.nbytes for v in self.ir.graph.initializers.values() if v.const_value is not None)
        path = Path(path)
        ir.save(self.ir, path, external_data=f"{path.name}.data" if size > _PROTOBUF_LIMIT else None)
        onnx.checker.check_model(str(path))


def describe_value(value: ir.Value) -> TensorInfo:
    """A graph value as name, shape and NumPy type."""
    dtype = value.dtype
    numpy_name = "object" if dtype in (None, ir.DataType.STRING) else str(dtype.numpy())
    return TensorInfo(value.name or "", shape_of_value(value) or (), numpy_name)


_LIKE_INPUT = {"GroupNormalization", "InstanceNormalization", "LpNormalization", "MeanVarianceNormalization"}


def infer_shapes(model: ir.Model) -> None:
    """Shapes and types of every tensor, as far as ONNX's own inference finds them."""
    infer = passes.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)
    infer(model)
    blind = [node for node in model.graph if node.op_type in _LIKE_INPUT and node.outputs[0].shape is None]
    for node in blind:  # onnx forgets these, although they change no shape
        if node.inputs[0] is not None:
            node.outputs[0].shape, node.outputs[0].type = node.inputs[0].shape, node.inputs[0].type
            infer(model)


def forget_shapes(model: ir.Model) -> None:
    """Leaves shapes to the inputs, so that they are inferred anew."""
    for value in (v for node in model.graph.all_nodes() for v in node.outputs):
        value.shape = None


def prune(model: ir.Model, outputs: Sequence[ir.Value]) -> ir.Model:
    """The model cut down, in place, to what these outputs need; inputs that nothing reads go too."""
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
    """What a function of onnx's makes of the model, with the large weights left at home meanwhile."""
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
