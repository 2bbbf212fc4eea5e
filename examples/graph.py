"""An ONNX graph written in the order of its forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, checker, helper, numpy_helper

OPSET = 20
IR_VERSION = 10

Shape = list[int | str]
"""Dimensions; a name is symbolic."""


class Graph:
    """Nodes and weights so far; a node has the name of the tensor it makes."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._nodes: list[NodeProto] = []
        self._weights: dict[str, TensorProto] = {}

    def weight(self, name: str, values: NDArray[Any]) -> str:
        """Keeps `values` as the constant tensor `name`."""
        self._weights[name] = numpy_helper.from_array(values, name)
        return name

    def node(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Appends an operator with one output, and returns the output's name."""
        self._nodes.append(helper.make_node(operator, list(inputs), [output], name=output, **attributes))
        return output

    def model(self, inputs: dict[str, Shape], outputs: dict[str, Shape]) -> ModelProto:
        """The checked model with these float32 inputs and outputs."""
        graph = helper.make_graph(
            self._nodes, self._name, _floats(inputs), _floats(outputs), list(self._weights.values())
        )
        opset = helper.make_opsetid("", OPSET)
        model = helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION, producer_name="caveat-examples")
        checker.check_model(model, full_check=True)
        return model


def _floats(tensors: dict[str, Shape]) -> list[Any]:
    return [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in tensors.items()]


@dataclass(frozen=True)
class Convolution:
    """The weights of a convolution: `kernel` [out, in / groups, height, width], `bias` [out]."""

    kernel: NDArray[np.float32]
    bias: NDArray[np.float32]

    def write(
        self, graph: Graph, x: str, name: str, *, stride: int = 1, pads: Sequence[int] = (0, 0, 0, 0), groups: int = 1
    ) -> str:
        """Appends the convolution of `x`; pads are top, left, bottom, right."""
        kernel = graph.weight(f"{name}.kernel", self.kernel)
        bias = graph.weight(f"{name}.bias", self.bias)
        return graph.node("Conv", [x, kernel, bias], name, strides=[stride, stride], pads=list(pads), group=groups)


def save(model: ModelProto, path: Path) -> None:
    """Writes a model; the same model gives the same bytes."""
    path.write_bytes(model.SerializeToString(deterministic=True))
