"""Strings that a model, a folder or a table chose, made safe to look at."""

from __future__ import annotations

import re

_UNSEEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufffe\uffff\ud800-\udfff]"
)
_RASTER = re.compile(r"data:image/(png|jpeg|webp|gif);base64,[A-Za-z0-9+/]+={0,2}")


def sanitized(text: str) -> str:
    """`text` with each control character, lone surrogate and change of writing direction shown as U+FFFD.

    What is left may stand in XML 1.0 and cannot make a line read otherwise than it is written.
    """
    return _UNSEEN.sub("\ufffd", text)


def raster(thumbnail: str | None) -> str | None:
    """A thumbnail that is a raster picture inside the page; nothing that would be fetched or could run."""
    return thumbnail if thumbnail and _RASTER.fullmatch(thumbnail) else None
