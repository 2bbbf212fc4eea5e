"""What a graph says about the columns of its inputs: categories that its encoders know, and missing values it fills in.

A column is one number or text an example, as a pipeline for tables takes it. Columns are followed from the inputs
through operators that only select, join or convert them, up to the encoders that read them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import onnx_ir as ir

from caveat_worker.engine.onnx.values import shape_of_value

MISSING_TEXTS = ("nan", "None", "<NA>", "")
"""The texts by which converters write a category for missing values, the likeliest first."""
_CATEGORIES = {
    "OneHotEncoder": ("cats_strings", "cats_int64s"),
    "LabelEncoder": ("keys_strings", "keys_int64s", "keys_floats", "keys_tensor"),
}
_KEEPS = {"Cast", "Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze"}
_COMPUTES = {"Add", "Clip", "Div", "Max", "Min", "Mul", "Scaler", "Sub"}
_FILLS = {"Imputer", "IsNaN", "TreeEnsemble", "TreeEnsembleClassifier", "TreeEnsembleRegressor"}


@dataclass(frozen=True)
class InputColumn:
    """One column of a model's input, as the graph reads it."""

    categories: tuple[str | float, ...] = ()
    """The values that every encoder of the column knows; empty where it is not encoded."""
    strict: bool = False
    """Whether the model stops at a value that an encoder does not know."""
    missing: str | None = None
    """The text that stands for a missing value; None if the graph does not show one."""
    takes_nan: bool = False
    """Whether the graph fills in or otherwise handles a number that is missing."""

    def knows(self, value: str | float) -> bool:
        """Whether the column's encoders, if it has any, know the value."""
        return not self.categories or value in self.categories or value == self.missing


@dataclass(frozen=True)
class _Read:
    """A column of an input, where it is read; `exact` if its values are still those of the input."""

    tensor: str
    position: int
    exact: bool = True


_Reads: TypeAlias = tuple[_Read | None, ...] | None
"""The columns of a tensor [n, columns]; None for a column that is no input's, or for a tensor that has none."""


@dataclass
class _Found:
    """What has been seen of the columns so far, by input and position."""

    categories: dict[tuple[str, int], list[tuple[str | float, ...]]] = field(default_factory=dict)
    strict: set[tuple[str, int]] = field(default_factory=set)
    missing: dict[tuple[str, int], str] = field(default_factory=dict)
    filled: set[tuple[str, int]] = field(default_factory=set)


def input_columns(model: ir.Model) -> dict[str, tuple[InputColumn, ...]]:
    """The columns of each input [n], [n, 1] or [n, columns] of a model; inputs of other shapes are left out."""
    widths = {v.name or "": width for v in _inputs(model) if (width := _width(v)) is not None}
    reads: dict[ir.Value, _Reads] = {
        value: tuple(_Read(value.name or "", position) for position in range(widths[value.name or ""]))
        for value in _inputs(model)
        if value.name in widths
    }
    found, origins = _Found(), {value: {one for one in reads[value] or () if one is not None} for value in reads}
    for node in model.graph:
        before = [reads.get(x) if x is not None else None for x in node.inputs]
        behind = set().union(*(origins.get(x, set()) for x in node.inputs if x is not None))
        _note(node, before, behind, found)
        reads.update(dict.fromkeys(node.outputs, _through(node, before)))
        origins.update(dict.fromkeys(node.outputs, behind))
    return {name: tuple(_column(found, (name, i)) for i in range(width)) for name, width in widths.items()}


def _inputs(model: ir.Model) -> list[ir.Value]:
    return [value for value in model.graph.inputs if not value.is_initializer()]


def _width(value: ir.Value) -> int | None:
    """How many columns an input has; None if it is not a table's."""
    shape = shape_of_value(value)
    if shape is None or len(shape) not in (1, 2):
        return None
    width = shape[1] if len(shape) == 2 else 1
    return width if isinstance(width, int) else None


def _column(found: _Found, key: tuple[str, int]) -> InputColumn:
    known = found.categories.get(key, [])
    shared = tuple(value for value in (known[0] if known else ()) if all(value in other for other in known))
    encoded = next((text for text in MISSING_TEXTS if text in shared), None)
    return InputColumn(shared, key in found.strict, found.missing.get(key, encoded), key in found.filled)


def _note(node: ir.Node, before: Sequence[_Reads], behind: set[_Read], found: _Found) -> None:
    """Notes what a node shows about the columns that it reads; `behind` are those that its inputs are computed from."""
    columns = [one for reads in before for one in reads or () if one is not None]
    places = [(one.tensor, one.position) for one in columns]
    if node.op_type in _FILLS:
        found.filled.update(places if before[0] is not None else [(one.tensor, one.position) for one in behind])
    if node.op_type not in _CATEGORIES or not all(one.exact for one in columns):
        return
    values = _categories(node)
    for place in places:
        if _finds_missing(node):
            found.missing[place] = str(values[0])
            continue
        found.categories.setdefault(place, []).append(values)
        if node.op_type == "OneHotEncoder" and _number(node, "zeros", 1) == 0:
            found.strict.add(place)


def _finds_missing(node: ir.Node) -> bool:
    """Whether the node asks for one value alone, as the imputation of a text column does."""
    readers = [reader for output in node.outputs for reader in output.consumers()]
    asks = node.op_type == "LabelEncoder" and len(_categories(node)) == 1 and bool(readers)
    return asks and all(r.op_type == "Cast" and _number(r, "to", 0) == ir.DataType.BOOL for r in readers)


def _through(node: ir.Node, before: Sequence[_Reads]) -> _Reads:
    """The columns of a node's output."""
    first = before[0] if before else None
    match node.op_type:
        case "Concat":
            return _joined(node, before)
        case "FeatureVectorizer":
            return _all(before)
        case "Gather" | "ArrayFeatureExtractor":
            return _selected(node, first)
        case "Where":
            return _kept(node, before[2] or before[1])
        case "Imputer":
            return _inexact(first)
        case "Cast" if _is_text(node.inputs[0]) != _is_text(node.outputs[0]):
            return _kept(node, _inexact(first))
        case operator if operator in _KEEPS:
            return _kept(node, first)
        case operator if operator in _COMPUTES:
            return _kept(node, _inexact(next((reads for reads in before if reads is not None), None)))
    width = shape_of_value(node.outputs[0])
    return (None,) * width[1] if width is not None and len(width) == 2 and isinstance(width[1], int) else None


def _kept(node: ir.Node, reads: _Reads) -> _Reads:
    """The same columns, unless the output has another number of them."""
    shape = shape_of_value(node.outputs[0])
    if reads is None or shape is None:
        return reads
    wide = shape[-1] if len(shape) > 1 else 1
    return reads if not isinstance(wide, int) or wide == len(reads) or len(reads) == 1 else None


def _joined(node: ir.Node, before: Sequence[_Reads]) -> _Reads:
    return _all(before) if _number(node, "axis", 0) in (1, -1) else None


def _all(before: Sequence[_Reads]) -> _Reads:
    known = [reads for reads in before if reads is not None]
    return tuple(one for reads in known for one in reads) if len(known) == len(before) else None


def _selected(node: ir.Node, reads: _Reads) -> _Reads:
    """The columns that a constant picks."""
    picked = node.inputs[1].const_value if node.inputs[1] is not None else None
    axis = -1 if node.op_type == "ArrayFeatureExtractor" else _number(node, "axis", 0)
    if reads is None or picked is None or axis not in (1, -1):
        return None
    positions = [int(position) for position in picked.numpy().ravel()]
    return tuple(reads[p] for p in positions) if all(-len(reads) <= p < len(reads) for p in positions) else None


def _inexact(reads: _Reads) -> _Reads:
    return None if reads is None else tuple(one and _Read(one.tensor, one.position, False) for one in reads)


def _categories(node: ir.Node) -> tuple[str | float, ...]:
    """The values that an encoder knows."""
    for name in _CATEGORIES[node.op_type]:
        if name in node.attributes:
            attribute = node.attributes[name]
            values: Any = attribute.value
            if attribute.type == ir.AttributeType.TENSOR:
                values = values.numpy().ravel().tolist()
            return tuple(value.decode() if isinstance(value, bytes) else value for value in values)
    return ()


def _is_text(value: ir.Value | None) -> bool:
    return value is not None and value.dtype == ir.DataType.STRING


def _number(node: ir.Node, name: str, default: int) -> int:
    return node.attributes[name].as_int() if name in node.attributes else default
