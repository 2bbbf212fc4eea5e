"""Receptive fields: which part of the input one place of a layer can see, by the windows of the operators between.

Windows are composed from the input upwards (Araujo et al. 2019, eq. 2): behind a window of k places with a stride of s,
place i sees from step·(s·i - pad) + first to step·(s·i - pad + k - 1) + last. An operator that mixes places otherwise,
such as attention or a mean over positions, sees all of the axis.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil

import onnx_ir as ir

from caveat_worker.engine.autodiff.by_example import own_rows, shape_by_example
from caveat_worker.engine.autodiff.model import USUAL, Model
from caveat_worker.engine.onnx.values import shape_of_value


@dataclass(frozen=True)
class Sees:
    """The places of one axis of the input that place i of a tensor's axis sees: step·i + first to step·i + last."""

    axis: int
    step: int = 1
    first: int = 0
    last: int = 0

    def of(self, place: int, size: int) -> tuple[int, int]:
        """The first and the last place that it sees of an axis of so many."""
        return max(self.step * place + self.first, 0), min(self.step * place + self.last, size - 1)

    @property
    def width(self) -> int:
        """How many places it sees, those beyond the edge included."""
        return self.last - self.first + 1


Axes = tuple[Sees | None, ...]
"""For each axis of a tensor what it sees; None where that is everything."""

_WINDOWS = {
    "AveragePool", "Conv", "ConvInteger", "LpPool", "MaxPool", "QLinearAveragePool", "QLinearConv",
}  # fmt: skip
_IN_PLACE = {
    "Abs", "Add", "BatchNormalization", "Cast", "Celu", "Clip", "DequantizeLinear", "Div", "Dropout", "Elu", "Erf",
    "Exp", "Gelu", "HardSigmoid", "HardSwish", "Identity", "LRN", "LeakyRelu", "Log", "Max", "Mean", "Min", "Mish",
    "Mul", "Neg", "PRelu", "Pow", "QuantizeLinear", "Reciprocal", "Relu", "Selu", "Sigmoid", "Softplus", "Softsign",
    "Sqrt", "Sub", "Sum", "Swish", "Tanh", "ThresholdedRelu", "Where",
}  # fmt: skip
"""Operators of which each place sees its own place only; batch and local response normalisation mix channels alone."""


def receptive_field(model: Model, tensor: str, at: str) -> Axes:
    """What each axis of a tensor sees of the tensor `at`, such as an input; all of it where nothing leads there."""
    start, end = model.value(at), model.value(tensor)
    if start is None or end is None:
        return ()
    if own_rows(model, tensor) not in (USUAL, None):  # what each of an example's rows sees is not looked into
        return (None,) * len(shape_by_example(model, tensor) or ())
    seen: dict[ir.Value, Axes] = {start: tuple(Sees(axis) for axis in range(len(shape_of_value(start) or ())))}
    for node in model.ir.graph:
        if end in seen:
            break
        if any(value in seen for value in node.inputs if value is not None):
            for output in node.outputs:
                seen[output] = _behind(node, output, seen)
    return seen.get(end, (None,) * len(shape_of_value(end) or ()))


def _behind(node: ir.Node, output: ir.Value, seen: dict[ir.Value, Axes]) -> Axes:
    """What an output of a node sees."""
    rank = len(shape_of_value(output) or ())
    everything: Axes = (None,) * rank
    first = node.inputs[0] if node.inputs else None
    own = None if first is None else seen.get(first)
    if node.op_type in _IN_PLACE or node.op_type == "Concat":
        joined = _together([seen[value] for value in node.inputs if value is not None and value in seen], rank)
        along = node.attributes["axis"].as_int() % rank if node.op_type == "Concat" else None
        return tuple(None if axis == along else sees for axis, sees in enumerate(joined))
    if own is None or first is None:
        return everything
    if node.op_type in _WINDOWS:
        return _windowed(node, own, shape_of_value(first) or ())
    if node.op_type == "Transpose":
        given = node.attributes.get("perm")
        order = tuple(given.as_ints()) if given is not None else tuple(reversed(range(rank)))
        return tuple(own[axis] for axis in order)
    if node.op_type == "Pad":
        return _padded(node, own)
    if node.op_type in ("MatMul", "LayerNormalization") and len(own) == rank:
        constant = node.op_type != "MatMul" or node.inputs[1] not in seen
        return (*own[:-1], None) if constant else everything
    return everything


def _together(several: Sequence[Axes], rank: int) -> Axes:
    """What a result sees whose inputs see this, their axes aligned at the last one."""
    return tuple(
        _either([each[axis - rank + len(each)] for each in several if axis - rank + len(each) >= 0])
        for axis in range(rank)
    )


def _either(parts: Sequence[Sees | None]) -> Sees | None:
    """What sees as much as all of these; None where one sees everything or they move on by other steps."""
    known = [one for one in parts if one is not None]
    if len(known) < len(parts) or not known or len({(one.axis, one.step) for one in known}) > 1:
        return None
    return Sees(known[0].axis, known[0].step, min(one.first for one in known), max(one.last for one in known))


def _windowed(node: ir.Node, own: Axes, shape: Sequence[int | str | None]) -> Axes:
    """What a convolution or a pool sees: windows on the axes behind the channels', and every channel."""
    moved = [
        None if sees is None else Sees(sees.axis, sees.step * stride, sees.first - sees.step * pad, last)
        for sees, (stride, pad, reach) in zip(own[2:], _windows(node, shape), strict=True)
        for last in [0 if sees is None else sees.last + sees.step * (reach - pad)]
    ]
    pools = node.op_type not in ("Conv", "ConvInteger", "QLinearConv")
    return (own[0], own[1] if pools else None, *moved)


def _windows(node: ir.Node, shape: Sequence[int | str | None]) -> Iterator[tuple[int, int, int]]:
    """For each axis with windows: from one to the next, how far the first begins before the axis, and how far one
    reaches."""
    weight = 3 if node.op_type == "QLinearConv" else 1
    given = node.attributes.get("kernel_shape")
    kernel = list(given.as_ints()) if given is not None else list((shape_of_value(node.inputs[weight]) or ())[2:])  # type: ignore[arg-type]
    count = len(kernel)
    strides, dilations = (_numbers(node, name, [1] * count) for name in ("strides", "dilations"))
    pads, automatic = _numbers(node, "pads", [0] * 2 * count), node.attributes.get("auto_pad")
    way = "NOTSET" if automatic is None else automatic.as_string()
    for axis, size in enumerate(shape[2:]):
        stride, reach, pad = strides[axis], (int(kernel[axis]) - 1) * dilations[axis], pads[axis]  # type: ignore[arg-type]
        if way.startswith("SAME") and isinstance(size, int):
            whole = max((ceil(size / stride) - 1) * stride + reach + 1 - size, 0)
            pad = whole // 2 if way == "SAME_UPPER" else whole - whole // 2
        yield stride, pad, reach


def _numbers(node: ir.Node, name: str, default: list[int]) -> list[int]:
    given = node.attributes.get(name)
    return default if given is None else list(given.as_ints())


def _padded(node: ir.Node, own: Axes) -> Axes:
    """What padding sees: the same places, further on; everything where it is not a constant."""
    pads = node.inputs[1].const_value if len(node.inputs) > 1 and node.inputs[1] is not None else None
    if pads is None or (len(node.inputs) > 3 and node.inputs[3] is not None):
        return (None,) * len(own)
    before = pads.numpy().reshape(2, -1)[0].tolist()
    return tuple(
        None if sees is None else Sees(sees.axis, sees.step, sees.first - sees.step * pad, sees.last - sees.step * pad)
        for sees, pad in zip(own, before, strict=True)
    )
