"""Strings that a model, a folder or a table chose, made safe to look at."""

from __future__ import annotations

import re

_UNSEEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufffe\uffff\ud800-\udfff]"
)


def sanitized(text: str) -> str:
    """`text` with each control character, lone surrogate and change of writing direction shown as U+FFFD.

    What is left may stand in XML 1.0 and cannot make a line read otherwise than it is written.
    """
    return _UNSEEN.sub("\ufffd", text)
