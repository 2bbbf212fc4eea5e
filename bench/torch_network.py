"""The same network in torch: a module for every node of an ONNX graph, with the same weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from onnx import ModelProto, NodeProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional


class TorchNetwork(nn.Module):
    """An ONNX graph run node by node in torch, as eager code runs it; a layer's module has the node's name."""

    def __init__(self, model: ModelProto, output: str = "logits") -> None:
        super().__init__()
        weights = {one.name: torch.from_numpy(numpy_helper.to_array(one).copy()) for one in model.graph.initializer}
        self._steps: list[tuple[str, list[str]]] = []
        self._output = output
        for node in model.graph.node:
            self.add_module(module_name(node.output[0]), _module(node, weights))
            self._steps.append((node.output[0], [name for name in node.input if name not in weights]))
            if node.output[0] == output:
                break
        self._last = {name: number for number, (_, names) in enumerate(self._steps) for name in names}
        self.eval()

    def forward(self, x: Tensor, layer: str | None = None) -> Any:
        """The output; with a layer, that layer's tensor beside it, from which on autograd takes notes."""
        values, begin = {"input": x}, None
        for number, (name, inputs) in enumerate(self._steps):
            value = getattr(self, module_name(name))(*(values[each] for each in inputs))
            if name == layer:
                value = begin = value.detach().requires_grad_()
            values[name] = value
            for each in inputs:
                if self._last[each] == number:
                    values.pop(each, None)
        return values[self._output] if layer is None else (values[self._output], begin)


def module_name(tensor: str) -> str:
    """Torch takes a dot for a step inwards."""
    return tensor.replace(".", "_")


class Concat(nn.Module):
    def forward(self, *parts: Tensor) -> Tensor:
        return torch.cat(parts, dim=1)


class Applied(nn.Module):
    """A function of tensors, among which weights have their places."""

    def __init__(self, function: Callable[..., Tensor], weights: Sequence[Tensor | None]) -> None:
        super().__init__()
        self._function, self._places = function, len(weights)
        for place, weight in enumerate(weights):
            self.register_buffer(f"weight{place}", weight)

    def forward(self, *given: Tensor) -> Tensor:
        rest, weights = iter(given), (getattr(self, f"weight{place}") for place in range(self._places))
        return self._function(*(next(rest) if weight is None else weight for weight in weights))


def _reshaped(x: Tensor, shape: Tensor) -> Tensor:
    return x.reshape([size or x.shape[axis] for axis, size in enumerate(shape.tolist())])


def _function(node: NodeProto, given: Mapping[str, Any]) -> Callable[..., Tensor] | None:
    """What a node of a transformer, or a sum, does; None for any other."""
    functions: dict[str, Callable[..., Tensor]] = {
        "Add": torch.add,
        "Cast": lambda x: x.long(),
        "Gather": lambda rows, ids: functional.embedding(ids, rows),
        "Gelu": functional.gelu,
        "LayerNormalization": lambda x, scale, shift: functional.layer_norm(x, x.shape[-1:], scale, shift),
        "MatMul": torch.matmul,
        "Mul": torch.mul,
        "ReduceMean": lambda x, axes: x.mean(axes.tolist()),
        "Reshape": _reshaped,
        "Softmax": lambda x: x.softmax(given["axis"]),
        "Transpose": lambda x: x.permute(given["perm"]),
    }
    return functions.get(node.op_type)


def _module(node: NodeProto, weights: dict[str, Tensor]) -> nn.Module:
    given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    if node.op_type == "Conv":
        kernel, bias = (weights[name] for name in node.input[1:])
        convolution = nn.Conv2d(
            kernel.shape[1], kernel.shape[0], tuple(kernel.shape[2:]), given["strides"], given["pads"][:2]
        )
        return _filled(convolution, kernel, bias)
    if node.op_type == "Gemm":
        weight, bias = (weights[name] for name in node.input[1:])
        return _filled(nn.Linear(*weight.shape), weight.T.contiguous(), bias)
    if node.op_type == "MaxPool":
        return nn.MaxPool2d(given["kernel_shape"], given["strides"], given.get("pads", [0, 0])[:2])
    if (function := _function(node, given)) is not None:
        return Applied(function, [weights.get(name) for name in node.input])
    modules = {
        "Relu": nn.ReLU,
        "Tanh": nn.Tanh,
        "Concat": Concat,
        "GlobalAveragePool": lambda: nn.AdaptiveAvgPool2d(1),
        "Flatten": nn.Flatten,
    }
    return modules[node.op_type]()


def _filled(module: nn.Conv2d | nn.Linear, weight: Tensor, bias: Tensor) -> nn.Module:
    with torch.no_grad():
        module.weight.copy_(weight)
        assert module.bias is not None
        module.bias.copy_(bias)
    return module
