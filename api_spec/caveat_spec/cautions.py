"""Warnings of a report that the command acts on: the engine writes them, and `caveat init` finds them."""

from __future__ import annotations


def unlike_pairs(shown: str, base: str) -> str:
    """How the warning begins that a set's pairs do not belong together."""
    return f"The pairs of '{shown}' and '{base}' are no more alike than examples that do not belong together"


def own_scaling(examples: str, std: float) -> str:
    """How the warning begins that the model scales pixels itself, so that these are the deviations to give."""
    return f"The model scales pixels itself, so 'preprocess' of '{examples}' should have mean 0 and std {std:g}"


SCANNER_BITS = (8, 10, 12, 14)
"""How many bits scanners store in pictures of 16."""


def stored_bits(bits: int) -> str:
    """What the warning says to set where pictures of 16 bits have greys of fewer."""
    return f"set `bit_depth: {bits}` in 'preprocess'"
