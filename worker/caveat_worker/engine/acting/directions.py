"""The directions of concepts as vectors of their layers, and the audit's own numbers along them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from caveat_spec.maps import DIGITS, KeptCav
from caveat_spec.methods import NoOptions
from caveat_spec.results import AnyResult
from caveat_worker.engine.activations.collected import Collected, Runtime
from caveat_worker.engine.activations.layer_products import gram_of
from caveat_worker.engine.activations.requirements import (
    Activations,
    Gradients,
    Layer,
    Role,
    Values,
)
from caveat_worker.engine.base.arrays import Float64Array
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.concepts.cav import direction
from caveat_worker.engine.concepts.concept_test import cav_of
from caveat_worker.engine.methods import Method
from caveat_worker.engine.methods.tcav import concept_data, mean_step, settings_of, without_controlled

SIDES: tuple[Role, ...] = ("concept", "reference")


@dataclass(frozen=True)
class Direction:
    """A concept's direction at a layer, and where the audit's examples lie along it."""

    concept: str
    layer: Layer
    vector: Float64Array = field(repr=False)
    """[channels] where the layer is reduced over positions, else of the layer's own sizes."""
    step: float
    """How far the concept's mean lies from the reference's along it."""
    origin: float
    """The reference's mean along it."""
    n_concept: int
    n_reference: int
    along: Float64Array = field(default_factory=lambda: np.zeros(0), repr=False)
    """[m] the first target's examples along it, where they were collected."""

    @property
    def centre(self) -> tuple[float, float]:
        """Mean and standard deviation of the first target's examples along it; 0 and 1 where there are none."""
        if not len(self.along) or not self.along.std() > 0:
            return 0.0, 1.0
        return float(self.along.mean()), float(self.along.std())

    @property
    def scores(self) -> Float64Array:
        """[m] the same in standard deviations from their mean, as an audit ranks them."""
        mean, sd = self.centre
        return (self.along - mean) / sd

    def sensitivities(self, gradients: Float64Array) -> Float64Array:
        """[m] what the whole step would change of a target with these gradients [m, d] at the layer."""
        return np.asarray(gradients @ self.vector.ravel() * self.step)


def _no_results(collected: Collected, runtime: Runtime, options: NoOptions) -> Iterator[AnyResult]:
    return iter(())


def directions_method(*, watch: bool) -> Method:
    """What has to be collected for directions; to watch a model also the targets' gradients."""
    roles: tuple[Role, ...] = (*SIDES, "target") if watch else SIDES
    asked = (Activations(at=roles), *((Gradients(), Values()) if watch else ()))
    return Method("directions", lambda audit: asked, _no_results, lambda plan: 0)


def movable_sizes(layer: Layer, features: int) -> tuple[int, ...]:
    """The shape of a direction at a layer; raises InvalidInput for reductions along which no layer can be moved."""
    if layer.reduce == "mean":
        return (features,)
    if layer.reduce != "flatten":
        raise InvalidInput(
            "no-direction",
            f"Layer '{layer.name}' is reduced by '{layer.reduce}', along which a layer cannot be moved as a whole.",
            f"Use '{layer.tensor}@mean', which acts alike at every position, or '{layer.tensor}'.",
            "layers",
        )
    sizes = [size for size in layer.shape[1:] if isinstance(size, int)]
    if len(sizes) < len(layer.shape) - 1:
        raise InvalidInput(
            "layer-size-open",
            f"Layer '{layer.name}' has sizes that the model leaves open.",
            f"Use '{layer.tensor}@mean', whose directions are of its channels alone.",
            "layers",
        )
    return tuple(sizes)


def vector_sizes(layer: Layer, features: int) -> tuple[int, ...]:
    """The shape of a vector at any layer: the layer's own where it is whole, else a number for each feature."""
    sizes = tuple(size for size in layer.shape[1:] if isinstance(size, int))
    whole = layer.reduce == "flatten" and len(sizes) == len(layer.shape) - 1 and math.prod(sizes) == features
    return sizes if whole else (features,)


def find_directions(
    collected: Collected,
    runtime: Runtime,
    *,
    watch: bool,
    sizes_of: Callable[[Layer, int], tuple[int, ...]] = movable_sizes,
) -> list[Direction]:
    """Every concept's direction at every layer; raises InvalidInput for layers that have none to act on."""
    plan = collected.plan
    if not plan.layers:
        raise InvalidInput(
            "no-layer",
            "The model has no layer that a gradient reaches, and without one no direction.",
            "Audit it by matched pairs; `caveat layers` says what it has.",
        )
    settings, _ = settings_of(plan)
    found = []
    for layer in plan.layers:
        shape = sizes_of(layer, collected.features[layer.name])
        k = gram_of(collected, runtime, layer)
        for concept in plan.audit.concepts:
            data = concept_data(plan, k, None, concept)
            left = without_controlled(plan, data, concept, settings)
            alone = cav_of(data if left is None else replace(data, k=left.k), settings)
            step = float(alone @ (k if left is None else left.k) @ mean_step(data))
            alpha = alone if left is None else left.lifted(alone)
            along, rows = k @ alpha, plan.row_ranges
            first = next(iter(plan.audit.targets.values())).examples
            parts = [
                direction(alpha[rows[name]], collected.array(("activations", name, layer.name), runtime.store))
                for name in rows
                if alpha[rows[name]].any()
            ]
            vector = np.sum([np.zeros(collected.features[layer.name]), *parts], axis=0)
            found.append(
                Direction(
                    concept=concept,
                    layer=layer,
                    vector=vector.reshape(shape),
                    step=step,
                    origin=float(along[data.reference].mean()),
                    n_concept=len(data.concept),
                    n_reference=len(data.reference),
                    along=along[plan.rows(first)] if watch else np.zeros(0),
                )
            )
    return found


def kept_cav(one: Direction) -> tuple[KeptCav, Float64Array]:
    """A direction as it is kept beside a report, and its vector."""
    return KeptCav(
        concept=one.concept,
        layer=one.layer.name,
        tensor=one.layer.tensor,
        reduce=one.layer.reduce,
        name=f"cavs/{one.concept}/{one.layer.name}",
        shape=list(one.vector.shape),
        step=float(f"{one.step:.{DIGITS}g}"),
        origin=float(f"{one.origin:.{DIGITS}g}"),
        n_concept=one.n_concept,
        n_reference=one.n_reference,
    ), one.vector
