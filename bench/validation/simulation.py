"""Simulated audits with a known truth: activations and gradients in which a concept has an effect, or none."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from caveat_worker.engine.activations.gram import gram, products
from caveat_worker.engine.base.arrays import Float64Array
from caveat_worker.engine.concepts.fit_problem import ConceptData, TargetData

LEAN, SPREAD = 0.1, 0.3
"""Standard deviations, in each direction of the layer, of the target's mean gradient, and of single gradients."""
PAIR_NOISE = 0.1
"""How far either side of a pair lies from what they share, as a share of the layer's spread."""


@dataclass(frozen=True)
class World:
    """The sizes of an audit, and how far the concept moves the layer and the layer the target."""

    n_concept: int = 30
    n_reference: int = 60
    n_target: int = 40
    d: int = 120
    decay: float = 0.4
    """Standard deviations of the layer's directions fall as `i ** -decay`."""
    shift: float = 0.0
    """How far concept examples lie along the concept's direction; at 0 they are a random set."""
    slope: float = 0.0
    """Mean derivative of the target along the concept's direction."""
    hidden: float = 0.0
    """What the concept adds to the target in a form that the layer does not encode linearly."""
    relu: bool = False
    """Non-negative, skewed activations, as after a ReLU."""
    paired: bool = False
    """The first reference examples are the concept's examples without the concept: matched pairs."""


def numbers(world: World, rng: np.random.Generator) -> tuple[Float64Array, Float64Array]:
    """The model's own numbers for concept and reference, in standard deviations of the target."""
    gap = world.shift * world.slope + world.hidden
    return gap + rng.normal(size=world.n_concept), rng.normal(size=world.n_reference)


def standard_error(world: World) -> float:
    """The standard error of the effect by the means of these examples, in a layer without ReLU: nothing estimates it.

    The mean gradient over `n_target` examples times the step between two means: the spread of gradients along the step
    and its own noise, and the noise of both means along the mean gradient.
    """
    variance = np.arange(1, world.d + 1) ** (-2 * world.decay)
    shares = 2 * PAIR_NOISE**2 / world.n_concept if world.paired else 1 / world.n_concept + 1 / world.n_reference
    along = world.slope**2 * float((variance**2).sum() / variance.sum())
    of_targets = SPREAD**2 * (world.shift**2 + shares * float(variance.sum())) / world.n_target
    return float(np.sqrt(of_targets + shares * (LEAN**2 * float(variance.sum()) + along)))


def draw(world: World, rng: np.random.Generator) -> tuple[ConceptData, TargetData]:
    """Draws one audit from the world."""
    n = world.n_concept + world.n_reference
    sd = np.arange(1, world.d + 1) ** -world.decay
    concept = rng.normal(size=world.d) * sd
    concept /= np.linalg.norm(concept)
    x: Float64Array = rng.normal(size=(n, world.d)) * sd
    if world.paired:
        x[: world.n_concept] = (
            x[world.n_concept : 2 * world.n_concept] + PAIR_NOISE * rng.normal(size=(world.n_concept, world.d)) * sd
        )
        x[world.n_concept : 2 * world.n_concept] += PAIR_NOISE * rng.normal(size=(world.n_concept, world.d)) * sd
    x = np.maximum(x + 0.5 * sd, 0) if world.relu else x
    x[: world.n_concept] += world.shift * concept
    lean = rng.normal(size=world.d) * LEAN  # the target's mean gradient; along the concept it is the slope
    lean += (world.slope - lean @ concept) * concept
    g = lean + rng.normal(size=(world.n_target, world.d)) * SPREAD
    index = np.arange(n)
    data = ConceptData(
        gram(x),
        index[: world.n_concept],
        index[world.n_concept :],
        np.arange(world.n_concept) if world.paired else None,
    )
    return data, TargetData(products(g, x), rng.normal(size=world.n_target))
