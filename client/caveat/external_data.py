"""Finds the data files that an ONNX file names: a walk over its protobuf that skips everything else.

The client has no ONNX library, and a model may be larger than memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from pathlib import Path

IR_VERSION = b"\x08"
"""A model begins with the tag of this field: whatever writes protobuf writes fields in the order of their numbers."""
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
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


class _MalformedError(ValueError):
    """The bytes are no protobuf message."""


def references(model: Path) -> list[Reference]:
    """The tensors of a model whose numbers are in another file; none for a file that is no model."""
    with model.open("rb") as file:
        if file.read(1) != IR_VERSION:
            return []
        with mmap(file.fileno(), 0, access=ACCESS_READ) as data:
            try:
                return list(_references(data))
            except _MalformedError:  # which the engine refuses in words
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
                (parts[number], first, last)
                for number, wire, first, last in _fields(data, begin, end)
                if wire == _LENGTH and number in parts
            ]


def _of_tensor(data: mmap, begin: int, end: int) -> Iterator[Reference]:
    name, outside, entries = "", False, {}
    for number, wire, first, last in _fields(data, begin, end):
        if number == _NAME and wire == _LENGTH:
            name = _text(data, first, last)
        elif number == _DATA_LOCATION and wire == _VARINT:
            outside = first == _EXTERNAL
        elif number == _EXTERNAL_DATA and wire == _LENGTH:
            entry = {key: _text(data, *where) for key, kind, *where in _fields(data, first, last) if kind == _LENGTH}
            entries[entry.get(1, "")] = entry.get(2, "")
    if outside:
        yield Reference(
            name, entries.get("location", ""), sum(_count(entries.get(key)) for key in ("offset", "length"))
        )


def _fields(data: mmap, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """The fields of a message: number and wire type, and where the content begins and ends; for a varint, its value."""
    while at < end:
        tag, at = _varint(data, at, end)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, at = _varint(data, at, end)
            yield number, wire, value, at
            continue
        if wire == _LENGTH:
            size, at = _varint(data, at, end)
        elif wire in (_FIXED64, _FIXED32):
            size = 8 if wire == _FIXED64 else 4
        else:
            raise _MalformedError
        if size > end - at:
            raise _MalformedError
        yield number, wire, at, at + size
        at += size


def _varint(data: mmap, at: int, end: int) -> tuple[int, int]:
    """A number of up to ten bytes, and where it ends."""
    value = 0
    for position in range(at, min(at + 10, end)):
        byte = data[position]
        value |= (byte & 0x7F) << 7 * (position - at)
        if byte < 0x80:
            return value, position + 1
    raise _MalformedError


def _text(data: mmap, begin: int, end: int) -> str:
    return data[begin:end].decode(errors="replace")


def _count(number: str | None) -> int:
    return int(number) if number and number.isdecimal() and len(number) < 20 else 0
