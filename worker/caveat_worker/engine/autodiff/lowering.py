"""Rewrites a model in operators that have rules, by our formulas and by the function bodies of the ONNX spec."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnx_ir as ir
import onnx_ir.passes.common as passes

from caveat_worker.engine.autodiff.backward import attributes_of, describe, has_body
from caveat_worker.engine.autodiff.builder import GraphBuilder, Tensor, UnknownShape, op
from caveat_worker.engine.autodiff.model import DRAWS
from caveat_worker.engine.autodiff.rules import DEFINED, LOWERED, UnsupportedOperator
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.onnx.graph import forget_shapes, infer_shapes, without_weights
from caveat_worker.engine.onnx.learned_shapes import DOMAIN as LEARNED
from caveat_worker.engine.onnx.values import LOWERED_FROM, shape_of_value

_MAX_FOLDED = 2**16  # elements: larger results are not kept as constants
_MOVES = {
    "DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "MaxPool", "Pad", "Reshape", "Resize", "Slice",
    "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
}  # fmt: skip
"""Operators that do to integers what they do to the numbers for which these stand."""
_KEPT = DRAWS | {"DequantizeLinear"}
"""Operators that are not computed ahead: what is drawn, and quantised weights, which the runtime looks for."""


def lower(model: ir.Model) -> ir.Model:
    """Folds constants, decides branches with a constant condition, and replaces operators by formulas in others.

    The model is changed in place where possible; every tensor and node of the result has a name.
    """
    infer_shapes(model)
    if sum(map(_settle_ceil_mode, model.graph)):
        forget_shapes(model)
        infer_shapes(model)
    while _fold(model) | _take_known_branches(model):
        infer_shapes(model)
    declared, settled = _forget_declared(model), set[ir.Node]()
    while _replace_formulas(model, settled):  # again, as a formula may need a shape that an earlier one has made known
        infer_shapes(model)
    _declare_again(model, declared)
    if _move_numbers(model):
        infer_shapes(model)
    while names := sorted({("", node.op_type) for node in model.graph.all_nodes() if _has_a_body(node)}):
        try:
            model = without_weights(model, partial(_inlined, names=names))
        except RuntimeError:  # onnx cannot inline it; it is named in an error if a gradient has to pass through it
            break
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        infer_shapes(model)
        while _fold(model) | _take_known_branches(model):
            infer_shapes(model)
    passes.RemoveUnusedNodesPass()(model)
    name_everything(model)
    return model


def _forget_declared(model: ir.Model) -> dict[str, ir.Shape]:
    """Removes the declared shapes of outputs of learned models that a formula may compute, in place; returns them.

    Converters declare some wrongly: of a RidgeClassifier, two scores where there is one.
    """
    forgotten = {}
    for output in model.graph.outputs:
        maker = output.producer()
        if maker is not None and maker.domain == LEARNED and _is_lowered(maker) and output.shape is not None:
            forgotten[output.name or ""], output.shape = output.shape, None
    return forgotten


def _declare_again(model: ir.Model, declared: Mapping[str, ir.Shape]) -> None:
    """Gives outputs back their declared shapes, in place, but those that contradict what was found."""
    for output in model.graph.outputs:
        shape = declared.get(output.name or "")
        if shape is not None and (output.shape is None or not _contradict(shape, output.shape)):
            output.shape = shape


def _contradict(declared: ir.Shape, found: ir.Shape) -> bool:
    sizes = zip(declared, found, strict=False)
    return len(declared) != len(found) or any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in sizes)


def name_everything(model: ir.Model) -> None:
    """Gives a name to every tensor and node that has none, in place."""
    for index, node in enumerate(model.graph.all_nodes()):
        node.name = node.name or f"{node.op_type}_{index}"
        for position, output in enumerate(node.outputs):
            if output.name is None:
                output.name = f"{node.name}/{position}"


def _settle_ceil_mode(node: ir.Node) -> bool:
    """Removes a pooling's ceil_mode, in place, by explicit paddings of the same output size; whether it did.

    Runtimes drop windows that begin in the padding, but onnx's shape inference counts them before opset 22. Raises
    `InvalidInput` where no paddings give the runtimes' size.
    """
    mode = node.attributes.get("ceil_mode")
    x = shape_of_value(node.inputs[0]) if node.op_type.endswith("Pool") and mode and node.inputs[0] else None
    if mode is None or not mode.as_int() or x is None or not all(isinstance(d, int) for d in x[2:]):
        return False
    auto_pad = node.attributes.pop("auto_pad", None)
    if auto_pad is not None and auto_pad.as_string() not in ("NOTSET", "VALID"):
        node.attributes["auto_pad"], node.attributes["ceil_mode"] = auto_pad, ir.AttrInt64("ceil_mode", 0)
        return True  # with SAME_* the size is rounded up anyway
    given = {a.name: a.as_ints() for a in node.attributes.values() if a.type == ir.AttributeType.INTS}
    rank = len(x) - 2
    strides, dilations = given.get("strides", [1] * rank), given.get("dilations", [1] * rank)
    pads = list(given.get("pads", [0] * 2 * rank))
    dropped = False
    for i, size in enumerate(d for d in x[2:] if isinstance(d, int)):
        room = size + pads[i] + pads[i + rank] - dilations[i] * (given["kernel_shape"][i] - 1) - 1
        reach = -(-room // strides[i]) * strides[i]  # where the last window begins if the size is rounded up
        if reach >= size + pads[i] and reach > room:
            dropped = True
        else:
            pads[i + rank] += reach - room
    if not dropped:
        return False
    included = node.attributes.get("count_include_pad")
    widened = pads != list(given.get("pads", [0] * 2 * rank))
    too_wide = any(p >= k for p, k in zip(pads, list(given["kernel_shape"]) * 2, strict=True))
    if widened and (too_wide or (included is not None and included.as_int())):
        raise InvalidInput(
            "pooling-not-settled",
            f"The pooling of {describe(node)} rounds up, and runtimes drop windows of it along one axis alone.",
            "Export the model with explicit paddings instead of ceil_mode.",
        )
    node.attributes["ceil_mode"] = ir.AttrInt64("ceil_mode", 0)
    node.attributes["pads"] = ir.AttrInt64s("pads", pads)
    return True


def _inlined(proto: onnx.ModelProto, names: list[tuple[str, str]]) -> onnx.ModelProto:
    return onnx.inliner.inline_selected_functions(proto, names, inline_schema_functions=True)


def _is_lowered(node: ir.Node) -> bool:
    return (node.domain, node.op_type) in LOWERED


def _has_a_body(node: ir.Node) -> bool:
    """Whether the operator is differentiated through its function body in the ONNX spec."""
    return not node.domain and node.op_type in DEFINED


def _replace_formulas(model: ir.Model, settled: set[ir.Node]) -> bool:
    """Replaces operators by their formulas, in place, as far as the shapes that these need are known; whether any.

    `settled` are the nodes that were replaced before, and stay for an output that their formula does not compute.
    """
    graph, before = model.graph, len(settled)
    builder = GraphBuilder(graph, "lowered")
    for node in list(graph):
        if not _is_lowered(node) or node in settled:
            continue
        rule = LOWERED[node.domain, node.op_type]
        builder.nodes.clear()
        builder.prefix = node.name or node.op_type
        try:
            results = rule(*(builder.read(x) for x in node.inputs), **attributes_of(node, rule, graph.opset_imports))
        except (UnsupportedOperator, UnknownShape):
            continue  # the operator stays; it is named in an error if a gradient has to pass through it
        results = results if isinstance(results, tuple) else (results,)
        _put_in_place(builder, node, results)
        settled.add(node)
    return len(settled) > before


def _move_numbers(model: ir.Model) -> bool:
    """Replaces operators that move rounded integers by those that move numbers, in place; whether there were any.

    Their results are rounded again, to the same integers: gradients pass through numbers alone.
    """
    graph, moved = model.graph, False
    builder = GraphBuilder(graph, "moved")
    for node in list(graph):
        maker = _rounds_for(node)
        if maker is None:
            continue
        builder.nodes.clear()
        builder.prefix = f"{node.name}/moved"
        scale, zero = (builder.read(x) for x in (*maker.inputs[1:], None)[:2])
        q, *rest = (builder.read(x) for x in node.inputs)
        if node.op_type == "Pad":
            zeros = np.zeros((), (maker.outputs[0].dtype or ir.DataType.UINT8).numpy())
            value = next((one for one in rest[1:2] if one is not None), builder.constant(zeros))
            rest[1:2] = [op.DequantizeLinear(value, scale, zero)]
        given = {attribute.name: attribute.value for attribute in node.attributes.values()}
        number = op.DequantizeLinear(q, scale, zero)
        moves = builder.write(node.op_type, [number, *rest], given, len(node.outputs), "")
        results = tuple(op.QuantizeLinear(one, scale, zero) for one in moves)
        _put_in_place(builder, node, results)
        moved = True
    return moved


def _rounds_for(node: ir.Node) -> ir.Node | None:
    """The QuantizeLinear, with one scale, whose integers a node does nothing to but move; None where there is none."""
    maker = node.inputs[0].producer() if node.op_type in _MOVES and node.inputs and node.inputs[0] else None
    if maker is None or node.domain or maker.op_type != "QuantizeLinear" or maker.inputs[1] is None:
        return None
    places = node.op_type == "MaxPool" and any(output.uses() for output in node.outputs[1:])
    several = shape_of_value(maker.inputs[1]) != ()
    return None if places or several else maker


def _put_in_place(builder: GraphBuilder, node: ir.Node, results: tuple[Tensor | None, ...]) -> None:
    """Inserts the formula's nodes and replaces the node's outputs by their results; None keeps the node's output."""
    graph, nodes = builder.graph, list(builder.nodes)
    graph.insert_before(node, nodes)
    for old, new in zip(node.outputs, results, strict=False):
        if new is not None and old.name:
            name, value = old.name, new.value
            if (maker := value.producer()) is not None:
                maker.metadata_props.setdefault(LOWERED_FROM, node.op_type)
            value.type, value.shape = old.type or value.type, old.shape or value.shape
            old.replace_all_uses_with(value, replace_graph_outputs=True)
            old.name = f"{name}/whole"
            value.name = name
    if not any(output.uses() or output.is_graph_output() for output in node.outputs):
        graph.remove(node, safe=True)
    for one in nodes:
        _name_numbers(builder, one)


def _name_numbers(builder: GraphBuilder, node: ir.Node) -> None:
    """Names the numbers before and behind a rounding after its integers, as ONNX Runtime's quantiser does."""
    if node.op_type not in {"DequantizeLinear", "QuantizeLinear"}:
        return
    ends = node.inputs[0], node.outputs[0]
    numbers, integers = ends if node.op_type == "QuantizeLinear" else reversed(ends)
    if numbers is not None and integers is not None and not integers.is_initializer():
        kind = "QuantizeLinear_Input" if node.op_type == "QuantizeLinear" else "DequantizeLinear_Output"
        builder.rename(numbers, f"{(integers.name or '').removesuffix('_quantized')}_{kind}")


def _fold(model: ir.Model) -> bool:
    """Replaces nodes with constant inputs, and known dimensions, by constants, in place; whether there were any."""
    graph, folded = model.graph, False
    for node in list(graph):
        if node.domain or node.op_type in _KEPT or any(output.is_graph_output() for output in node.outputs):
            continue
        known = _known_dimensions(node)
        arrays = _computed(node, graph) if known is None else [known]
        if arrays is None or any(array.size > _MAX_FOLDED for array in arrays):
            continue
        for output, array in zip(node.outputs, arrays, strict=True):
            constant = ir.Value(
                name=output.name,
                shape=ir.Shape(array.shape),
                type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
                const_value=ir.Tensor(array, name=output.name),
            )
            output.replace_all_uses_with(constant)
            graph.register_initializer(constant)
        graph.remove(node, safe=True)
        folded = True
    return folded


def _known_dimensions(node: ir.Node) -> np.ndarray[Any, Any] | None:
    """The value of a Size, a Shape, or of a Gather of a Shape, if the dimensions that it reads are numbers."""
    first = node.inputs[0] if node.inputs else None
    if node.op_type == "Size" and first is not None and (shape := shape_of_value(first)) is not None:
        sizes = _numbers(shape)
        return None if sizes is None else np.asarray(sizes.prod(dtype=np.int64))
    if node.op_type == "Shape" and first is not None and (shape := shape_of_value(first)) is not None:
        start, end = (node.attributes[k].as_int() if k in node.attributes else None for k in ("start", "end"))
        return _numbers(shape[start:end])
    maker = first.producer() if first is not None else None
    if node.op_type == "Gather" and maker is not None and maker.op_type == "Shape" and not maker.attributes:
        index = node.inputs[1].const_value if node.inputs[1] is not None else None
        whole = shape_of_value(maker.inputs[0]) if maker.inputs[0] is not None else None
        if index is not None and whole is not None:
            picked = np.asarray(index.numpy())
            if picked.size and (np.abs(picked + 0.5) < len(whole) + 0.5).all():
                found = _numbers(tuple(whole[int(i)] for i in picked.ravel()))
                return None if found is None else found.reshape(picked.shape)
    return None


def _numbers(shape: tuple[Any, ...]) -> np.ndarray[Any, Any] | None:
    return np.asarray(shape, np.int64) if all(isinstance(d, int) for d in shape) else None


def _computed(node: ir.Node, graph: ir.Graph) -> list[np.ndarray[Any, Any]] | None:
    """The outputs of a node; None if an input is not constant, or is large."""
    if has_body(node) or not (node.inputs or node.op_type == "Constant"):
        return None
    constants = {}
    for x in node.inputs:
        if x is not None:
            tensor = x.const_value if x.is_initializer() and not x.is_graph_input() else None
            if tensor is None or tensor.size > _MAX_FOLDED or tensor.dtype == ir.DataType.STRING:
                return None
            constants[x.name or ""] = tensor.numpy()
    proto = ir.to_proto(node)
    from onnx.reference import ReferenceEvaluator  # 0.04 s, which a model without constants to fold does not need

    try:
        evaluator = ReferenceEvaluator(proto, opsets={"": graph.opset_imports.get("", 18)})
        results = [np.asarray(result) for result in evaluator.run(None, constants)]
    except Exception:  # the reference evaluator raises whatever NumPy raises
        return None
    types = [(output.dtype, ir.DataType.from_numpy(r.dtype)) for output, r in zip(node.outputs, results, strict=True)]
    return results if all(expected in (None, found) for expected, found in types) else None


def _take_known_branches(model: ir.Model) -> bool:
    """Replaces each If with a constant condition by its branch, in place; whether there were any."""
    graph, taken = model.graph, False
    for node in list(graph):
        condition = node.inputs[0].const_value if node.op_type == "If" and node.inputs[0] is not None else None
        if condition is None:
            continue
        chosen = node.attributes["then_branch" if bool(condition.numpy()) else "else_branch"].as_graph()
        results = list(chosen.outputs)
        names = {v.name for n in graph for v in n.outputs}
        inner = list(chosen)
        chosen.outputs.clear()
        chosen.remove(inner)
        for value in (v for n in inner for v in n.outputs):
            if value.name in names:
                value.name = f"{node.name}/{value.name}"
        graph.insert_before(node, inner)
        for old, new in zip(node.outputs, results, strict=True):
            if new.producer() not in inner:
                through = ir.node("Identity", [new])
                graph.insert_before(node, through)
                new = through.outputs[0]
            name, old.name = old.name, f"{old.name}/chosen"
            new.type, new.shape, new.name = new.type or old.type, new.shape or old.shape, name
            old.replace_all_uses_with(new, replace_graph_outputs=True)
        graph.remove(node, safe=True)
        taken = True
    return taken
