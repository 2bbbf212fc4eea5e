"""Audits with a known truth: activations and gradients from a world in which a concept is planted, or not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from worker.engine.gram import Floats, gram, products
from worker.engine.stats import ConceptData, TargetData


@dataclass(frozen=True)
class World:
    """How large an audit is, and how far the concept moves the layer and the layer the target."""

    n_concept: int = 30
    n_pool: int = 60
    n_target: int = 40
    d: int = 120
    decay: float = 0.4
    """Standard deviations of the layer's directions fall as `i ** -decay`."""
    shift: float = 0.0
    """How far concept examples lie along the concept's direction; at 0 they are a random set like any other."""
    slope: float = 0.0
    """Mean derivative of the target along the concept's direction."""
    relu: bool = False
    """Non-negative, skewed activations, as after a ReLU."""
    paired: bool = False
    """The first pool examples are the concept's without it."""


def draw(world: World, rng: np.random.Generator) -> tuple[ConceptData, TargetData]:
    """One audit from the world."""
    n = world.n_concept + world.n_pool
    sd = np.arange(1, world.d + 1) ** -world.decay
    concept = rng.normal(size=world.d) * sd
    concept /= np.linalg.norm(concept)
    x: Floats = rng.normal(size=(n, world.d)) * sd
    if world.paired:
        x[: world.n_concept] = (
            x[world.n_concept : 2 * world.n_concept] + 0.1 * rng.normal(size=(world.n_concept, world.d)) * sd
        )
        x[world.n_concept : 2 * world.n_concept] += 0.1 * rng.normal(size=(world.n_concept, world.d)) * sd
    x = np.maximum(x + 0.5 * sd, 0) if world.relu else x
    x[: world.n_concept] += world.shift * concept
    lean = rng.normal(size=world.d) * 0.1  # the target's mean gradient; along the concept it is the slope
    lean += (world.slope - lean @ concept) * concept
    g = lean + rng.normal(size=(world.n_target, world.d)) * 0.3
    index = np.arange(n)
    data = ConceptData(
        gram(x),
        index[: world.n_concept],
        index[world.n_concept :],
        np.arange(world.n_concept) if world.paired else None,
    )
    return data, TargetData(products(g, x), rng.normal(size=world.n_target))
