"""Examples that are small enough to stand beside a number: a part of a picture, the first columns of a row."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping

from caveat_spec.audit import Audit
from caveat_worker.readers.source import ExampleSource

ICON_PIXELS = 72
"""On the longer side of an icon."""
ICON_COLUMNS = 6
"""Columns of a row that an icon shows."""
Box = tuple[int, int, int, int]
"""First row, first column, last row and last column of a model's input, from 0."""


def crop_of(
    audit: Audit, sources: Mapping[str, ExampleSource]
) -> Callable[[str, int, Box | None, tuple[int, int]], str | None]:
    """Makes icons of pictures, as data URIs, as far as the audit allows them.

    (example set, position, part of the model's input or None for all, its rows and columns) → one.
    """
    shown = audit.method.pictures

    def crop(name: str, position: int, box: Box | None, size: tuple[int, int]) -> str | None:
        source = sources[name]
        if source.thumbnail is None or shown == "ids":
            return None
        whole = source.thumbnail(position, shown == "blurred", ICON_PIXELS if box is None else max(size))
        icon = whole if box is None else _cropped(whole, box)
        return "data:image/webp;base64," + base64.b64encode(icon).decode()

    return crop


def _cropped(picture: bytes, box: Box) -> bytes:
    from PIL import Image  # loads slowly

    top, left, bottom, right = box
    with Image.open(io.BytesIO(picture)) as whole:
        part = whole.convert("RGB").crop((left, top, right + 1, bottom + 1))
    part.thumbnail((ICON_PIXELS, ICON_PIXELS))
    buffer = io.BytesIO()
    part.save(buffer, "WEBP", quality=70, method=4)
    return buffer.getvalue()


def words_of(audit: Audit, sources: Mapping[str, ExampleSource]) -> Callable[[str, int], list[str]]:
    """Says what is in a row of a table, its first columns with their values, where the audit shows examples in full."""

    def words(name: str, position: int) -> list[str]:
        source = sources[name]
        if source.kind != "table" or source.columns is None or source.parts is None or audit.method.pictures != "full":
            return []
        named = [column for several in source.parts(position).values() for column in several][:ICON_COLUMNS]
        row = source.columns(named).iloc[position]
        return [f"{column} {_cell(row[column])}" for column in named]

    return words


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
