"""Outputs in the form that audits read: tensors with a row for each example, and not maps, sequences or other axes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import onnx
from onnx import NodeProto, TensorProto, ValueInfoProto, helper

AS_WRITTEN = "/as_written"
"""What the name of an output's tensor ends in, before its axes are moved."""

SOFTMAX_ALONG_ONE_AXIS = 13
"""The opset since which a softmax does not flatten the axes behind its own."""
_SQUASH = {"LogSoftmax", "Sigmoid", "Softmax"}
"""Operators that are transposed at their input, so that the scores before them can be found."""


def unwrap_outputs(proto: onnx.ModelProto) -> list[str]:
    """Makes every output a tensor with the batch as its first axis, in place, as far as the message tells.

    A ZipMap becomes an Identity, which leaves a tensor in place of dictionaries; a sequence that is constructed from
    tensors becomes those; an output that has the inputs' batch as another axis is transposed. Returns a sentence for
    each of the last.
    """
    _drop_maps(proto.graph)
    _open_sequences(proto.graph)
    return _move_batches(proto)


def _drop_maps(graph: onnx.GraphProto) -> None:
    maps = {node.output[0] for node in graph.node if node.op_type == "ZipMap"}
    for node in graph.node:
        if node.op_type == "ZipMap":
            node.op_type, node.domain = "Identity", ""
            del node.attribute[:]
    for output in graph.output:
        if output.name in maps:
            held = output.type.sequence_type.elem_type.map_type.value_type.tensor_type.elem_type
            output.type.CopyFrom(_tensor(held))


def _open_sequences(graph: onnx.GraphProto) -> None:
    made = {node.output[0]: node for node in graph.node if node.op_type == "SequenceConstruct"}
    if not any(output.name in made for output in graph.output):
        return
    outputs = [one for output in graph.output for one in _opened(output, made.get(output.name))]
    del graph.output[:]
    graph.output.extend({one.name: one for one in outputs}.values())


def _opened(output: ValueInfoProto, made: NodeProto | None) -> Iterator[ValueInfoProto]:
    if made is None:
        yield output
        return
    held = output.type.sequence_type.elem_type.tensor_type.elem_type
    yield from (ValueInfoProto(name=name, type=_tensor(held)) for name in made.input)


def _tensor(kind: int) -> onnx.TypeProto:
    return helper.make_tensor_type_proto(kind or TensorProto.FLOAT, None)


def _move_batches(proto: onnx.ModelProto) -> list[str]:
    """Transposes the outputs that name the batch of the inputs at another axis than the first."""
    graph = proto.graph
    weights = {one.name for one in graph.initializer}
    batches = {_names(value)[0] for value in graph.input if value.name not in weights and _names(value)}
    if len(batches) != 1 or not (batch := batches.pop()):
        return []
    sentences = []
    for output in graph.output:
        names = _names(output)
        if names.count(batch) == 1 and names[0] != batch:
            _move(proto, output, names.index(batch))
            sentences.append(f"Output '{output.name}' has examples along axis {names.index(batch)}; it is transposed.")
    return sentences


def _move(proto: onnx.ModelProto, output: ValueInfoProto, axis: int) -> None:
    """Makes an axis of an output its first one; the output keeps its name, and its tensor gets another."""
    graph, name, before = proto.graph, output.name, f"{output.name}{AS_WRITTEN}"
    maker = next((node for node in graph.node if name in node.output), None)
    _rename(graph, name, before)
    sizes = list(output.type.tensor_type.shape.dim)
    order = [axis, *(i for i in range(len(sizes)) if i != axis)]
    if maker is not None and maker.op_type in _SQUASH and _opset(proto) >= SOFTMAX_ALONG_ONE_AXIS:
        scores = f"{name}/scores"
        graph.node.append(helper.make_node("Transpose", [maker.input[0]], [scores], name=f"{scores}_first", perm=order))
        along = next((one.i for one in maker.attribute if one.name == "axis"), -1) % len(sizes)
        axes: dict[str, Any] = {} if maker.op_type == "Sigmoid" else {"axis": order.index(along)}
        graph.node.append(helper.make_node(maker.op_type, [scores], [name], name=f"{name}/batch_first", **axes))
    else:
        graph.node.append(helper.make_node("Transpose", [before], [name], name=f"{name}/batch_first", perm=order))
    del output.type.tensor_type.shape.dim[:]
    output.type.tensor_type.shape.dim.extend(sizes[i] for i in order)


def _rename(graph: onnx.GraphProto, name: str, other: str) -> None:
    """Gives a tensor another name wherever nodes make or read it, also in the bodies of If, Loop and Scan."""
    for node in graph.node:
        for names in (node.input, node.output):
            for position in (i for i, one in enumerate(names) if one == name):
                names[position] = other
        for body in (body for one in node.attribute for body in ([one.g] if one.HasField("g") else one.graphs)):
            _rename(body, name, other)
            for output in (one for one in body.output if one.name == name):
                output.name = other


def _opset(proto: onnx.ModelProto) -> int:
    return max((one.version for one in proto.opset_import if one.domain in ("", "ai.onnx")), default=1)


def _names(value: ValueInfoProto) -> Sequence[str]:
    """The names of a tensor's axes, empty for those that have a number."""
    return [size.dim_param for size in value.type.tensor_type.shape.dim]
