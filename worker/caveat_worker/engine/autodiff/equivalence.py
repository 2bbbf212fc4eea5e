"""Compares runs on seeded noise: a rewritten model with its file, and an example among other neighbours in a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import ArrayLike, NDArray

from caveat_worker.engine.autodiff.model import DRAWS, OLDEST_OPSET
from caveat_worker.engine.autodiff.noise import QUANTISED, UNUSUAL_BATCH, by_rounding, noise_for, noises, runs
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.onnx.graph import Graph
from caveat_worker.engine.onnx.session import Session, open_session
from caveat_worker.engine.onnx.values import HALF_PRECISION, constant_of

_PLATT = 6e-3
"""How near to a sigmoid the runtime's search for the probabilities of an SVM's classes ends: it stops at 5e-3."""


def is_as_written(original: ir.Model, model: ir.Model) -> bool:
    """Whether a rewritten model is the graph of its file: the same operators over the same tensors and weights.

    What the two compute is then one and the same. Models with subgraphs or functions are not looked into.
    """
    if original.functions or len(original.graph) != len(model.graph):
        return False
    outputs = [[value.name for value in one.graph.outputs] for one in (original, model)]
    if _fed(original) != _fed(model) or outputs[0] != outputs[1]:
        return False
    if not all(map(_same_node, original.graph, model.graph)):
        return False
    domains = {node.domain for node in model.graph}
    if any(original.graph.opset_imports.get(one) != model.graph.opset_imports.get(one) for one in domains):
        return False
    read = {value.name for node in model.graph for value in node.inputs if value is not None and value.is_initializer()}
    read |= {value.name for value in model.graph.outputs if value.is_initializer()}
    return all(_same_tensor(_weight(original, name), _weight(model, name)) for name in read if name is not None)


def _fed(model: ir.Model) -> list[tuple[str | None, ir.DataType | None]]:
    """The inputs that are no weights."""
    return [(value.name, value.dtype) for value in model.graph.inputs if not value.is_initializer()]


def _weight(model: ir.Model, name: str) -> ir.TensorProtocol | None:
    value = model.graph.initializers.get(name)
    return None if value is None else value.const_value


def _same_node(one: ir.Node, other: ir.Node) -> bool:
    names = [
        [None if value is None else value.name for value in (*node.inputs, *node.outputs)] for node in (one, other)
    ]
    kinds = [(node.domain, node.op_type, node.overload, len(node.inputs)) for node in (one, other)]
    if names[0] != names[1] or kinds[0] != kinds[1] or one.attributes.keys() != other.attributes.keys():
        return False
    return all(_same_attribute(attribute, other.attributes[name]) for name, attribute in one.attributes.items())


def _same_attribute(one: ir.Attr, other: ir.Attr) -> bool:
    if one.type != other.type or one.is_ref() or other.is_ref():
        return False
    if one.type == ir.AttributeType.TENSOR:
        return _same_tensor(one.as_tensor(), other.as_tensor())
    return one.type in _PLAIN and bool(one.value == other.value)


_PLAIN = {
    ir.AttributeType.FLOAT, ir.AttributeType.FLOATS, ir.AttributeType.INT, ir.AttributeType.INTS,
    ir.AttributeType.STRING, ir.AttributeType.STRINGS,
}  # fmt: skip


_PART = 1 << 22
"""Bytes that are compared at a time: a comparison makes as many of its own."""


def _same_tensor(one: ir.TensorProtocol | None, other: ir.TensorProtocol | None) -> bool:
    """Whether two tensors are equal to the last bit."""
    if one is None or other is None or one.dtype != other.dtype:
        return False
    here, there = (np.ascontiguousarray(each.numpy()) for each in (one, other))
    if here.shape != there.shape or here.dtype != there.dtype:
        return False
    if here.dtype == object:
        return bool(here.tolist() == there.tolist())
    if here.ctypes.data == there.ctypes.data:  # both are mapped from one file
        return True
    ours, theirs = (each.reshape(-1).view(np.uint8) for each in (here, there))
    parts = (slice(start, start + _PART) for start in range(0, len(ours), _PART))
    return all(np.array_equal(ours[part], theirs[part]) for part in parts)


def compare_with_file(
    original: ir.Model,
    before: Session,
    model: ir.Model,
    after: Session,
    constants: Mapping[str, float],
    empty: Mapping[str, int],
    *,
    rounded: bool = False,
) -> None:
    """Runs a model as its file has it and as it was rewritten; raises `InvalidInput` if their outputs differ.

    `constants` are the numbers of inputs that the rewritten model no longer has, and `empty` the axis of some of them
    along which there is none. A model that runs on no noise is not compared. Outputs of one that is `rounded` to
    integers may differ by some of those.
    """

    def of_file(name: str, x: NDArray[Any]) -> NDArray[Any]:
        whole = np.full_like(x, constants[name]) if name in constants else x
        return np.take(whole, np.arange(0), axis=empty[name]) if name in empty else whole

    feeds_of_file = ({name: of_file(name, x) for name, x in feeds.items()} for feeds in noises(original))
    first = next(runs(before, feeds_of_file), None)
    if first is None:
        return
    feeds, expected = first
    types = {v.name or "": v.dtype.numpy() for v in model.graph.inputs if v.dtype is not None}
    searched = any(node.op_type == "SVMClassifier" and "prob_a" in node.attributes for node in original.graph)
    half = any(v.dtype in HALF_PRECISION for v in (*original.graph.inputs, *original.graph.initializers.values()))
    feeds = {name: feeds[name].astype(kind) for name, kind in types.items()}
    outputs = after.run(feeds)
    for name, value in outputs.items():
        if isinstance(value, np.ndarray) and not half and not _agree([expected[name]], value, rounded, searched):
            drawn = draws_at(original)
            if drawn is not None:
                raise InvalidInput(
                    "conversion-changed-the-model",
                    f"The model draws random numbers at node {drawn}, so that no two runs of it agree.",
                    "Export it as it is served: for torch, after `model.eval()`.",
                )
            raise InvalidInput(
                "conversion-changed-the-model",
                f"After conversion to opset {OLDEST_OPSET} and to operators that have rules, the model's output "
                f"'{name}' is different.",
                f"Export it with opset_version={OLDEST_OPSET} or later.",
            )


def draws_at(model: ir.Model) -> str | None:
    """The first node that draws random numbers, as dropout does in training mode; None without one."""
    return next((named(node) for node in model.graph.all_nodes() if node.op_type in DRAWS or drops(node)), None)


def named(node: ir.Node) -> str:
    """A node as a sentence names it."""
    return f"'{node.name or node.op_type}' ({node.op_type})"


def drops(node: ir.Node) -> bool:
    """Whether a node is dropout in training mode, or may be."""
    if node.op_type != "Dropout" or len(node.inputs) < 3 or node.inputs[2] is None:
        return False
    given = node.inputs[2]
    known = constant_of(given) if given.const_value is None else given.const_value.numpy()  # also as a default
    return known is None or bool(known.any())


def examples_interact(model: ir.Model, session: Session) -> bool:
    """Whether an example gets other scores if its neighbours in a batch of noise are exchanged.

    Batches of one size are compared, so that no other kernel is at work. Only outputs of numbers with one row for each
    example count, and only changes beyond rounding.
    """
    tolerance = by_rounding(model)
    for feeds, outputs in runs(session, noises(model, batch=UNUSUAL_BATCH, seed=3)):
        for _, exchanged in runs(session, [{name: _with_other_neighbours(values) for name, values in feeds.items()}]):
            return any(
                _changed(values[0], exchanged[name][0], tolerance)
                for name, values in outputs.items()
                if np.shape(values)[:1] == np.shape(exchanged[name])[:1] == (UNUSUAL_BATCH,)
            )
    return False


def _with_other_neighbours(values: NDArray[Any]) -> NDArray[Any]:
    """The first example as it is, and the others as 1 - x, or texts like the first.

    An input without a row for each example stays as it is.
    """
    if values.shape[:1] != (UNUSUAL_BATCH,):
        return values
    others = np.repeat(values[:1], len(values) - 1, axis=0) if values.dtype == object else 1 - values[1:]
    return np.concatenate([values[:1], others]).astype(values.dtype)


def _changed(before: ArrayLike, after: ArrayLike, tolerance: float) -> bool:
    before, after = np.asarray(before), np.asarray(after)  # an example's text is a str
    comparable = np.issubdtype(before.dtype, np.floating) and before.shape == after.shape
    if not comparable or not np.isfinite(before).any():
        return False
    largest = np.abs(before[np.isfinite(before)]).max()
    return not np.allclose(before, after, rtol=0, atol=tolerance * largest, equal_nan=True)


def batches_join(fixed: ir.Model, free: ir.Model) -> bool:
    """Whether one batch of a free model gives the outputs of the two fixed batches that it consists of."""
    first, second = noise_for(fixed, seed=1), noise_for(fixed, seed=2)
    if first is None or second is None:
        return False
    try:
        one = open_session(Graph(fixed), threads=1, optimise=False)
        joint = {k: np.concatenate([first[k], second[k]]) for k in first}
        both = open_session(Graph(free), threads=1, optimise=False).run(joint)
        halves = [one.run(first), one.run(second)]
    except (InvalidInput, TypeError):
        return False
    return all(_agree([half[name] for half in halves], both[name]) for name in both)


def _agree(parts: Sequence[object], whole: object, rounded: bool = False, searched: bool = False) -> bool:
    """Whether the parts, joined along the batch, equal the whole, as far as float32 can tell.

    Or as far as integers that were `rounded` can, or probabilities that were `searched` for.
    """
    if not isinstance(whole, np.ndarray) or not all(isinstance(part, np.ndarray) and part.ndim for part in parts):
        return False
    joined = np.concatenate([np.asarray(part) for part in parts])
    if joined.shape != whole.shape:
        return False
    if not np.issubdtype(whole.dtype, np.floating):
        return bool((joined == whole).all())
    largest = np.abs(joined, where=np.isfinite(joined), out=np.zeros_like(joined)).max(initial=0)
    near = max(QUANTISED * largest if rounded else 1e-4 * (1 + largest), _PLATT if searched else 0.0)
    return bool(np.allclose(joined, whole, rtol=1e-3, atol=near, equal_nan=True))
