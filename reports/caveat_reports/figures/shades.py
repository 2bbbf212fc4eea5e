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
    header = struct.pack(">IIBBBBB", len(rows[0]), len(rows), 8, 3, 0, 0, 0)
    colours, opacities = _palette()
    chunks = (
        (b"IHDR", header),
        (b"PLTE", colours),
        (b"tRNS", opacities),
        (b"IDAT", zlib.compress(lines, 9)),
        (b"IEND", b""),
    )
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
