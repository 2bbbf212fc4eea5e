"""CAVs for single examples: the direction of an audit's concept in a layer, fitted without the example itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from caveat_worker.engine.activations.collected import generator
from caveat_worker.engine.activations.feature_space import AnyProducts
from caveat_worker.engine.activations.gram import inner_products
from caveat_worker.engine.activations.pooling import Mask, over_positions
from caveat_worker.engine.activations.requirements import Plan
from caveat_worker.engine.base.arrays import AnyArray, Float32Array, Float64Array
from caveat_worker.engine.base.errors import error_context
from caveat_worker.engine.base.store import ArrayStore
from caveat_worker.engine.base.threads import on_one_thread
from caveat_worker.engine.concepts.cav import Residual, direction, residual
from caveat_worker.engine.concepts.concept_test import cav_of
from caveat_worker.engine.concepts.fit_problem import ConceptData, Settings, fit_problem_of
from caveat_worker.engine.concepts.linear_probe import encoding
from caveat_worker.engine.explanations.atoms import by_position, channel_axis
from caveat_worker.engine.explanations.model_runs import OpenModel
from caveat_worker.engine.explanations.runs import Direction
from caveat_worker.engine.panels.choice import Source, at_tokens
from caveat_worker.engine.panels.concept_rows import Row, concept_rows, rows_to_fit


@dataclass(frozen=True)
class ConceptLayer:
    """What a model's layer makes of the examples that a concept's CAV depends on."""

    rows: tuple[Row, ...]
    features: Float32Array
    """[n, d]"""
    k: AnyProducts
    """Their inner products [n, n]."""
    shape: tuple[int, ...]
    """Of the layer, for one example, as explanations see it."""
    held_out: float
    by_chance: float
    middle: float
    """Where held-out reference examples lie along a CAV, from the mean of those that it was fitted on."""
    spread: float
    """Their standard deviation there."""


@dataclass(frozen=True)
class Directions:
    """The CAVs of an audit's concepts for one example, in layers of any model that takes the same inputs."""

    plan: Plan
    source: Source
    store: ArrayStore
    without: str
    """The key of the example that is explained, which is its match's too."""

    @on_one_thread
    def __call__(self, opened: OpenModel, concept: str, layer: str, reduce: str) -> Direction:
        """The CAV without the example; raises InvalidInput as a concept's test does."""
        with error_context(f"/concepts/{concept}"):
            found = self._layer(opened, concept, layer, reduce)
            other = [of for of, (name, at) in enumerate(found.rows) if self.source.keys[name][at] != self.without]
            rows = [found.rows[one] for one in other]
            data = self._data(found.k[np.ix_(other, other)], rows, concept)
            alpha = self._cav(data, rows, concept)
            features = found.features[other]
        v = direction(alpha, features)
        origin = features[data.reference].mean(0, dtype=np.float64) + found.middle * v  # v has length 1
        return _in_shape(v / (found.spread or 1.0), origin, found, examples=len(data.concept) + len(data.reference))

    def _layer(self, opened: OpenModel, concept: str, layer: str, reduce: str) -> ConceptLayer:
        """The layer at the concept's examples, which go through each model once."""
        key = ("concept", concept, layer, reduce)
        if key not in opened.kept:
            rows = rows_to_fit(self.plan, self.source.names, concept)
            features, shape = self._features(opened, rows, layer, reduce)
            data = self._data(inner_products(features), rows, concept)
            left = self._without_controlled(data, rows, concept)
            problem = fit_problem_of(data if left is None else replace(data, k=left.k), self._settings)
            told, _ = encoding(problem, generator(self.plan.audit.method.seed, layer, concept))
            lies = self._held_out(data, rows, concept)
            opened.kept[key] = ConceptLayer(
                rows, features, data.k, shape, told.held_out, told.shuffled_high, float(lies.mean()), float(lies.std())
            )
        found: ConceptLayer = opened.kept[key]
        return found

    def _held_out(self, data: ConceptData, rows: Sequence[Row], concept: str) -> Float64Array:
        """Where each reference example lies along a CAV without it and its match, from the mean of the others."""
        folds = max(2, min(self._settings.folds, len(data.concept), len(data.reference)))
        found = []
        for fold in range(folds):
            held = {*data.concept[fold::folds].tolist(), *data.reference[fold::folds].tolist()}
            used = [number for number in range(len(rows)) if number not in held]
            kept = [rows[number] for number in used]
            part = self._data(data.k[np.ix_(used, used)], kept, concept)
            along = data.k[:, used] @ self._cav(part, kept, concept)
            found.append(along[data.reference[fold::folds]] - along[used][part.reference].mean())
        return np.concatenate(found)

    def _features(
        self, opened: OpenModel, rows: Sequence[Row], layer: str, reduce: str
    ) -> tuple[Float32Array, tuple[int, ...]]:
        """The layer's features [n, d] at some examples, and its shape for one of them."""
        features, shape = None, ()
        for examples in dict.fromkeys(examples for examples, _ in rows):
            wanted = {row: number for number, (of, row) in enumerate(rows) if of == examples}
            for some, a, marks in at_tokens(opened, self.source, examples, layer, [*wanted]):
                flat = _mean(a, marks) if reduce == "mean" else a.reshape(len(a), -1)
                if features is None:
                    features, shape = self.store.scratch((len(rows), flat.shape[1]), np.float32), a.shape[1:]
                features[[wanted[row] for row in some]] = flat
        assert features is not None, "the reader's own validation: no example set is empty"
        return features, shape

    @property
    def _settings(self) -> Settings:
        return Settings.of(self.plan.audit.method)

    def _data(self, k: AnyProducts, rows: Sequence[Row], concept: str) -> ConceptData:
        """A concept and its reference set among some rows."""
        place, sides = (
            {row: number for number, row in enumerate(rows)},
            concept_rows(self.plan, self.source.names, concept),
        )
        there, without = (
            np.array([place[row] for row in side if row in place], np.intp) for side in (sides.concept, sides.reference)
        )
        return ConceptData(k=k, concept=there, reference=without, pairs=np.arange(len(there)) if sides.paired else None)

    def _without_controlled(self, data: ConceptData, rows: Sequence[Row], concept: str) -> Residual | None:
        """The layer without the concepts that this one controls for, if it controls for any."""
        others = self.plan.audit.concepts[concept].controlling_for
        if not others:
            return None
        alphas = [cav_of(self._data(data.k, rows, other), self._settings) for other in others]
        return residual(data.k, np.stack(alphas))

    def _cav(self, data: ConceptData, rows: Sequence[Row], concept: str) -> Float64Array:
        """The concept's CAV as a combination of examples [n]."""
        left = self._without_controlled(data, rows, concept)
        if left is None:
            return cav_of(data, self._settings)
        return left.lifted(cav_of(replace(data, k=left.k), self._settings))


def _mean(a: AnyArray, marks: Mask | None) -> AnyArray:
    """Activations [n, …] as one number for each channel [n, channels], over the positions that are tokens."""
    return over_positions(by_position(a).astype(np.float64), "mean", marks)


def _in_shape(v: Float64Array, origin: Float64Array, found: ConceptLayer, *, examples: int) -> Direction:
    """A CAV over features [d] in the shape of its layer: each position has an equal part where features are means."""
    axis, positions = channel_axis((1, *found.shape)), int(np.prod(found.shape)) // len(v)
    if axis is None or positions == 1:
        v, origin = v.reshape(found.shape), origin.reshape(found.shape)
    else:
        wide = [-1 if one == axis else 1 for one in range(1, len(found.shape) + 1)]
        v, origin = (np.broadcast_to(one.reshape(wide), found.shape) for one in (v / positions, origin))
    return Direction(v, origin, found.held_out, found.by_chance, examples)
