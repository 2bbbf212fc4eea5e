"""Checks a model's message before anything is built from it, because few bytes can expand without bound."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from math import prod

import onnx
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto

from caveat_worker.engine.base.errors import InvalidInput

MAX_NODES = 50_000
"""After functions are inlined; the largest networks that people export have about ten thousand."""
MAX_CALLS = 6_000
"""Of all functions: inlining is quadratic in calls that share a name, because it tries names from the first one on."""
MAX_COUNTED = 10**12
MAX_RANK = 32
MAX_INPUT_NUMBERS = 2**30
_KINDS = frozenset(TensorProto.DataType.values()) - {TensorProto.UNDEFINED}

FunctionKey = tuple[str, str, str]


def prescan(proto: onnx.ModelProto, *, bundled: bool) -> None:
    """Raises `InvalidInput` for graphs that expand without bound, malformed tensors, and data in other files.

    With `bundled` the numbers of dense tensors may be in other files.
    """
    _check_ends(proto.graph)
    functions = {(one.domain, one.name, one.overload): one for one in proto.functions}
    sizes: dict[FunctionKey, int] = {}
    for key in _callees_first(functions):
        sizes[key] = _size(functions[key].node, sizes)
    whole = _size(proto.graph.node, sizes)
    if whole > MAX_NODES:
        raise InvalidInput(
            "model-too-large",
            f"The model has {min(whole, MAX_COUNTED):,} operators or more once its functions are inlined; "
            f"{MAX_NODES:,} are allowed.",
            "Export it without decomposing operators, or audit a part of it.",
        )
    calls = _calls(proto.graph.node, functions, sizes)
    if calls > MAX_CALLS:
        raise InvalidInput(
            "model-too-large",
            f"The model calls its own functions {min(calls, MAX_COUNTED):,} times or more; {MAX_CALLS:,} are allowed.",
            "Export it with its functions inlined.",
        )
    for tensor in dense_tensors(proto):
        _check(tensor)
        if tensor.data_location == TensorProto.EXTERNAL:
            _check_external(tensor, bundled=bundled)
    for tensor in _sparse_tensors(proto):
        _check(tensor)
        if tensor.data_location == TensorProto.EXTERNAL:
            raise InvalidInput(
                "external-data",
                f"The numbers of the sparse tensor '{tensor.name}' are in another file.",
                "Save the model with its sparse tensors inside; dense weights may be in files beside it.",
            )


def _check_ends(graph: GraphProto) -> None:
    if not graph.output:
        raise InvalidInput(
            "no-outputs", "The model has no output.", "Export it with the tensor that it computes as its output."
        )
    for value in graph.input:
        sizes = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        if len(sizes) > MAX_RANK or prod(max(size, 1) for size in sizes) > MAX_INPUT_NUMBERS:
            raise InvalidInput(
                "input-too-large",
                f"The model's input '{value.name}' has over {MAX_RANK} dimensions or {MAX_INPUT_NUMBERS:,} numbers.",
                "Export the model for inputs that fit into memory.",
            )


def _callees_first(functions: dict[FunctionKey, onnx.FunctionProto]) -> list[FunctionKey]:
    """The functions, each after the functions that it calls; raises `InvalidInput` for recursion."""
    order: dict[FunctionKey, None] = {}
    open_calls: dict[FunctionKey, Iterator[FunctionKey]] = {}
    for start in functions:
        waiting = [start]
        while waiting:
            key = waiting[-1]
            if key in order:
                waiting.pop()
                continue
            calls = open_calls.setdefault(
                key, iter({_key(node) for node in _nodes(functions[key].node)} & functions.keys())
            )
            callee = next((one for one in calls if one not in order), None)
            if callee is None:
                order[key] = None
                waiting.pop()
            elif callee in waiting:
                raise InvalidInput(
                    "recursive-function",
                    f"The model's function '{callee[1]}' calls itself.",
                    "ONNX has no recursion: export the model with its loops written as Loop or Scan.",
                )
            else:
                waiting.append(callee)
    return list(order)


def _size(nodes: Iterable[NodeProto], sizes: dict[FunctionKey, int]) -> int:
    """The number of operators in these nodes after their functions are inlined."""
    return sum(sizes.get(_key(node), 1) for node in _nodes(nodes))


def _calls(
    nodes: Iterable[NodeProto],
    functions: Mapping[FunctionKey, onnx.FunctionProto],
    callees_first: Iterable[FunctionKey],
) -> int:
    """The number of calls of functions after their callers are inlined."""
    calls = Counter(_key(node) for node in _nodes(nodes))
    for caller in reversed([*callees_first]):
        for node in _nodes(functions[caller].node):
            calls[_key(node)] += calls[caller]
    return sum(calls[key] for key in functions)


def _key(node: NodeProto) -> FunctionKey:
    return node.domain, node.op_type, node.overload


def _nodes(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    """Yields these nodes and the nodes of their subgraphs."""
    for node in nodes:
        yield node
        for graph in _subgraphs(node):
            yield from _nodes(graph.node)


def _subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH or attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def dense_tensors(proto: onnx.ModelProto) -> Iterator[TensorProto]:
    """Yields every dense tensor of a model: initializers and attributes, those of subgraphs and functions included."""
    for graph in _graphs(proto):
        yield from graph.initializer
    for attribute in _attributes(proto):
        yield from attribute.tensors
        if attribute.HasField("t"):
            yield attribute.t


def _sparse_tensors(proto: onnx.ModelProto) -> Iterator[TensorProto]:
    """Yields the values and the indices of every sparse tensor."""
    found = [sparse for graph in _graphs(proto) for sparse in graph.sparse_initializer]
    for attribute in _attributes(proto):
        found += attribute.sparse_tensors
        found += [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
    for sparse in found:
        yield from (sparse.values, sparse.indices)


def _graphs(proto: onnx.ModelProto) -> Iterator[GraphProto]:
    """The main graph, and the subgraphs of all nodes."""
    yield proto.graph
    for node in all_nodes(proto):
        yield from _subgraphs(node)


def _attributes(proto: onnx.ModelProto) -> Iterator[AttributeProto]:
    for node in all_nodes(proto):
        yield from node.attribute


def all_nodes(proto: onnx.ModelProto) -> Iterator[NodeProto]:
    """The nodes of the main graph, of functions, and of their subgraphs."""
    for nodes in (proto.graph.node, *(function.node for function in proto.functions)):
        yield from _nodes(nodes)


def _check(tensor: TensorProto) -> None:
    if tensor.data_type not in _KINDS:
        raise _invalid(tensor, f"has the type {tensor.data_type}, which ONNX does not know")
    if len(tensor.dims) > MAX_RANK:
        raise _invalid(tensor, f"has {len(tensor.dims):,} dimensions; {MAX_RANK} are allowed")


def _check_external(tensor: TensorProto, *, bundled: bool) -> None:
    if not bundled:
        raise InvalidInput(
            "external-data",
            f"The numbers of '{tensor.name}' are in another file, which did not come with the model.",
            "Name the model by its path, so that `caveat` sends its data files too; over HTTP, upload a tar of the "
            "model (first, as model.onnx) and its data files. Or save the model as one file.",
        )
    if tensor.data_type == TensorProto.STRING or min(tensor.dims, default=0) < 0:
        raise _invalid(tensor, "is in another file and is of strings or of a negative size")


def _invalid(tensor: TensorProto, what: str) -> InvalidInput:
    return InvalidInput(
        "invalid-model",
        f"The model breaks a rule of ONNX: its tensor '{tensor.name}' {what}.",
        "Export it again, or check it with onnx.checker.check_model.",
    )
