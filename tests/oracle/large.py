"""Perceptrons of many megabytes, which are slow or impossible to differentiate if weights are copied."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir


def perceptron(path: Path, width: int, layers: int, *, external: bool) -> None:
    """`layers` square layers with Tanh behind each, and ten classes; `external` puts the weights in `<name>.data`."""
    rng = np.random.default_rng(0)
    x = entry = ir.Value(name="x", shape=ir.Shape(["n", width]), type=ir.TensorType(ir.DataType.FLOAT))
    nodes, weights = [], []
    for number, wide in enumerate([width] * layers + [10]):
        array = rng.standard_normal((width, wide), np.float32) / np.float32(np.sqrt(width))
        name = f"w{number}"
        kind = {"shape": ir.Shape(array.shape), "type": ir.TensorType(ir.DataType.FLOAT)}
        weights.append(ir.Value(name=name, const_value=ir.tensor(array, name=name), **kind))
        nodes.append(ir.node("MatMul", [x, weights[-1]]))
        if number < layers:
            nodes.append(ir.node("Tanh", nodes[-1].outputs))
        x = nodes[-1].outputs[0]
        x.name = f"hidden{number}"
    x.shape, x.type = ir.Shape(["n", 10]), ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph([entry], [x], nodes=nodes, initializers=weights, opset_imports={"": 18}, name="perceptron")
    ir.save(ir.Model(graph, ir_version=10), path, external_data=f"{path.name}.data" if external else None)
