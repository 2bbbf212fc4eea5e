"""Groups: a layer's channels as a few groups that act together, each with its effect on the target and where it is.

The activations of one example, positions by channels, are about UV with non-negative factors (Olah et al. 2018): group
k has the share U[p, k] of position p, and is the mix of channels V[k]. Its effect is Σ (u_k v_k)∘∂S/∂a, so that the
effects and what the factors miss are the layer's linear attribution. Where activations are negative too, [A⁺, A⁻] is
factorised.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from caveat_spec.explanations import GroupsOptions
from caveat_worker.engine.base.arrays import AnyArray, Float64Array
from caveat_worker.engine.explanations import Shapes
from caveat_worker.engine.explanations.atoms import by_position, placed
from caveat_worker.engine.explanations.attributed import Attributed
from caveat_worker.engine.explanations.checks import not_flat, tells_the_story
from caveat_worker.engine.explanations.factors import signed_factors, strongest_channels
from caveat_worker.engine.explanations.runs import FORWARD, GRADIENT, Runs


def cost(options: GroupsOptions, shapes: Shapes) -> int:
    """The activations, and the target's gradient there."""
    return GRADIENT + FORWARD


def groups(runs: Runs, x: AnyArray, options: GroupsOptions) -> Attributed:
    """Each group's effect [n, k], the largest first; `parts` has where it is [n, k, *positions], and its channels."""
    before = runs.passes
    a, gradient = runs.activations(x, options.layer), runs.gradient(x, options.layer)
    flat_a, flat_g = by_position(a).astype(float), by_position(gradient).astype(float)
    several = [_Groups.of(*each, options) for each in zip(flat_a, flat_g, strict=True)]
    effects = np.stack([one.maps.sum(0) for one in several])
    total = np.array([one.total for one in several])
    return Attributed(
        effects,
        total=total,
        checks=(
            not_flat(gradient),
            *(tells_the_story(one.maps, one.total, "groups by attributions") for one in several),
        ),
        passes=runs.passes - before,
        rest=total - effects.sum(1),
        notes=tuple(note for one in several for note in one.notes(options)),
        parts={
            "maps": np.stack([placed(one.maps, a.shape) for one in several]),
            "directions": np.stack([one.directions for one in several]),
        },
    )


@dataclass(frozen=True)
class _Groups:
    """The groups of one example, the largest effect first."""

    maps: Float64Array
    """What each group does at each position [positions, k]."""
    directions: Float64Array
    """What each group is in activations [k, channels]."""
    total: float
    """The layer's linear attribution."""
    negative: float
    """The share of the factorised numbers that are negative."""
    missed: float
    """The share of their size that the factors miss."""

    @classmethod
    def of(cls, a: Float64Array, gradient: Float64Array, options: GroupsOptions) -> _Groups:
        """The groups of activations [positions, channels] by the target's derivatives there."""
        matrix = a if options.by == "activations" else a * gradient
        found = signed_factors(matrix, options.count)
        shares, mix = found.shares, found.mixes
        maps = shares * (gradient @ mix.T if options.by == "activations" else mix.sum(1))
        order = np.argsort(-np.abs(maps.sum(0)), kind="stable")
        of_a = mix if options.by == "activations" else shares.T @ a
        return cls(
            maps[:, order],
            of_a[order],
            float((a * gradient).sum()),
            float((matrix < 0).mean()),
            found.missed,
        )

    def notes(self, options: GroupsOptions) -> tuple[str, ...]:
        """What was factorised, how well, and the strongest channels of each group."""
        split = ""
        if self.negative:
            split = f", of which {self.negative:.0%} are negative: positive and negative parts side by side"
        numbers = map(str, range(1, len(self.directions) + 1))
        return (
            f"Non-negative factors of the {options.by}{split}; they miss {self.missed:.0%} of their size. Strongest "
            f"channels: {strongest_channels(self.directions, numbers)}.",
        )
