"""Finds the weights inside a model's own file, so that they are read there as those of a data file are.

The protobuf library would hold a copy of every weight, and give out further ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from mmap import ACCESS_READ, mmap
from pathlib import Path

import onnx
from onnx import TensorProto

LEAST_FILE = 64 << 20
"""Bytes of a file from which on its weights are looked for."""
_LEAST = 1 << 20
"""Bytes of a weight that is read where it is."""
LOCATION = "caveat/own-file"
"""Where such a weight is said to be; a model that says so itself reads its own bytes."""
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_GRAPH, _INITIALIZER, _RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION = 7, 5, 9, 13, 14
"""Fields of a model, a graph and a tensor (onnx.proto)."""


class _UnusualError(ValueError):
    """Bytes that are no protobuf message, or one that no exporter writes."""


def without_own_numbers(path: Path) -> bytes | None:
    """The model's message with a reference in place of each large weight of its graph.

    None for a small file, and for one in which no weights are found: what is wrong with it is said where it is parsed.
    """
    if path.stat().st_size < LEAST_FILE:
        return None
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
        try:
            return b"".join(_model(data))
        except _UnusualError:
            return None


def _model(data: mmap) -> Iterator[bytes]:
    graphs = 0
    for number, start, first, last in _fields(data, 0, len(data)):
        if number != _GRAPH:
            yield data[start:last]
            continue
        graphs += 1
        graph = b"".join(_graph(data, first, last))
        yield _message(_GRAPH, graph)
    if graphs != 1:
        raise _UnusualError


def _graph(data: mmap, begin: int, end: int) -> Iterator[bytes]:
    for number, start, first, last in _fields(data, begin, end):
        large = number == _INITIALIZER and last - first >= _LEAST
        yield _message(_INITIALIZER, _tensor(data, first, last)) if large else data[start:last]


def _tensor(data: mmap, begin: int, end: int) -> bytes:
    """A tensor with a reference to its numbers."""
    fields = list(_fields(data, begin, end))
    raw = [(first, last) for number, _, first, last in fields if number == _RAW_DATA]
    if any(number in (_EXTERNAL_DATA, _DATA_LOCATION) for number, *_ in fields) or len(raw) > 1:
        raise _UnusualError
    if not raw or raw[0][1] - raw[0][0] < _LEAST:
        return data[begin:end]
    kept = b"".join(data[start:last] for number, start, _, last in fields if number != _RAW_DATA)
    reference = TensorProto(data_location=TensorProto.EXTERNAL)
    (first, last), *_ = raw
    for key, value in (("location", LOCATION), ("offset", first), ("length", last - first)):
        reference.external_data.append(onnx.StringStringEntryProto(key=key, value=str(value)))
    return kept + bytes(reference.SerializeToString())


def _fields(data: mmap, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """The fields of a message: the number, where it begins, and where its content begins and ends."""
    while at < end:
        start = at
        tag, at = _varint(data, at, end)
        wire = tag & 7
        if wire == _VARINT:
            first, (_, last) = at, _varint(data, at, end)
        elif wire == _LENGTH:
            size, first = _varint(data, at, end)
            last = first + size
        elif wire in (_FIXED64, _FIXED32):
            first, last = at, at + (8 if wire == _FIXED64 else 4)
        else:
            raise _UnusualError
        if last > end:
            raise _UnusualError
        yield tag >> 3, start, first, last
        at = last


def _varint(data: mmap, at: int, end: int) -> tuple[int, int]:
    """A number of up to ten bytes, and where it ends."""
    value = 0
    for position in range(at, min(at + 10, end)):
        byte = data[position]
        value |= (byte & 0x7F) << 7 * (position - at)
        if byte < 0x80:
            return value, position + 1
    raise _UnusualError


def _message(field: int, content: bytes) -> bytes:
    """A field that holds a message."""
    size, length = len(content), bytearray()
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([field << 3 | _LENGTH, *length, size]) + content
