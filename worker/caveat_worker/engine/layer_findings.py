"""The layers of a model side by side: what they say together about a concept and a target."""

from __future__ import annotations

from collections.abc import Sequence

from caveat_spec.report import LayerFindings
from caveat_spec.results import ConceptTest


def summarise_layers(tests: Sequence[ConceptTest], alpha: float) -> list[LayerFindings]:
    """One finding for each concept and target with tests at two layers or more."""
    by_pair: dict[tuple[str, str], list[ConceptTest]] = {}
    for test in tests:
        if test.layer is not None and test.accuracy is not None:
            by_pair.setdefault((test.concept, test.target), []).append(test)
    return [
        _finding(concept, target, layers, alpha) for (concept, target), layers in by_pair.items() if len(layers) > 1
    ]


def _finding(concept: str, target: str, layers: Sequence[ConceptTest], alpha: float) -> LayerFindings:
    encoding = [one for one in layers if one.accuracy is not None and one.accuracy.encoded]
    moving = [one for one in encoding if one.effect.deciding_p < alpha]
    raising = [str(one.layer) for one in moving if one.effect.value > 0]
    lowering = [str(one.layer) for one in moving if one.effect.value < 0]
    return LayerFindings(
        concept=concept,
        target=target,
        encoding=[str(one.layer) for one in encoding],
        raising=raising,
        lowering=lowering,
        sentence=_sentence(concept, target, len(layers), len(encoding), raising, lowering),
    )


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
