"""The part of a target that belongs to no input: Σ b·∂S/∂b over the constants that a model adds.

For a piecewise linear model, Σ x·∂S/∂x + Σ b·∂S/∂b = S exactly, and the same holds for other tables of backward rules
with their own multipliers.
"""

from __future__ import annotations

import onnx_ir as ir

from caveat_worker.engine.autodiff.backward import Blocked, backward, of_numbers, reached_from
from caveat_worker.engine.autodiff.builder import GraphBuilder, Tensor, op
from caveat_worker.engine.autodiff.differentiate import copy_of, write_value
from caveat_worker.engine.autodiff.model import Model
from caveat_worker.engine.autodiff.rules import VJP, Table
from caveat_worker.engine.autodiff.shapes import ones_like
from caveat_worker.engine.autodiff.target import Target, resolve_target
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.onnx.graph import Graph, prune

_ADDED = {
    "Add": (0, 1), "BatchNormalization": (2, 3), "Clip": (1, 2), "Concat": None, "Conv": (2,), "ConvTranspose": (2,),
    "Gemm": (2,), "GroupNormalization": (2,), "InstanceNormalization": (2,), "LayerNormalization": (2,), "Max": None,
    "Mean": None, "Min": None, "Sub": (0, 1), "Sum": None, "Where": (1, 2),
}  # fmt: skip
"""Operators → the positions of inputs that are added; None for all of them."""


def bias_part(model: Model, target: Target, *, rules: Table = VJP) -> Graph:
    """A graph with the output `biases/<target>` [], for batches of one example: cotangents of biases add up over more.

    Raises `InvalidInput` where a constant that is added has no gradient.
    """
    copy = copy_of(model)
    nodes, builder = list(copy.ir.graph), GraphBuilder(copy.ir.graph)
    value = write_value(builder, copy, resolve_target(model, target))
    biases = _biases(copy, nodes)
    found = backward(builder, [*nodes, *builder.nodes], biases, {value.value: ones_like(value)}, rules)
    parts = []
    for bias in biases:
        cotangent = found.get(bias)
        if isinstance(cotangent, Blocked):
            raise InvalidInput(
                "no-gradient-rule",
                f"The share of the model's biases is not known. {cotangent.reason}",
                "Use an explanation that compares with a reference, such as integrated_gradients.",
            )
        if cotangent is not None:
            parts.append(op.ReduceSum(cotangent * Tensor(builder, bias), keepdims=0))
    total = op.Sum(*parts) if parts else op.ReduceSum(value * 0.0, keepdims=0)
    output = builder.named(total, f"biases/{target.name}")
    output.shape = ir.Shape([])
    copy.ir.graph.extend(builder.nodes)
    return Graph(prune(copy.ir, [output]))


def _biases(model: Model, nodes: list[ir.Node]) -> list[ir.Value]:
    """The constants of numbers that are added to what depends on an example, each once.

    They may be made by operators, as where weights are reshaped or expanded to an example's sizes.
    """
    inputs = [v for v in model.ir.graph.inputs if not v.is_initializer() and v.name not in model.weights]
    moving = reached_from(of_numbers(nodes), inputs)
    found: dict[ir.Value, None] = {}
    for node in nodes:
        if node.domain or node.op_type not in _ADDED or not any(x in moving for x in node.inputs):
            continue
        positions = _ADDED[node.op_type]
        for position, x in enumerate(node.inputs):
            added = positions is None or position in positions
            if added and x is not None and x not in moving and x.dtype is not None and x.dtype.is_floating_point():
                found[x] = None
    return list(found)
