"""What many examples share: groups and components of a layer's activations at places of an example set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from caveat_worker.engine.autodiff.model import Model
from caveat_worker.engine.base.arrays import Float64Array
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.explanations.atoms import by_position
from caveat_worker.engine.explanations.factors import Dictionary, dictionary
from caveat_worker.engine.explanations.model_runs import OpenModel
from caveat_worker.engine.explanations.principal_components import components_of
from caveat_worker.engine.explanations.runs import Components
from caveat_worker.engine.panels.choice import Source, at_layer
from caveat_worker.engine.panels.icons import tokens_of

MOST_PLACES = 8192
"""Places that they are from: as many of each example, evenly spaced."""


@dataclass(frozen=True)
class Dictionaries:
    """The dictionaries of an audit, each of which is made once, whatever the targets and examples are."""

    source: Source
    kept: dict[tuple[str, str, str, int], tuple[Model, Dictionary]] = field(default_factory=dict)
    kept_components: dict[tuple[str, str, str], tuple[Model, Components]] = field(default_factory=dict)

    def __call__(self, opened: OpenModel, examples: str, layer: str, count: int) -> Dictionary:
        """A layer's groups over a set; raises InvalidInput where an activation is no number."""
        key = (str(id(opened.model)), examples, layer, count)
        if key not in self.kept:
            rows = np.concatenate([*self._places(opened, examples, layer)])
            self.kept[key] = opened.model, dictionary(rows, count)
        return self.kept[key][1]

    def components(self, opened: OpenModel, examples: str, layer: str) -> Components:
        """The principal components of a layer's places over a set; raises InvalidInput for what is no number."""
        key = (str(id(opened.model)), examples, layer)
        if key not in self.kept_components:
            rows = np.concatenate([*self._places(opened, examples, layer)])
            self.kept_components[key] = opened.model, components_of(rows)
        return self.kept_components[key][1]

    def _places(self, opened: OpenModel, examples: str, layer: str) -> Iterator[Float64Array]:
        """The activations at some places of each example [places, channels]."""
        names = self.source.names[examples]
        most = max(MOST_PLACES // len(names), 1)
        for rows, a in at_layer(opened, self.source, examples, layer):
            for row, places in zip(rows, by_position(a), strict=True):
                own = places[: tokens_of(opened, self.source, examples, row, layer)]
                if not np.isfinite(own).all():
                    raise InvalidInput(
                        "no-finite-number",
                        f"'{layer}' is NaN or infinite at '{names[row]}' of example set '{examples}', so that its "
                        "places cannot be compared.",
                        "Look for NaN, infinite or very large values in these examples, and take them out.",
                    )
                spaced = np.linspace(0, len(own) - 1, min(most, len(own))).round().astype(int)
                yield own[spaced].astype(float)
