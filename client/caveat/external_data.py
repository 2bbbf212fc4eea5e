"""Finds the data files that an ONNX file names: a walk over its protobuf that skips everything else.

The client has no ONNX library, and a model may be larger than memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from pathlib import Path

from caveat_spec.protobuf import LENGTH, VARINT, MalformedError, fields, varint

IR_VERSION = b"\x08"
"""A model begins with the tag of this field: whatever writes protobuf writes fields in the order of their numbers."""
_PARTS: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 25: "Function"},
    "Graph": {1: "Node", 5: "Tensor"},
    "Function": {7: "Node"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph"},
}
"""The fields of each message that lead to a tensor, by number, and the message that they hold (onnx.proto)."""
_NAME, _EXTERNAL_DATA, _DATA_LOCATION, _EXTERNAL = 8, 13, 14, 1
"""Fields of a tensor, and the data location that stands for another file."""


@dataclass(frozen=True)
class Reference:
    """A tensor whose numbers are in another file, and where they end there, as far as the model says so."""

    tensor: str
    location: str
    end: int


def references(model: Path) -> list[Reference]:
    """The tensors of a model whose numbers are in another file; none for a file that is no model."""
    with model.open("rb") as file:
        if file.read(1) != IR_VERSION:
            return []
        with mmap(file.fileno(), 0, access=ACCESS_READ) as data:
            try:
                return list(_references(data))
            except MalformedError:  # which the engine refuses in words
                return []


def _references(data: mmap) -> Iterator[Reference]:
    left = [("Model", 0, len(data))]
    while left:
        kind, begin, end = left.pop()
        if kind == "Tensor":
            yield from _of_tensor(data, begin, end)
        else:
            parts = _PARTS[kind]
            left += [
                (parts[field.number], field.first, field.end)
                for field in fields(data, begin, end)
                if field.wire == LENGTH and field.number in parts
            ]


def _of_tensor(data: mmap, begin: int, end: int) -> Iterator[Reference]:
    name, outside, entries = "", False, {}
    for number, wire, _, first, last in fields(data, begin, end):
        if number == _NAME and wire == LENGTH:
            name = _text(data, first, last)
        elif number == _DATA_LOCATION and wire == VARINT:
            outside = varint(data, first, last)[0] == _EXTERNAL
        elif number == _EXTERNAL_DATA and wire == LENGTH:
            pair = (field for field in fields(data, first, last) if field.wire == LENGTH)
            entry = {field.number: _text(data, field.first, field.end) for field in pair}
            entries[entry.get(1, "")] = entry.get(2, "")
    if outside:
        yield Reference(
            name, entries.get("location", ""), sum(_count(entries.get(key)) for key in ("offset", "length"))
        )


def _text(data: mmap, begin: int, end: int) -> str:
    return data[begin:end].decode(errors="replace")


def _count(number: str | None) -> int:
    return int(number) if number and number.isdecimal() and len(number) < 20 else 0
