"""A labelled example set at the head of a model: features, scores and the number of each example's class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from caveat_worker.engine.autodiff.differentiate import expose
from caveat_worker.engine.autodiff.model import Model
from caveat_worker.engine.base.arrays import Indices
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.explanations.head import find_head
from caveat_worker.engine.explanations.model_runs import OpenModel
from caveat_worker.engine.explanations.runs import Labelled
from caveat_worker.engine.panels.choice import Source, in_batches, label_values


@dataclass(frozen=True)
class LabelledSets:
    """The labelled sets of an audit, each of which goes through a model once, whatever the targets are."""

    source: Source
    kept: dict[tuple[str, ...], tuple[Model, Labelled]] = field(default_factory=dict)

    def __call__(self, opened: OpenModel, examples: str, labels: str) -> Labelled:
        """The set at the head; raises InvalidInput for labels that are no classes, and for numbers that are none."""
        key = (str(id(opened.model)), opened.scores_at, examples, labels)
        if key not in self.kept:
            self.kept[key] = opened.model, self._read(opened, examples, labels)
        return self.kept[key][1]

    def _read(self, opened: OpenModel, examples: str, labels: str) -> Labelled:
        head = find_head(opened.model, opened.scores_at)
        session = opened.session("head", graph=lambda: expose(opened.model, [head.features, opened.scores_at]))
        found = [session.run(fed) for _, fed in in_batches(opened, self.source, examples)]
        features, scores = (
            np.concatenate([np.asarray(one[name], float) for one in found])
            for name in (head.features, opened.scores_at)
        )
        if not (np.isfinite(features).all() and np.isfinite(scores).all()):
            raise InvalidInput(
                "no-finite-number",
                f"The model gives an example of '{examples}' NaN or infinity, so that no influence can be computed.",
                "Look for NaN, infinite or very large values in these examples, and take them out.",
            )
        values = label_values(self.source, examples, labels)
        classes = _classes(values, scores.shape[1], opened.model.class_names, labels)
        return Labelled(head.features, features, scores, classes, head.weights)


def _classes(values: Sequence[Any], count: int, lists: Sequence[Sequence[str]], labels: str) -> Indices:
    """The number of each label's class, by number or by the model's own names."""
    several = max(count, 2)
    named = {name: number for names in lists if len(names) == several for number, name in enumerate(names)}
    known = {value: named.get(str(value), _number(value)) for value in set(values)}
    numbers = [known[value] for value in values]
    wrong = next((value for value, one in zip(values, numbers, strict=True) if not 0 <= one < several), None)
    if wrong is not None:
        raise InvalidInput(
            "label-of-no-class",
            f"'{labels}' holds '{wrong}', which is neither one of the numbers 0 to {several - 1} nor a name of a class "
            "that the model's file has.",
            "Give true classes by their numbers, as the model counts them.",
        )
    if len(set(numbers)) < 2:
        raise InvalidInput(
            "one-class",
            f"All {len(values)} labels by '{labels}' are class {numbers[0]}, so that none speaks for another.",
            "Give examples of two classes or more.",
        )
    return np.array(numbers, np.intp)


def _number(value: Any) -> int:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return -1
    return int(number) if number.is_integer() else -1
