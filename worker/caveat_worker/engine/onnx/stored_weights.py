"""Large matrices that the runtime reads where the model's file has them, mapped and never copied.

A session takes them as feeds. As initializers it would copy them, pack the copies, and fold what is computed from them
into further copies. Those of half precision stay so in memory, and become float32 one at a time, for the product that
reads them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from caveat_worker.engine.onnx.values import HALF_PRECISION

LEAST = 1 << 20
"""Bytes of float32 from which on a matrix is left where it is."""
LEAST_TOGETHER = 256 << 20
"""Bytes of float32 that such matrices of a model have to have together."""
_KINDS = (ir.DataType.FLOAT, *HALF_PRECISION)
_READERS = {"Gather": (0,), "Gemm": (0, 1), "MatMul": (0, 1), "Transpose": (0,)}
"""Operator → its inputs at which a matrix may be a feed: what is known of a constant makes these no faster."""


class Stored(ir.LazyTensor):
    """A weight over an array of the file, as it is or as float32 in place of half precision, which `numpy()` copies."""

    def __init__(self, tensor: ir.TensorProtocol, name: str | None, dtype: ir.DataType) -> None:
        """Takes the tensor as the file has it, and the type that it has in the graph."""
        self.array: NDArray[Any] = tensor.numpy()
        self.kind = tensor.dtype
        self.settled = False  # until it is known that products and lookups alone read it
        super().__init__(lambda: _as_seen(self, name), dtype, ir.Shape(self.array.shape), name=name)

    @property
    def half(self) -> bool:
        """Whether what reads it needs float32 instead."""
        return self.kind != self.dtype


def _as_seen(weight: Stored, name: str | None) -> ir.TensorProtocol:
    seen = weight.array.astype(np.float32) if weight.half else weight.array
    return ir.Tensor(seen, dtype=weight.dtype, name=name)


def keep_halves(values: Iterable[ir.Value]) -> bool:
    """Makes large weights of half precision `Stored` float32, in place, where they are large together; whether any."""
    halves = [one for one in values if one.const_value is not None and one.const_value.dtype in HALF_PRECISION]
    return _store(_large(halves), ir.DataType.FLOAT)


def keep(model: ir.Model) -> None:
    """Makes large matrices `Stored` as they are, in place, where they are large together."""
    _store(_large(one for one in model.graph.initializers.values() if _read_as_a_matrix(one, model.graph)))
    settle(model)


def settle(model: ir.Model) -> None:
    """Leaves `Stored`, in place, what products and lookups alone read; every other weight becomes an array."""
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, Stored):
            tensor.settled = _read_as_a_matrix(value, model.graph)
            value.const_value = tensor if tensor.settled else ir.Tensor(tensor.numpy(), name=value.name)


def _large(values: Iterable[ir.Value]) -> list[ir.Value]:
    """Those of them that are large matrices, if they are large together."""
    large = [one for one in values if _bytes(one) >= LEAST]
    return large if sum(map(_bytes, large)) >= LEAST_TOGETHER else []


def _bytes(value: ir.Value) -> int:
    """The bytes that a matrix of floats has as float32; 0 for anything else."""
    tensor = value.const_value
    known = tensor is not None and tensor.dtype in _KINDS and len(tensor.shape) > 1
    return 4 * tensor.size if known and tensor is not None else 0


def _store(values: Iterable[ir.Value], dtype: ir.DataType | None = None) -> bool:
    fresh = [(one, one.const_value) for one in values if not isinstance(one.const_value, Stored)]
    for value, tensor in fresh:
        assert tensor is not None
        seen = tensor.dtype if dtype is None else dtype
        value.dtype, value.const_value = seen, Stored(tensor, value.name, seen)
    return bool(fresh)


def _read_as_a_matrix(value: ir.Value, graph: ir.Graph) -> bool:
    return not (value.is_graph_input() or value.is_graph_output()) and all(
        use.node.graph is graph and use.idx in _READERS.get("" if use.node.domain else use.node.op_type, ())
        for use in value.uses()
    )


def stored(graph: ir.Graph) -> dict[str, Stored]:
    """The weights of a graph that its session takes as feeds, by name; a branch or a body cannot read such."""
    return {
        name: value.const_value
        for name, value in graph.initializers.items()
        if isinstance(value.const_value, Stored) and _read_as_a_matrix(value, graph)
    }


def as_feeds(graph: onnx.GraphProto, weights: Mapping[str, Stored]) -> None:
    """Makes these weights, which the message of a graph lacks, inputs of it, in place.

    What reads one of half precision reads float32 instead, made when its other input is known: a runtime would
    otherwise widen all of them first, as nothing has to be computed before.
    """
    for name, tensor in weights.items():
        graph.input.append(helper.make_tensor_value_info(name, int(tensor.kind), tensor.array.shape))
    halves = {name: tensor for name, tensor in weights.items() if tensor.half}
    turned = {node.output[0]: node for node in graph.node if node.op_type == "Transpose" and node.input[0] in halves}
    nodes = [one for node in graph.node if node.output[0] not in turned for one in _widened(node, halves, turned)]
    del graph.node[:]
    graph.node.extend(nodes)


def _widened(node: NodeProto, halves: Mapping[str, Stored], turned: Mapping[str, NodeProto]) -> Iterator[NodeProto]:
    """The node as it reads float32, after those that make it; each reader turns a `turned` weight itself."""
    if node.op_type == "Gather" and node.input[0] in halves:
        result, node.output[0] = node.output[0], f"{_OURS}/{node.output[0]}/half"
        yield from (node, helper.make_node("Cast", [node.output[0]], [result], to=TensorProto.FLOAT))
        return
    for position, weight in enumerate(node.input):
        turn = turned.get(weight)
        read = weight if turn is None else turn.input[0]
        if read not in halves:
            continue
        name = f"{_OURS}/{node.output[0]}/{position}"
        beside = next((one for one in node.input if one and one != weight), None)
        if beside is not None:
            yield from _when_known(beside, read, halves[read].array.ndim, name)
            read = f"{name}/late"
        yield helper.make_node("Cast", [read], [f"{name}/float"], to=TensorProto.FLOAT)
        node.input[position] = f"{name}/float"
        if turn is not None:
            own = helper.make_node("Transpose", [f"{name}/float"], [f"{name}/turned"])
            own.attribute.extend(turn.attribute)
            yield own
            node.input[position] = f"{name}/turned"
    yield node


def _when_known(beside: str, weight: str, rank: int, name: str) -> Iterator[NodeProto]:
    """A weight that waits for another tensor: a Reshape, which moves no bytes, to zeros, which change no size.

    The zeros are made of that tensor's first number, whatever it is.
    """
    for constant, numbers in (("flat", [-1]), ("first", [0] * rank), ("zero", [0])):
        values = numpy_helper.from_array(np.array(numbers, np.int64))
        yield helper.make_node("Constant", [], [f"{name}/{constant}"], value=values)
    yield helper.make_node("Reshape", [beside, f"{name}/flat"], [f"{name}/numbers"])
    yield helper.make_node("Gather", [f"{name}/numbers", f"{name}/first"], [f"{name}/number"])
    yield helper.make_node("Cast", [f"{name}/number"], [f"{name}/whole"], to=TensorProto.INT64)
    yield helper.make_node("Mul", [f"{name}/whole", f"{name}/zero"], [f"{name}/same"])
    yield helper.make_node("Reshape", [weight, f"{name}/same"], [f"{name}/late"])


_OURS = "caveat"
"""What names of our own begin with."""
