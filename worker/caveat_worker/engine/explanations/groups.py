"""Groups: a layer's channels as a few groups that act together, each with its effect on the target and where it is.

The activations of one example, positions by channels, are about UV with non-negative factors (Olah et al. 2018): group
k has the share U[p, k] of position p, and is the mix of channels V[k]. Its effect is Σ (u_k v_k)∘∂S/∂a, so that the
effects and what the factors miss are the layer's linear attribution. Where activations are negative too, [A⁺, A⁻] is
factorised.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from caveat_spec.explanations import MOST_GROUPS, MOST_SHARED_GROUPS, GroupsOptions
from caveat_worker.engine.base.arrays import AnyArray, Float64Array
from caveat_worker.engine.explanations import Shapes
from caveat_worker.engine.explanations.atoms import by_position, placed
from caveat_worker.engine.explanations.attributed import Attributed
from caveat_worker.engine.explanations.checks import not_flat, tells_the_story
from caveat_worker.engine.explanations.factors import Dictionary, signed_factors, strongest_channels
from caveat_worker.engine.explanations.runs import FORWARD, GRADIENT, Runs


def cost(options: GroupsOptions, shapes: Shapes) -> int:
    """The activations, and the target's gradient there."""
    return GRADIENT + FORWARD


def groups(runs: Runs, x: AnyArray, options: GroupsOptions) -> Attributed:
    """Each group's effect [n, k]; `parts` has where it is [n, k, *positions], and its channels.

    An example's own groups are in the order of their effects, and those of many examples in one order for all.
    """
    before = runs.passes
    a, gradient = runs.activations(x, options.layer), runs.gradient(x, options.layer)
    flat_a, flat_g = by_position(a).astype(float), by_position(gradient).astype(float)
    shared = None if options.over is None else runs.dictionary(options.over, options.layer, options.count)
    several = [_Groups.of(*each, options, shared) for each in zip(flat_a, flat_g, strict=True)]
    effects = np.stack([one.maps.sum(0) for one in several])
    total = np.array([one.total for one in several])
    return Attributed(
        effects,
        total=total,
        checks=(
            not_flat(gradient),
            *(tells_the_story(one.maps, one.total, _instead(options)) for one in several),
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
    """The groups of one example."""

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
    shared: Dictionary | None = None
    """What the groups are from, where they are those of many examples."""

    @classmethod
    def of(cls, a: Float64Array, gradient: Float64Array, options: GroupsOptions, shared: Dictionary | None) -> _Groups:
        """The groups of activations [positions, channels] by the target's derivatives there."""
        matrix = a if options.by == "activations" else a * gradient
        found = signed_factors(matrix, options.count) if shared is None else shared.shares(matrix)
        shares, mix = found.shares, found.mixes
        maps = shares * (gradient @ mix.T if options.by == "activations" else mix.sum(1))
        by_effect = np.argsort(-np.abs(maps.sum(0)), kind="stable")
        order = by_effect if shared is None else np.arange(options.count)
        of_a = mix if options.by == "activations" else shares.T @ a
        return cls(
            maps[:, order],
            of_a[order],
            float((a * gradient).sum()),
            float((matrix < 0).mean()),
            found.missed,
            shared,
        )

    def notes(self, options: GroupsOptions) -> tuple[str, ...]:
        """What was factorised, how well, and the strongest channels of each group."""
        split = ""
        if self.negative:
            split = f", of which {self.negative:.0%} are negative: positive and negative parts side by side"
        if self.shared is not None:
            return (
                f"Non-negative factors of the {options.by} at {self.shared.places:,} places of {options.over}, the "
                f"same for every example; they miss {self.shared.missed:.0%} of the size of those and "
                f"{self.missed:.0%} of this example's{split}. Strongest channels: {self._listed()}.",
            )
        return (
            f"Non-negative factors of the {options.by}{split}; they miss {self.missed:.0%} of their size. Strongest "
            f"channels: {self._listed()}.",
        )

    def _listed(self) -> str:
        """The strongest channels of as many groups as a person compares: those with the largest effects."""
        largest = np.sort(np.argsort(-np.abs(self.maps.sum(0)), kind="stable")[:MOST_GROUPS])
        return strongest_channels(self.directions[largest], map(str, largest + 1))


def _instead(options: GroupsOptions) -> str:
    """What to ask for where groups leave out too much of the attribution."""
    if options.over is None:
        return "more groups, or for groups by attributions" if options.count < MOST_GROUPS else "groups by attributions"
    own = "each example's own groups, without 'over'"
    return f"more groups, or for {own}" if options.count < MOST_SHARED_GROUPS else own
