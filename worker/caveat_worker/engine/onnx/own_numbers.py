"""Finds the weights inside a model's own file, so that they are read there as those of a data file are.

The protobuf library would hold a copy of every weight, and give out further ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from mmap import ACCESS_READ, mmap
from pathlib import Path

from onnx import TensorProto

from caveat_spec.protobuf import LENGTH, MalformedError, fields

LEAST_FILE = 64 << 20
"""Bytes of a file from which on its weights are looked for."""
_LEAST = 1 << 20
"""Bytes of a weight that is read where it is."""
LOCATION = "caveat/own-file"
"""Where such a weight is said to be; a model that says so itself reads its own bytes."""
_GRAPH, _INITIALIZER, _RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION = 7, 5, 9, 13, 14
"""Fields of a model, a graph and a tensor (onnx.proto)."""


class _UnusualError(ValueError):
    """A message that no exporter writes."""


def without_own_numbers(path: Path) -> bytes | None:
    """The model's message with a reference in place of each large weight of its graph.

    None for a small file, and for one in which no weights are found: what is wrong with it is said where it is parsed.
    """
    if path.stat().st_size < LEAST_FILE:
        return None
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
        try:
            return b"".join(_model(data))
        except (MalformedError, _UnusualError):
            return None


def _model(data: mmap) -> Iterator[bytes]:
    graphs = 0
    for number, _, start, first, last in fields(data, 0, len(data)):
        if number != _GRAPH:
            yield data[start:last]
            continue
        graphs += 1
        yield _message(_GRAPH, b"".join(_graph(data, first, last)))
    if graphs != 1:
        raise _UnusualError


def _graph(data: mmap, begin: int, end: int) -> Iterator[bytes]:
    for number, _, start, first, last in fields(data, begin, end):
        large = number == _INITIALIZER and last - first >= _LEAST
        yield _message(_INITIALIZER, _tensor(data, first, last)) if large else data[start:last]


def _tensor(data: mmap, begin: int, end: int) -> bytes:
    """A tensor with a reference to its numbers."""
    found = list(fields(data, begin, end))
    raw = [field for field in found if field.number == _RAW_DATA]
    if any(field.number in (_EXTERNAL_DATA, _DATA_LOCATION) for field in found) or len(raw) > 1:
        raise _UnusualError
    if not raw or raw[0].end - raw[0].first < _LEAST:
        return data[begin:end]
    (numbers,) = raw
    kept = b"".join(data[field.start : field.end] for field in found if field is not numbers)
    reference = TensorProto(data_location=TensorProto.EXTERNAL)
    place = {"location": LOCATION, "offset": numbers.first, "length": numbers.end - numbers.first}
    for key, value in place.items():
        reference.external_data.add(key=key, value=str(value))
    return kept + bytes(reference.SerializeToString())


def _message(field: int, content: bytes) -> bytes:
    """A field that holds a message."""
    size, length = len(content), bytearray()
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([field << 3 | LENGTH, *length, size]) + content
