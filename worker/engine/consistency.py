"""The layers of a model side by side: do they tell one story about a concept?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Said:
    """What one layer says of a concept and a target: whether it encodes the one, and how far it moves the other."""

    layer: str
    encoded: bool
    effect: float
    significant: bool


@dataclass(frozen=True)
class Story:
    """Which layers encode a concept, at which of those a step towards it moves the target, and that in a sentence."""

    encoding: list[str]
    raising: list[str]
    lowering: list[str]
    sentence: str


def story(concept: str, target: str, layers: Sequence[Said]) -> Story:
    """What all layers say together."""
    encoding = [one for one in layers if one.encoded]
    raising = [one.layer for one in encoding if one.significant and one.effect > 0]
    lowering = [one.layer for one in encoding if one.significant and one.effect < 0]
    sentence = _sentence(concept, target, len(layers), len(encoding), raising, lowering)
    return Story([one.layer for one in encoding], raising, lowering, sentence)


def _sentence(concept: str, target: str, layers: int, encoding: int, raising: list[str], lowering: list[str]) -> str:
    if not encoding:
        return f"None of the {layers} layers encodes {concept}."
    held = f"{encoding} of {layers} layers encode {concept}"
    if encoding == 1:
        held = f"1 of {layers} layers encodes {concept}"
    if raising and lowering:
        return (
            f"{held}, and they disagree: a step towards it raises {target} at {', '.join(raising)} and lowers it at "
            f"{', '.join(lowering)}."
        )
    moving = raising or lowering
    if not moving:
        return f"{held}; at none of them does a step towards it move {target} beyond chance."
    verb = "raises" if raising else "lowers"
    if len(moving) == encoding:
        where = "there" if encoding == 1 else "at each of them"
    else:
        where = (
            f"at {', '.join(moving)} and is within chance at the {'other' if encoding - len(moving) == 1 else 'others'}"
        )
    return f"{held}; a step towards it {verb} {target} {where}."
