# mypy: allow-untyped-calls
"""Quantised models: where they round, and the same model without the rounding, against which gradients are checked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from caveat_worker.engine.autodiff.backward import attributes_of
from caveat_worker.engine.autodiff.builder import GraphBuilder, Tensor, op
from caveat_worker.engine.autodiff.model import Model
from caveat_worker.engine.autodiff.rules import VJP
from caveat_worker.engine.autodiff.rules.quantised import (
    OF_INTEGERS,
    UNROUNDED,
    along,
    as_float,
    less_zero,
    range_of,
    unrounded,
)
from caveat_worker.engine.autodiff.rules.recurrent import quantised_weights
from caveat_worker.engine.autodiff.rules.table import UnsupportedOperator

WARNING = (
    "The model is quantised. Its values are those of the quantised model. Gradients pass straight through its "
    "rounding, and their check compares the model without rounding, with the same clipping."
)


def rounds(model: ir.Model) -> bool:
    """Whether gradients of the model pass through rounding."""
    return any(any(True for _ in found(model)) for found in (rounding_pairs, _dynamic, _cells))


def rounding_pairs(model: ir.Model) -> Iterator[tuple[ir.Node, ir.Node]]:
    """Yields each DequantizeLinear that reads a QuantizeLinear, after the latter."""
    for node in model.graph:
        source = node.inputs[0].producer() if node.op_type == "DequantizeLinear" and node.inputs[0] else None
        if source is not None and source.op_type == "QuantizeLinear":
            yield source, node


def without_rounding(model: Model) -> Model:
    """The model with every pair of rounding to integers and back replaced by clipping; itself if it has none.

    Where it rounds by the range of the numbers themselves, nothing is clipped, and products of integers are products of
    numbers. Weights are numbers too: for a product with weights of integers the runtime rounds what else it reads.
    """
    if not (rounds(model.ir) or any(True for _ in _weights(model.ir))):
        return model
    copy = replace(model, ir=model.ir.clone())
    graph = copy.ir.graph
    builder = GraphBuilder(graph, "unrounded")
    for node in list(_weights(copy.ir)):
        node.outputs[0].replace_all_uses_with(builder.initializer(_numbers(node)), replace_graph_outputs=True)
        graph.remove(node, safe=True)
    for node in list(_dynamic(copy.ir)):
        _leave_unrounded(builder, node)
    for node in list(_cells(copy.ir)):
        _write_plain(builder, node)
    for quantize, dequantize in list(rounding_pairs(copy.ir)):
        builder.nodes.clear()
        builder.prefix = f"unrounded/{dequantize.name}"
        try:
            result = _clipped(builder, quantize, dequantize)
        except UnsupportedOperator:
            continue  # no gradient passes through it either
        _put_in_place(builder, dequantize, [result])
    return copy


def _put_in_place(builder: GraphBuilder, node: ir.Node, results: Sequence[Tensor]) -> None:
    """Inserts what was written and replaces a node's outputs by the results, which take over their names."""
    builder.graph.insert_before(node, builder.nodes)
    for old, new in zip(node.outputs, (result.value for result in results), strict=True):
        new.type, new.shape, name, old.name = old.type, old.shape, old.name, f"{old.name}/rounded"
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        new.name = name or new.name
    builder.graph.remove(node, safe=True)


def _weights(model: ir.Model) -> Iterator[ir.Node]:
    """Yields each DequantizeLinear of a constant."""
    for node in model.graph:
        if node.op_type == "DequantizeLinear" and all(one is None or one.is_initializer() for one in node.inputs):
            yield node


def _numbers(node: ir.Node) -> NDArray[np.float32]:
    """The numbers (q - z) s of a DequantizeLinear of a constant, whose scales may be of slices or of blocks of them."""
    arrays = [one.const_value.numpy() for one in node.inputs if one is not None and one.const_value is not None]
    q, *others = (array.astype(np.float32) for array in arrays)
    axis, block = node.attributes.get_int("axis", 1), node.attributes.get_int("block_size", 0)
    for number, each in enumerate(others):
        if block:
            repeated = np.repeat(each, block, axis)
            others[number] = np.take(repeated, range(q.shape[axis]), axis)
        elif each.size > 1:
            others[number] = each.reshape([-1 if place == axis % q.ndim else 1 for place in range(q.ndim)])
    scale, *zeros = others
    found: NDArray[np.float32] = (q - zeros[0] if zeros else q) * scale
    return found


def _dynamic(model: ir.Model) -> Iterator[ir.Node]:
    """Yields each DynamicQuantizeLinear whose integers go into products of integers alone."""
    for node in model.graph:
        if node.op_type == "DynamicQuantizeLinear" and not node.outputs[0].is_graph_output():
            readers = [(reader.op_type, place) for reader, place in node.outputs[0].uses()]
            if readers and all(kind in OF_INTEGERS and place < 2 for kind, place in readers):
                yield node


def _cells(model: ir.Model) -> Iterator[ir.Node]:
    """Yields each LSTM that rounds what it reads."""
    return (node for node in model.graph if node.op_type == "DynamicQuantizeLSTM")


def _write_plain(builder: GraphBuilder, node: ir.Node) -> None:
    """Replaces a cell that rounds by one of numbers, in place."""
    builder.nodes.clear()
    builder.prefix = f"unrounded/{node.name}"
    inputs = [builder.read(one) for one in node.inputs]
    weights = quantised_weights(*inputs[1:3], *inputs[8:])
    given = {name: attribute.value for name, attribute in node.attributes.items()}
    plain = builder.write("LSTM", [inputs[0], *weights, *inputs[3:8]], given, len(node.outputs), "")
    _put_in_place(builder, node, plain)


def _leave_unrounded(builder: GraphBuilder, quantize: ir.Node) -> None:
    """Replaces the integers of a DynamicQuantizeLinear by x / s + z, in place, and their products by those of numbers.

    The operator stays for its scale and its zero point.
    """
    graph, whole = builder.graph, quantize.outputs[0]
    quantize.metadata_props[UNROUNDED] = "1"
    products = list(dict.fromkeys(reader for reader, _ in whole.uses()))
    (x,) = _operands(builder, quantize)[:1]
    scale, zero = (builder.read(one) for one in quantize.outputs[1:])
    builder.nodes.clear()
    builder.prefix = f"unrounded/{quantize.name}"
    levels: Any = x / scale + as_float(zero, x)
    graph.insert_after(quantize, builder.nodes)
    whole.replace_all_uses_with(levels.value)
    for product in products:
        builder.nodes.clear()
        builder.prefix = f"unrounded/{product.name}"
        left, right, left_zero, right_zero = (builder.read(one) for one in (*product.inputs, None, None)[:4])
        attributes = {name: attribute.value for name, attribute in product.attributes.items()}
        write = getattr(op, OF_INTEGERS[product.op_type])
        result: Any = write(less_zero(left, left_zero, x), less_zero(right, right_zero, x), **attributes)
        graph.insert_before(product, builder.nodes)
        result.value.shape = product.outputs[0].shape
        product.outputs[0].replace_all_uses_with(result.value, replace_graph_outputs=True)
        graph.remove(product, safe=True)


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
