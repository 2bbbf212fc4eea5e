"""Edits of a model's own file: a few standard operators behind one tensor, and everything else as it was.

A direction v is scaled by a factor s as `a − (1 − s)((a·v) − m) v`, with m the reference set's mean along v, so that
what is taken out is replaced by what is usual without the concept. With the difference of means as v and s = 0, concept
and reference have one mean, and on those examples no linear classifier tells them apart better than a constant does
(LEACE; Belrose et al. 2023). A channel is multiplied by s.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnx.shape_inference
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from caveat_worker.engine.autodiff.by_example import own_rows, shape_by_example
from caveat_worker.engine.autodiff.channels import channels_of
from caveat_worker.engine.autodiff.differentiate import expose
from caveat_worker.engine.autodiff.model import USUAL, Model
from caveat_worker.engine.autodiff.noise import noises, runs
from caveat_worker.engine.base.arrays import Float64Array
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.onnx.prescan import all_nodes
from caveat_worker.engine.onnx.session import open_session

METADATA = "caveat.edits"
"""The key under which an edited file says what was done to it, one edit a line."""
OLDEST_OPSET = 7
"""From here on Mul, Add and Sub broadcast as NumPy does."""
TOLERANCE = 1e-3
"""How far the edited tensor may be from the formula, relative to the tensor's own spread."""
_HALF = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


@dataclass(frozen=True)
class ScaledDirections:
    """Directions of a layer that are scaled by a factor about their origins."""

    vectors: Float64Array
    """[k, channels] at every position alike, or [k, *shape] of the whole layer; made orthonormal when applied."""
    origins: Float64Array
    """[k] where the reference set lies along each of them."""
    factor: float

    def basis(self) -> tuple[Float64Array, Float64Array]:
        """Orthonormal directions [r, …] that span the same, and the origins along them [r]."""
        rows = self.vectors.reshape(len(self.vectors), -1)
        left, sizes, right = np.linalg.svd(rows, full_matrices=False)
        kept = sizes > sizes[0] * 1e-6
        origins: Float64Array = (left.T @ self.origins)[kept] / sizes[kept]
        return right[kept].reshape(-1, *self.vectors.shape[1:]), origins


@dataclass(frozen=True)
class ScaledChannels:
    """Channels of a layer that are multiplied by a factor."""

    channels: tuple[int, ...]
    factor: float


Edit: TypeAlias = ScaledDirections | ScaledChannels


def edited(
    proto: onnx.ModelProto, model: Model, tensor: str, edit: Edit, record: Mapping[str, Any]
) -> onnx.ModelProto | None:
    """The file's message with the edit behind a tensor, and `record` in its metadata; None where nothing changes.

    `model` is the same file, loaded. What reads the tensor reads the edited one, under the same name. Raises
    InvalidInput for tensors that no operator of the file's main graph gives, for quantised models, and for edits that
    do not fit the layer.
    """
    shape, rows = _shape(model, tensor), own_rows(model, tensor) or USUAL
    of_layer = channels_of(model, tensor, len(shape_by_example(model, tensor) or ()))
    channel = rows.order(len(shape))[of_layer - (rows.count > 1)]
    _check_fits(tensor, shape, edit, channel)
    if rows.count > 1 and isinstance(edit, ScaledDirections) and edit.vectors.ndim > 2:
        raise InvalidInput(
            "layer-not-editable",
            f"Layer '{tensor}' has several rows for each example, and the direction takes them together; the model "
            "computes them apart.",
            "Take a direction that all rows share: audit the layer with `reduce: mean`.",
        )
    opset = _check_file(proto, tensor)
    if edit.factor == 1:
        return None
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    graph = result.graph
    position, slot = _producer(graph, tensor)
    taken = {name for node in all_nodes(result) for name in (node.name, *node.input, *node.output)}
    taken |= {one.name for one in graph.initializer}
    before = _fresh(f"{tensor}/before_edit", taken)
    graph.node[position].output[slot] = before
    writer = _Writer(f"{tensor}/edit", opset, taken, _type_of(proto, tensor, model))
    writer.write(before, tensor, shape, edit, channel, rows.axis)
    for offset, node in enumerate(writer.nodes, 1):
        graph.node.insert(position + offset, node)
    graph.initializer.extend(writer.constants)
    _remember(result, record)
    return result


def check_edit(before: Model, after: Model, tensor: str, edit: Edit) -> float:
    """The largest difference between the edited tensor and the formula on noise, relative to the tensor's spread.

    Raises InvalidInput where the model does not run on noise, or where the difference is over `TOLERANCE`.
    """
    channel = channels_of(before, tensor, len(shape_by_example(before, tensor) or ()))
    sessions = [open_session(expose(one, [tensor]), threads=1, optimise=False) for one in (before, after)]
    feeds, found = next(runs(sessions[0], noises(before.ir)), (None, {}))
    if feeds is None:
        raise InvalidInput(
            "edit-not-checked",
            f"The model does not run on noise, so the edit of '{tensor}' could not be compared with its formula.",
            "Give the inputs that are numbers under `constants`, or export the model with fixed sizes.",
        )
    own, result = found[tensor].astype(np.float64), sessions[1].run(feeds)[tensor].astype(np.float64)
    residual = float(np.abs(result - applied(own, edit, channel)).max() / (own.std() or 1.0))
    if not residual <= TOLERANCE:
        raise InvalidInput(
            "edit-check-failed",
            f"The edited tensor '{tensor}' differs from its formula by {residual:.2g} of its spread.",
            "Nothing was written. Please report the model.",
        )
    return residual


def applied(activations: Float64Array, edit: Edit, channel: int) -> Float64Array:
    """What an edit makes of a layer's activations [n, …], whose axis `channel` is that of the channels."""
    if isinstance(edit, ScaledChannels):
        gains = _gains(edit, activations.shape, np.float64, channel)
        return np.asarray(activations * gains)
    for vector, origin in zip(*edit.basis(), strict=True):
        direction, axes = _placed(vector, activations.ndim, channel)
        along = (activations * direction).sum(axis=tuple(axes), keepdims=True)
        activations = activations - (1 - edit.factor) * (along - origin) * direction
    return activations


class _Writer:
    """Nodes and constants of one edit, in the layer's own type, or in float32 where that is half as wide."""

    def __init__(self, prefix: str, opset: int, taken: set[str], dtype: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._prefix, self._opset, self._taken, self._narrow = prefix, opset, taken, dtype if dtype in _HALF else None
        self._dtype: type = np.float64 if dtype == TensorProto.DOUBLE else np.float32

    def write(
        self, source: str, result: str, shape: Sequence[int | str | None], edit: Edit, channel: int, examples: int
    ) -> None:
        """Writes an edit from one tensor to another, by its axes of channels and of examples."""
        at = source if self._narrow is None else self._node("Cast", source, to=TensorProto.FLOAT)
        if isinstance(edit, ScaledChannels):
            at = self._node("Mul", at, self._constant(_gains(edit, shape, self._dtype, channel)))
        else:
            for vector, origin in zip(*edit.basis(), strict=True):
                at = self._scaled(at, *_placed(vector, len(shape), channel, examples), origin, edit.factor)
        if self._narrow is not None:
            at = self._node("Cast", at, to=self._narrow)
        self.nodes[-1].output[0] = result

    def _scaled(self, x: str, direction: Float64Array, axes: Sequence[int], origin: float, factor: float) -> str:
        """`x − (1 − s)((x·v) − m) v`, as five nodes."""
        product = self._node("Mul", x, self._constant(direction))
        if self._opset < 13:
            along = self._node("ReduceSum", product, axes=axes, keepdims=1)
        else:
            along = self._node("ReduceSum", product, self._constant(np.array(axes, np.int64)), keepdims=1)
        beyond = self._node("Sub", along, self._constant(np.asarray(origin)))
        return self._node("Sub", x, self._node("Mul", beyond, self._constant((1 - factor) * direction)))

    def _node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = _fresh(f"{self._prefix}/{kind}", self._taken)
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def _constant(self, array: NDArray[Any]) -> str:
        name = _fresh(f"{self._prefix}/constant", self._taken)
        values = array if array.dtype == np.int64 else array.astype(self._dtype)
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values).reshape(array.shape), name))
        return name


def _placed(vector: Float64Array, rank: int, channel: int, examples: int = 0) -> tuple[Float64Array, list[int]]:
    """A direction as it is multiplied with a batch, and the axes that its inner product sums over."""
    if vector.ndim == rank - 1 and (vector.ndim > 1 or rank == 2):
        return np.expand_dims(vector, examples), [axis for axis in range(rank) if axis != examples]
    return vector.reshape([-1 if axis == channel else 1 for axis in range(rank)]), [channel]


def _gains(edit: ScaledChannels, shape: Sequence[int | str | None], dtype: type, channel: int) -> NDArray[Any]:
    """The factor of each channel, as it is multiplied with a batch."""
    size = shape[channel]
    assert isinstance(size, int), "checked before"
    gains: NDArray[Any] = np.ones(size, dtype)
    gains[list(edit.channels)] = edit.factor
    return gains.reshape([-1 if axis == channel else 1 for axis in range(len(shape))])


def _shape(model: Model, tensor: str) -> tuple[int | str | None, ...]:
    value = model.value(tensor)
    assert value is not None, "checked before"
    return () if value.shape is None else tuple(one if isinstance(one, int) else None for one in value.shape)


def _check_fits(tensor: str, shape: Sequence[int | str | None], edit: Edit, channel: int) -> None:
    """Raises InvalidInput where an edit does not have the layer's sizes."""
    if len(shape) < 2:
        raise InvalidInput(
            "layer-not-editable",
            f"Layer '{tensor}' has no axis of channels, or its shape is not known.",
            "Name a layer of [examples, features] or with positions; `caveat layers` lists them.",
        )
    size = shape[channel]
    if isinstance(edit, ScaledDirections):
        return
    if not isinstance(size, int):
        raise InvalidInput(
            "layer-not-editable", f"The number of channels of '{tensor}' is not known.", "Export it with a fixed size."
        )
    if wrong := [one for one in edit.channels if not 0 <= one < size]:
        raise InvalidInput(
            "unknown-channel", f"Layer '{tensor}' has no channel {wrong[0]}.", f"Channels go from 0 to {size - 1}."
        )


def _check_file(proto: onnx.ModelProto, tensor: str) -> int:
    """The file's opset; raises InvalidInput for files that cannot be edited."""
    opset = max((one.version for one in proto.opset_import if one.domain in ("", "ai.onnx")), default=0)
    quantised = next((node for node in all_nodes(proto) if _is_quantised(node)), None)
    if quantised is not None:
        raise InvalidInput(
            "model-quantised",
            f"The model is quantised ({quantised.op_type} in node '{quantised.name or quantised.output[0]}'): "
            "operators in between would be computed without its rounding, and would no longer fit its scales.",
            "Edit the model before it is quantised, and quantise the edited one.",
        )
    if opset < OLDEST_OPSET:
        raise InvalidInput(
            "opset-too-old",
            f"The model's ai.onnx opset is {opset or 'not declared'}; an edit needs {OLDEST_OPSET} or later.",
            "Convert it with onnx.version_converter, or export it again.",
        )
    if tensor in {one.name for one in proto.graph.input}:
        raise InvalidInput(
            "layer-not-editable",
            f"'{tensor}' is an input of the model, which an edit leaves as it is.",
            "Name a layer behind it, or change what feeds it.",
        )
    if not any(tensor in node.output for node in proto.graph.node):
        raise InvalidInput(
            "layer-not-editable",
            f"No operator of the file's main graph gives '{tensor}': it is inside a function or a branch (If, Loop), "
            "or was written when the model was loaded.",
            "Name a layer in the main graph; the outputs of functions and of If itself are there.",
        )
    return opset


def _is_quantised(node: onnx.NodeProto) -> bool:
    return "Quantize" in node.op_type or node.op_type.startswith("QLinear") or node.op_type.endswith("Integer")


def _producer(graph: onnx.GraphProto, tensor: str) -> tuple[int, int]:
    """The position of the node that gives a tensor, and which of its outputs that is."""
    return next(
        (position, list(node.output).index(tensor)) for position, node in enumerate(graph.node) if tensor in node.output
    )


def _type_of(proto: onnx.ModelProto, tensor: str, model: Model) -> int:
    """The element type of a tensor in the file, which may be narrower than in the loaded model."""
    value = model.value(tensor)
    known = int(TensorProto.FLOAT if value is None or value.dtype is None else value.dtype)
    held = {one.data_type for one in proto.graph.initializer}
    if not held.intersection(_HALF) and not any(node.op_type == "Cast" for node in proto.graph.node):
        return known
    declared = onnx.shape_inference.infer_shapes(proto).graph
    found = [one for one in (*declared.value_info, *declared.output) if one.name == tensor]
    if found and found[0].type.tensor_type.elem_type:
        return int(found[0].type.tensor_type.elem_type)
    return known


def _fresh(stem: str, taken: set[str]) -> str:
    """A name that the graph does not have, which is taken from now on."""
    name = next(name for name in _numbered(stem) if name not in taken)
    taken.add(name)
    return name


def _numbered(stem: str) -> Iterator[str]:
    yield stem
    number = 1
    while True:
        yield f"{stem}_{number}"
        number += 1


def _remember(proto: onnx.ModelProto, record: Mapping[str, Any]) -> None:
    """Adds an edit to those that the file says were made."""
    entry = next((one for one in proto.metadata_props if one.key == METADATA), None)
    if entry is None:
        entry = proto.metadata_props.add(key=METADATA)
    entry.value = "\n".join(filter(None, [entry.value, json.dumps(dict(record), sort_keys=True)]))
