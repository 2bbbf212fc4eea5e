# mypy: allow-untyped-calls
"""Quantised models: where they round, and the same model without the rounding, against which gradients are checked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import onnx_ir as ir

from caveat_worker.engine.autodiff.backward import attributes_of
from caveat_worker.engine.autodiff.builder import GraphBuilder, Tensor, op
from caveat_worker.engine.autodiff.model import Model
from caveat_worker.engine.autodiff.rules import VJP
from caveat_worker.engine.autodiff.rules.quantised import along, as_float, range_of, unrounded
from caveat_worker.engine.autodiff.rules.table import UnsupportedOperator

WARNING = (
    "The model is quantised. Its values are those of the quantised model. Gradients pass straight through its "
    "rounding, and their check compares the model without rounding, with the same clipping."
)


def rounding_pairs(model: ir.Model) -> Iterator[tuple[ir.Node, ir.Node]]:
    """Yields each DequantizeLinear that reads a QuantizeLinear, after the latter."""
    for node in model.graph:
        source = node.inputs[0].producer() if node.op_type == "DequantizeLinear" and node.inputs[0] else None
        if source is not None and source.op_type == "QuantizeLinear":
            yield source, node


def without_rounding(model: Model) -> Model:
    """The model with every pair of rounding to integers and back replaced by clipping; itself if it has none."""
    if not any(True for _ in rounding_pairs(model.ir)):
        return model
    copy = replace(model, ir=model.ir.clone())
    graph = copy.ir.graph
    builder = GraphBuilder(graph, "unrounded")
    for quantize, dequantize in list(rounding_pairs(copy.ir)):
        builder.nodes.clear()
        builder.prefix = f"unrounded/{dequantize.name}"
        try:
            result = _clipped(builder, quantize, dequantize)
        except UnsupportedOperator:
            continue  # no gradient passes through it either
        old, new = dequantize.outputs[0], result.value
        graph.insert_before(dequantize, builder.nodes)
        new.type, new.shape, name, old.name = old.type, old.shape, old.name, f"{old.name}/rounded"
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        new.name = name
        graph.remove(dequantize, safe=True)
    return copy


def _clipped(builder: GraphBuilder, quantize: ir.Node, dequantize: ir.Node) -> Tensor:
    """(clip(x / s + z) - z) s: the pair without its rounding."""
    x, scale, zero = _operands(builder, quantize)
    _, out_scale, out_zero = _operands(builder, dequantize)
    axis, out_axis = (_attributes(builder, node)["axis"] for node in (quantize, dequantize))
    low, high = range_of(quantize.outputs[0].dtype)
    level: Any = op.Clip(unrounded(x, scale, zero, axis), low, high)
    if out_zero is not None:
        level = level - along(as_float(out_zero, x), x, out_axis)
    product: Tensor = level * along(out_scale, x, out_axis)
    return product


def _operands(builder: GraphBuilder, node: ir.Node) -> list[Any]:
    return [builder.read(x) for x in node.inputs] + [None] * (3 - len(node.inputs))


def _attributes(builder: GraphBuilder, node: ir.Node) -> dict[str, Any]:
    attributes = attributes_of(node, VJP[node.domain, node.op_type], builder.graph.opset_imports)
    if attributes.get("block_size"):
        raise UnsupportedOperator("it quantises in blocks")
    return {"axis": 1} | attributes
