"""Signed numbers as colours: blue raises, orange lowers, and opacity is the share of the scale, up to its end."""

from __future__ import annotations

import struct
import zlib
from base64 import b64encode
from functools import cache

STEPS = 24
"""Shades on either side of nothing."""
BLUE, ORANGE = (30, 100, 200), (222, 105, 10)
DENSEST = 235
"""Opacity at the end of the scale, of 255: the picture below stays to be seen."""


def shade(share: float, steps: int = 6) -> str:
    """The class of a shaded cell, from a share of the scale between -1 and 1: `shade-p3`, `shade-n3`, `shade-0`."""
    step = round(max(-1.0, min(1.0, share)) * steps)
    return f"shade-{'n' if step < 0 else 'p' if step else ''}{abs(step)}"


def picture(rows: list[list[int]], largest: int) -> str:
    """Cells from -largest to largest as a PNG with a palette, a pixel for each, in a data URI."""
    lines = b"".join(b"\0" + bytes(STEPS + round(cell * STEPS / largest) for cell in row) for row in rows)
    colours, opacities = _palette()
    return _png(rows, 3, lines, (b"PLTE", colours), (b"tRNS", opacities))


def mixed(red: list[list[int]], green: list[list[int]], blue: list[list[int]], largest: int) -> str:
    """Cells from -largest to largest of three maps as the parts of one colour, grey where all are 0, as a PNG."""
    rows = [[mixture(*cell, largest) for cell in zip(*row, strict=True)] for row in zip(red, green, blue, strict=True)]
    return _png(red, 2, b"".join(b"\0" + bytes(part for cell in row for part in cell) for row in rows))


def mixture(red: int, green: int, blue: int, largest: int) -> tuple[int, int, int]:
    """The colour of three numbers from -largest to largest."""
    parts = (round(128 + 127 * part / largest) for part in (red, green, blue))
    return next(parts), next(parts), next(parts)


def _png(rows: list[list[int]], kind: int, lines: bytes, *palette: tuple[bytes, bytes]) -> str:
    """A picture with a point for each cell, by PNG's number for its kind of colours, in a data URI."""
    header = struct.pack(">IIBBBBB", len(rows[0]), len(rows), 8, kind, 0, 0, 0)
    chunks = ((b"IHDR", header), *palette, (b"IDAT", zlib.compress(lines, 9)), (b"IEND", b""))
    content = b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, data) for name, data in chunks)
    return f"data:image/png;base64,{b64encode(content).decode()}"


@cache
def ramp(signed: bool) -> str:
    """The whole scale as a picture of one row, or its upper half for numbers without a sign."""
    return picture([list(range(-STEPS if signed else 0, STEPS + 1))], STEPS)


@cache
def _palette() -> tuple[bytes, bytes]:
    """The colours and the opacities, from the lowest shade to the highest."""
    steps = range(-STEPS, STEPS + 1)
    colours = bytes(part for step in steps for part in (ORANGE if step < 0 else BLUE))
    return colours, bytes(round(DENSEST * abs(step) / STEPS) for step in steps)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
