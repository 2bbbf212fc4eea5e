"""A walk over the fields of a protobuf message: it copies nothing, reads what it is asked for, and needs no schema.

What a field holds is at a place of the bytes that were given: protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Iterator
from mmap import mmap
from typing import NamedTuple

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
"""Wire types: how the content of a field is written."""


class MalformedError(ValueError):
    """The bytes are no protobuf message."""


class Field(NamedTuple):
    """A field of a message: the bytes from `start` to `end`, whose content begins at `first`."""

    number: int
    wire: int
    start: int
    first: int
    end: int


def fields(data: mmap, at: int, end: int) -> Iterator[Field]:
    """The fields of the message that has the bytes from `at` to `end`; raises `MalformedError` if it is none."""
    while at < end:
        start = at
        tag, first = varint(data, start, end)
        wire = tag & 7
        if wire == VARINT:
            _, at = varint(data, first, end)
        elif wire == LENGTH:
            size, first = varint(data, first, end)
            at = first + size
        elif wire in (FIXED64, FIXED32):
            at = first + (8 if wire == FIXED64 else 4)
        else:
            raise MalformedError
        if at > end:
            raise MalformedError
        yield Field(tag >> 3, wire, start, first, at)


def varint(data: mmap, at: int, end: int) -> tuple[int, int]:
    """A number of up to ten bytes, and where it ends; raises `MalformedError` if it does not end before `end`."""
    value = 0
    for position in range(at, min(at + 10, end)):
        byte = data[position]
        value |= (byte & 0x7F) << 7 * (position - at)
        if byte < 0x80:
            return value, position + 1
    raise MalformedError
