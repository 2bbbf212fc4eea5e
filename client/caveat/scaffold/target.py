"""The number that a first audit is about: which output, which class, and whether its sign is a decision."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from caveat.problems import INVALID, ProblemError
from caveat_spec.artifacts import DefaultTarget, Inspection

Inspect = Callable[[str], Inspection]
"""Inspects the model again for an output."""


@dataclass(frozen=True)
class Question:
    """A target as an audit writes it, without its examples."""

    fields: Mapping[str, Any]
    classes: int
    threshold: float | None
    """Above it the target is the favourable decision; None where there is none, as in a regression."""

    @property
    def has_classes(self) -> bool:
        """Whether the model chooses among classes, in place of giving a number."""
        return self.classes > 1 or self.threshold is not None

    def of_class(self, index: int) -> Question:
        """The same question about another class, less the other one where there are two."""
        versus = {"versus": 1 - index} if "versus" in self.fields else {}
        return replace(self, fields={**self.fields, "index": index, **versus})


def choose_question(inspection: Inspection, inspect: Inspect) -> Question | None:
    """The model's output with scores, or the first of several; None for a model of labels only."""
    if inspection.default_target is None:
        again = (_inspected(inspect, one.name) for one in inspection.outputs if "float" in one.dtype)
        inspection = next((one for one in again if one is not None), inspection)
    target = inspection.default_target
    if target is None:
        return None
    return Question(_fields(target), target.classes or 0, _threshold(target))


def _inspected(inspect: Inspect, output: str) -> Inspection | None:
    """The inspection for an output; None where it has no scores."""
    try:
        found = inspect(output)
    except ProblemError as error:
        if error.exit_code == INVALID:
            return None
        raise
    return found if found.default_target is not None else None


def _fields(target: DefaultTarget) -> dict[str, Any]:
    """The output, and of two classes the second, less the first where the two compete."""
    fields: dict[str, Any] = {"output": target.scalar.output}
    if target.scalar.index is not None:
        fields["index"] = target.scalar.index
    if target.classes == 2 and target.link != "values":
        fields["index"] = 1
        if target.link not in ("sigmoid", "two_sigmoids") and target.scalar.reduce is None:
            fields["versus"] = 0
    if target.scalar.reduce is not None:
        fields["reduce"] = target.scalar.reduce
    if target.scalar.class_axis is not None:
        fields["class_axis"] = target.scalar.class_axis
    return fields


def _threshold(target: DefaultTarget) -> float | None:
    """The value over which the target's class is chosen, for two classes and for classes that do not compete."""
    if target.scalar.reduce is not None or target.link == "values":
        return None
    if target.link == "probabilities" and target.classes == 1:
        return 0.5
    return 0.0 if target.classes == 2 or target.link == "sigmoid" else None
