"""What a concept's test draws, kept beside the activations: a changed alpha, correction or gate draws nothing again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from caveat_worker.engine.base.arrays import Float64Array
from caveat_worker.engine.base.store import ArrayStore, key_of


@dataclass(frozen=True)
class KeptDraws:
    """Where the draws of one test are kept; nowhere, as it is made."""

    store: ArrayStore | None = None
    depends_on: Mapping[str, Any] = field(default_factory=dict)
    """Everything that they depend on but the settings of each part: the arrays by their keys, the seed, the names."""

    def vectors(
        self, lengths: Sequence[int], draw: Callable[[], Sequence[Float64Array]], **settings: Any
    ) -> Sequence[Float64Array]:
        """Vectors of these lengths: those of an earlier audit, or else what `draw` returns."""
        if self.store is None:
            return draw()
        key = key_of(concept_test=dict(self.depends_on), **settings)
        found = self.store.get(key)
        if found is not None and found.shape == (sum(lengths),):
            return np.split(np.array(found), np.cumsum(lengths)[:-1])
        drawn = draw()
        self.store.put(key, np.concatenate(drawn))
        return drawn


NOT_KEPT = KeptDraws()
