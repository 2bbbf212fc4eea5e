"""Numbers as people read them: signs that are seen, no more digits than the figure carries; titles as identifiers."""

from __future__ import annotations

import re
from math import floor, log10

MINUS = "−"


def plain(value: float, digits: int = 3) -> str:
    """`value` to so many significant digits, as short as it goes: 0.000312, 1.5, 1490."""
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - floor(log10(abs(value))))
    if decimals > 8:
        return f"{value:.1e}".replace("-", MINUS)
    text = f"{value:.{decimals}f}".replace("-", MINUS)
    return text.rstrip("0").rstrip(".") if "." in text else text


def signed(value: float, digits: int = 3) -> str:
    """The same with its sign always shown; zero has none."""
    return plain(value, digits) if value <= 0 else f"+{plain(value, digits)}"


def fixed(value: float, decimals: int = 2) -> str:
    """So many decimals, with a real minus and no negative zero."""
    text = f"{value:.{decimals}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", MINUS)


def signed_fixed(value: float, decimals: int = 2) -> str:
    """So many decimals and the sign: for columns that are compared from top to bottom."""
    text = fixed(value, decimals)
    return text if text.startswith(MINUS) or float(text) == 0 else f"+{text}"


def share(value: float) -> str:
    """A rate in per cent: 81.3 %."""
    return f"{100 * value:.1f}\u202f%"


def percent(value: float) -> str:
    """A share in whole per cent: 81 %."""
    return f"{100 * value:.0f}\u202f%"


def p_value(p: float) -> str:
    """Two significant digits; never rounded down to zero."""
    return plain(p, 2) if p >= 0.0001 else "< 0.0001"


def count(number: int) -> str:
    """Thousands set apart by a comma."""
    return f"{number:,}"


def of(part: int, whole: int, noun: str) -> str:
    """`1 of 3 lines`, `the one line`, `all 3 lines`."""
    if whole == 1:
        return f"the one {noun}"
    if part == whole:
        return f"all {count(whole)} {noun}s"
    return f"{count(part)} of {count(whole)} {noun}s"


def short_digest(digest: str) -> str:
    """The first twelve digits of a digest; a name that is no digest stays as it is."""
    algorithm, colon, digits = digest.partition(":")
    return digits[:12] if colon and algorithm == "sha256" else digest


def slug(title: str) -> str:
    """A title as an identifier, or as a file's name: lower case, with `-` for what is neither letter nor digit."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
