"""Tensors that write ONNX nodes: the formula `g * (1 - y * y)` writes three nodes.

Constants stay NumPy arrays until a node needs them, so arithmetic on weights is done when the graph is built. A
`GraphBuilder` never writes the same node twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from caveat_worker.engine.onnx.stored_weights import Stored
from caveat_worker.engine.onnx.values import Dim, shape_of_value

Array: TypeAlias = NDArray[Any]
Operand: TypeAlias = "Tensor | Array | np.generic | float | Sequence[int] | None"

_SMALL = 256  # bytes: constants up to this size are shared by value, larger ones by identity


def _written(kind: str, *, reverse: bool = False) -> Callable[[Tensor, Operand], Tensor]:
    """A method that writes a node of two inputs; with `reverse` the tensor is the second."""

    def write(self: Tensor, other: Operand) -> Tensor:
        tensor: Tensor = getattr(op, kind)(*((other, self) if reverse else (self, other)))
        return tensor

    return write


class Tensor:
    """A value in a graph, or a constant that may become one."""

    __slots__ = ("_value", "active", "array", "builder")
    __array_ufunc__ = None  # NumPy leaves `array * tensor` to us

    def __init__(
        self, builder: GraphBuilder, value: ir.Value | None = None, array: Array | None = None, active: bool = False
    ) -> None:
        self.builder = builder
        self._value = value
        self.array = array
        self.active = active

    @property
    def value(self) -> ir.Value:
        """The value in the graph; a constant becomes an initializer at its first use."""
        if self._value is None:
            assert self.array is not None
            self._value = self.builder.initializer(self.array)
        return self._value

    @property
    def dtype(self) -> ir.DataType:
        """The element type; float32 if it is unknown."""
        if self.array is not None:
            return ir.DataType.from_numpy(self.array.dtype)
        return self.value.dtype or ir.DataType.FLOAT

    @property
    def shape(self) -> tuple[Dim, ...] | None:
        """The dimensions, each a number, a name or None; None if the rank is unknown."""
        if self.array is not None:
            return self.array.shape
        return shape_of_value(self.value)

    @property
    def rank(self) -> int:
        """The number of dimensions; raises `UnknownShape` if it is unknown."""
        if self.shape is None:
            raise UnknownShape(f"the rank of tensor '{self.value.name}' is not known")
        return len(self.shape)

    @property
    def sizes(self) -> tuple[int, ...] | None:
        """The shape if every dimension is a number, else None."""
        shape = self.shape
        if shape is None or not all(isinstance(d, int) for d in shape):
            return None
        return tuple(d for d in shape if isinstance(d, int))

    def sibling(self, index: int, dtype: ir.DataType) -> Tensor:
        """Another output of the same node, added to the node if the model leaves it out."""
        node = self.value.producer()
        assert node is not None
        if len(node.outputs) <= index:
            known = len(node.outputs)
            node.resize_outputs(index + 1)
            for unnamed in node.outputs[known:]:
                unnamed.name = ""
        other = node.outputs[index]
        other.dtype = other.dtype or dtype
        return Tensor(self.builder, other)

    def __mul__(self, other: Operand) -> Tensor:
        """The product; with a boolean tensor, `g * (x > 0)` is g where it is true and 0 elsewhere."""
        if isinstance(other, int) and other in (1, -1):
            return self if other == 1 else -self
        if isinstance(other, Tensor) and other.dtype == ir.DataType.BOOL:
            return op.Where(other, self, 0.0)
        if self.dtype == ir.DataType.BOOL and isinstance(other, Tensor):
            return op.Where(self, other, 0.0)
        return op.Mul(self, other)

    __rmul__ = _written("Mul", reverse=True)
    __add__, __radd__ = _written("Add"), _written("Add", reverse=True)
    __sub__, __rsub__ = _written("Sub"), _written("Sub", reverse=True)
    __truediv__, __rtruediv__ = _written("Div"), _written("Div", reverse=True)
    __pow__, __matmul__ = _written("Pow"), _written("MatMul")
    __gt__, __ge__, __lt__, __le__ = map(_written, ("Greater", "GreaterOrEqual", "Less", "LessOrEqual"))
    __and__ = _written("And")

    def __neg__(self) -> Tensor:
        return op.Neg(self)

    def __invert__(self) -> Tensor:
        return op.Not(self)


_STEEP = {
    "Acos", "Acosh", "Asin", "Atanh", "GlobalLpPool", "Log", "LpNormalization", "LpPool", "Pow", "Reciprocal",
    "ReduceL2", "ReduceLogSum", "Sqrt", "Tan",
}  # fmt: skip
"""Operators whose derivative can be infinite."""


def masked(g: Tensor, mask: Tensor) -> Tensor:
    """g where a mask is true and 0 elsewhere: a product, or a choice where g may be infinite, because 0 · ∞ is no 0.

    ONNX Runtime multiplies several times as fast as it chooses.
    """
    return g * mask if g.builder.steep else g * op.Cast(mask, to=int(g.dtype))


def ref(x: Tensor) -> Tensor:
    """x on the reference; x itself if it does not depend on the input. For inputs and outputs of operators only."""
    if x.array is not None or x.value not in x.builder.references:
        return x
    return Tensor(x.builder, x.builder.references[x.value])


class UnknownShape(Exception):  # noqa: N818
    """A rule needs a part of a tensor's shape that is unknown when the graph is built."""


class GraphBuilder:
    """Collects the nodes that rules write until they are added to a graph; constants enter the graph at once."""

    def __init__(self, graph: ir.Graph, prefix: str = "vjp", outer: GraphBuilder | None = None) -> None:
        self.graph = graph
        self.prefix = prefix
        self.nodes: list[ir.Node] = []
        self.opset = graph.opset_imports.get("", 18)
        self._outer = outer
        self._written: dict[tuple[Any, ...], tuple[Tensor, ...]] = {}
        self._taken: set[str] = outer._taken if outer else _names(graph)
        self._counter: list[int] = outer._counter if outer else [0]
        self._steep: bool | None = None
        self.references: Mapping[ir.Value, ir.Value] = outer.references if outer else {}
        """Tensor → the same tensor on a reference, where the graph is followed on one."""

    @property
    def steep(self) -> bool:
        """Whether the graph has an operator whose derivative can be infinite."""
        if self._steep is None:
            self._steep = any(map(_is_steep, self.graph.all_nodes()))
        return self._steep

    def fresh(self, stem: str) -> str:
        """A new name that is unique in the graph."""
        while True:
            name = f"{self.prefix}/{stem}_{self._counter[0]}"
            self._counter[0] += 1
            if name not in self._taken:
                self._taken.add(name)
                return name

    def rename(self, value: ir.Value, name: str) -> None:
        """Gives a name to a value that this builder has written, unless another one has it."""
        if (value.name or "").startswith(f"{self.prefix}/") and name not in self._taken:
            self._taken.add(name)
            value.name = name

    def body(self) -> GraphBuilder:
        """A builder for the body of a Scan, Loop or If in this graph; its constants stay in the main graph."""
        return GraphBuilder(self.graph, self.prefix, outer=self)

    def read(self, value: ir.Value | None, active: bool = False) -> Tensor | None:
        """The tensor of a graph's value, with its array if it is a constant; None for an absent input.

        Large matrices that are left in their file have no array, so that nothing is computed from them ahead.
        """
        if value is None:
            return None
        constant = value.const_value if value.is_initializer() and not value.is_graph_input() else None
        if isinstance(constant, Stored) and constant.settled:
            constant = None
        return Tensor(self, value, None if constant is None else constant.numpy(), active)

    def initializer(self, array: Array) -> ir.Value:
        """Adds an array to the main graph as an initializer."""
        name = self.fresh("constant")
        tensor = ir.Tensor(np.ascontiguousarray(array).reshape(array.shape), name=name)
        value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        self.graph.register_initializer(value)
        return value

    def constant(self, array: Any) -> Tensor:
        """An array as a tensor; it enters the graph when a node reads it."""
        return Tensor(self, array=np.asarray(array))

    def derived(self, source: Tensor, how: tuple[Any, ...], make: Callable[[], Array]) -> Tensor:
        """A constant that `make` computes from another one, once for each `how`."""
        key = ("derived", id(source.value), how)
        if key not in self._written:
            self._written[key] = (self.constant(make()),)
        return self._written[key][0]

    def write(
        self, kind: str, inputs: Sequence[Operand], attributes: dict[str, Any], outputs: int, domain: str
    ) -> tuple[Tensor, ...]:
        """Writes one node and returns its outputs; folds constants, and reuses an equal node that it wrote before."""
        tensors = self._lift(inputs)
        arrays = [t.array for t in tensors if t is not None and t.array is not None]
        if len(arrays) == len(tensors) and kind in FOLDS:
            return (self.constant(FOLDS[kind](*arrays, **attributes)),)
        key = (domain, kind, outputs, tuple(map(_identity, tensors)), repr(sorted(attributes.items())))
        if key not in self._written:
            values = [None if t is None else t.value for t in tensors]
            for value in values:
                if value is not None and not value.name:  # an optional output that the model leaves out
                    value.name = self.fresh("output")
            node = ir.Node(
                domain,
                kind,
                values,
                attributes=ir.convenience.convert_attributes(attributes),
                num_outputs=outputs,
                name=self.fresh(kind),
            )
            for index, output in enumerate(node.outputs):
                output.name = self.fresh(kind)
                output.dtype = _dtype(kind, tensors, attributes, index)
                shape = _shape(kind, tensors, attributes)
                output.shape = None if shape is None else ir.Shape(shape)
            self.nodes.append(node)
            self._written[key] = tuple(Tensor(self, output) for output in node.outputs)
        return self._written[key]

    def named(self, tensor: Tensor, name: str) -> ir.Value:
        """The tensor as a value of that name, through an Identity if it has to keep its own name."""
        value = tensor.value
        if value.producer() in self.nodes and (value.name or "").startswith(f"{self.prefix}/"):
            value.name = name
            return value
        output = ir.Value(name=name, shape=value.shape, type=value.type)
        self.nodes.append(ir.Node("", "Identity", [value], outputs=[output], name=self.fresh("Identity")))
        return output

    def owned(self, tensor: Tensor) -> ir.Value:
        """The tensor as the output of a node of this builder, as a body's outputs have to be."""
        if tensor._value is not None and tensor.value.producer() in self.nodes:
            return tensor.value
        return self.write("Identity", [tensor], {}, 1, "")[0].value

    def _lift(self, inputs: Sequence[Operand]) -> list[Tensor | None]:
        """Operands as tensors: numbers take the type of the first float tensor, lists of numbers become int64."""
        floats = [x for x in inputs if isinstance(x, Tensor) and x.dtype.is_floating_point()]
        like = next(iter(floats or [x for x in inputs if isinstance(x, Tensor)]), None)
        lifted: list[Tensor | None] = []
        for x in inputs:
            if x is None or isinstance(x, Tensor):
                lifted.append(x)
            elif isinstance(x, np.ndarray | np.generic):
                lifted.append(self.constant(x))
            elif isinstance(x, int | float):
                assert like is not None
                lifted.append(self.constant(np.asarray(x, like.dtype.numpy())))
            else:
                lifted.append(self.constant(np.asarray(x, np.int64)))
        return lifted


class _Operators:
    """`op.Relu(x)` writes a Relu; `ops.Split(x, outputs=n)` writes a Split and returns its n outputs."""

    def __getattr__(self, kind: str) -> Callable[..., Tensor]:
        def write(*inputs: Operand, domain: str = "", outputs: int | None = None, **attributes: Any) -> Any:
            builder = _innermost([x.builder for x in inputs if isinstance(x, Tensor)])
            given = {k: v for k, v in attributes.items() if v is not None}
            written = builder.write(kind, inputs, given, outputs or 1, domain)
            return written[0] if outputs is None else written

        return write


op = _Operators()
ops: Any = op


def _is_steep(node: ir.Node) -> bool:
    """Whether a derivative of the node can be infinite; that of a division by a constant is not."""
    varying = node.op_type == "Div" and (node.inputs[1] is None or not node.inputs[1].is_initializer())
    return varying or node.op_type in _STEEP


def _innermost(builders: list[GraphBuilder]) -> GraphBuilder:
    """The builder of the innermost body: a body also reads tensors from the graphs around it."""
    found = builders[0]
    for builder in builders[1:]:
        above = builder
        while above._outer is not None and above is not found:
            above = above._outer
        if above is found:
            found = builder
    return found


def _identity(tensor: Tensor | None) -> Any:
    if tensor is None:
        return None
    if tensor.array is not None and tensor.array.nbytes <= _SMALL:
        return tensor.array.dtype.str, tensor.array.shape, tensor.array.tobytes()
    return id(tensor.value)


def _names(graph: ir.Graph) -> set[str]:
    names = {value.name or "" for value in (*graph.inputs, *graph.initializers.values())}
    for node in graph.all_nodes():
        names.add(node.name or "")
        names.update(output.name or "" for output in node.outputs)
    return names


_BOOLEAN = {
    "And", "Equal", "Greater", "GreaterOrEqual", "IsInf", "IsNaN", "Less", "LessOrEqual", "Not", "Or", "Xor",
}  # fmt: skip
_INTEGER = {"Shape", "Size", "ArgMax", "ArgMin", "NonZero"}
_LIKE_SECOND, _LIKE_THIRD = {"Where", "CastLike", "DequantizeLinear"}, {"OneHot", "QuantizeLinear"}


def _dtype(kind: str, inputs: Sequence[Tensor | None], attributes: dict[str, Any], index: int) -> ir.DataType:
    if kind in _BOOLEAN:
        return ir.DataType.BOOL
    if kind in _INTEGER or (kind in {"TopK", "MaxPool"} and index == 1):
        return ir.DataType.INT64
    if kind in {"ConvInteger", "MatMulInteger"}:
        return ir.DataType.INT32
    if kind == "DynamicQuantizeLinear":
        return ir.DataType.FLOAT if index == 1 else ir.DataType.UINT8
    if kind == "Cast":
        return ir.DataType(attributes["to"])
    if kind == "ConstantOfShape":
        dtype: ir.DataType = attributes["value"].dtype
        return dtype
    if kind == "QuantizeLinear" and (len(inputs) < 3 or inputs[2] is None):
        return ir.DataType.UINT8
    like = inputs[2] if kind in _LIKE_THIRD else inputs[1] if kind in _LIKE_SECOND else inputs[0]
    return like.dtype if like is not None else ir.DataType.FLOAT


_SAME = {
    "Cast", "CumSum", "DequantizeLinear", "Exp", "Identity", "LogSoftmax", "Neg", "Not", "QuantizeLinear", "Sigmoid",
    "Softmax", "Softplus", "Tanh",
}  # fmt: skip
_BROADCAST = _BOOLEAN | {"Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "Sum", "Where"}


def _shape(kind: str, inputs: Sequence[Tensor | None], attributes: dict[str, Any]) -> tuple[Dim, ...] | None:
    """The shape of a node's output, for the operators whose output shape some rule reads; None if it is unknown."""
    shapes = [None if x is None else x.shape for x in inputs]
    first = shapes[0] if shapes else None
    if first is None:
        return None
    if kind in _SAME:
        return first
    if kind in _BROADCAST:
        full = max((s for s in shapes if s is not None), key=len)
        ends = [zip(s[::-1], full[::-1], strict=False) if s is not None else [(None, 1)] for s in shapes]
        fits = all(d in (1, f) for pairs in ends for d, f in pairs)
        return full if fits and None not in full else None
    if kind == "Transpose":
        return tuple(first[axis] for axis in attributes["perm"])
    if kind == "MatMul" and shapes[1] is not None and len(first) == len(shapes[1]) > 1:
        return (
            *(a if b == 1 else b for a, b in zip(first[:-2], shapes[1][:-2], strict=True)),
            first[-2],
            shapes[1][-1],
        )
    numbers = inputs[1].array if len(inputs) > 1 and inputs[1] is not None else None
    if kind == "Gather" and numbers is not None and numbers.ndim == 0:
        axis = attributes.get("axis", 0) % len(first)
        return first[:axis] + first[axis + 1 :]
    if numbers is None or numbers.ndim != 1:
        return None
    if kind == "Unsqueeze":
        rank = len(first) + len(numbers)
        ones = {int(axis) % rank for axis in numbers}
        rest = iter(first)
        return tuple(1 if axis in ones else next(rest) for axis in range(rank))
    if kind == "Squeeze":
        removed = {int(axis) % len(first) for axis in numbers}
        return tuple(d for axis, d in enumerate(first) if axis not in removed)
    if kind == "Reshape":
        return tuple(int(n) if n > 0 else None for n in numbers)
    return None


def _divide(a: Array, b: Array) -> Array:
    quotient: Array = a / b if np.issubdtype(a.dtype, np.inexact) else a // b
    return quotient


FOLDS: dict[str, Callable[..., Array]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": _divide,
    "Max": np.maximum,
    "Min": np.minimum,
    "Neg": np.negative,
    "Sqrt": np.sqrt,
    "Equal": np.equal,
    "Less": np.less,
    "Not": np.logical_not,
    "Cast": lambda x, to: x.astype(ir.DataType(to).numpy()),
    "Concat": lambda *xs, axis: np.concatenate(xs, axis),
    "Gather": lambda x, indices, axis=0: np.take(x, indices, axis),
    "ReduceProd": lambda x, axes=None, keepdims=1: np.prod(
        x, axis=None if axes is None else tuple(axes), keepdims=bool(keepdims), dtype=x.dtype
    ),
    "Reshape": lambda x, shape: x.reshape(shape),
    "Squeeze": lambda x, axes: x.squeeze(tuple(axes)),
    "Transpose": lambda x, perm: x.transpose(perm),
    "Unsqueeze": lambda x, axes: np.expand_dims(x, tuple(axes)),
    "Where": np.where,
}
