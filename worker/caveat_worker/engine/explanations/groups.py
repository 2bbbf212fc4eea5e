"""Groups: a layer's channels as a few groups that act together, each with its effect on the target and where it is.

The activations of one example, positions by channels, are about UV with non-negative factors (Olah et al. 2018): group
k has the share U[p, k] of position p, and is the mix of channels V[k]. Its effect is Σ (u_k v_k)∘∂S/∂a, so that the
effects and what the factors miss are the layer's linear attribution. Where activations are negative too, [A⁺, A⁻] is
factorised.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from caveat_spec.explanations import MOST_GROUPS, GroupsOptions
from caveat_worker.engine.base.arrays import AnyArray, Float64Array
from caveat_worker.engine.explanations import Shapes
from caveat_worker.engine.explanations.atoms import by_position, channel_axis
from caveat_worker.engine.explanations.attributed import Attributed, Check
from caveat_worker.engine.explanations.checks import not_flat
from caveat_worker.engine.explanations.factors import factors
from caveat_worker.engine.explanations.runs import FORWARD, GRADIENT, Runs

_MEMBERS = 3
"""Channels that a note names for each group."""
_MISSED = 0.5
"""The share of all groups' effects that may be in no group."""


def cost(options: GroupsOptions, shapes: Shapes) -> int:
    """The activations, and the target's gradient there."""
    return GRADIENT + FORWARD


def groups(runs: Runs, x: AnyArray, options: GroupsOptions) -> Attributed:
    """Each group's effect [n, k], the largest first; `parts` has where it is [n, k, *positions], and its channels."""
    before = runs.passes
    a, gradient = runs.activations(x, options.layer), runs.gradient(x, options.layer)
    flat_a, flat_g = by_position(a).astype(float), by_position(gradient).astype(float)
    several = [_Groups.of(*each, options) for each in zip(flat_a, flat_g, strict=True)]
    axis = channel_axis(a.shape)
    places = [size for one, size in enumerate(a.shape) if one not in (0, axis)]
    effects = np.stack([one.maps.sum(0) for one in several])
    total = np.array([one.total for one in several])
    return Attributed(
        effects,
        total=total,
        checks=(not_flat(gradient), *(_told(one) for one in several)),
        passes=runs.passes - before,
        rest=total - effects.sum(1),
        notes=tuple(note for one in several for note in one.notes(options)),
        parts={
            "maps": np.stack([one.maps.T.reshape(-1, *places) for one in several]),
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
        signed = bool((matrix < 0).any())
        stacked = np.concatenate([np.maximum(matrix, 0), np.maximum(-matrix, 0)], axis=1) if signed else matrix
        shares, mixes = factors(stacked, options.count)
        mix = mixes[:, : a.shape[1]] - mixes[:, a.shape[1] :] if signed else mixes
        maps = shares * (gradient @ mix.T if options.by == "activations" else mix.sum(1))
        order = np.argsort(-np.abs(maps.sum(0)), kind="stable")
        of_a = mix if options.by == "activations" else shares.T @ a
        size = max(float(np.linalg.norm(stacked)), np.finfo(float).tiny)
        return cls(
            maps[:, order],
            of_a[order],
            float((a * gradient).sum()),
            float((matrix < 0).mean()),
            float(np.linalg.norm(stacked - shares @ mixes)) / size,
        )

    def notes(self, options: GroupsOptions) -> tuple[str, ...]:
        """What was factorised, how well, and the strongest channels of each group."""
        split = ""
        if self.negative:
            split = f", of which {self.negative:.0%} are negative: positive and negative parts side by side"
        named = "; ".join(
            f"group {number + 1}: {_listed(direction)}"
            for number, direction in enumerate(self.directions)
            if direction.any()
        )
        return (
            f"Non-negative factors of the {options.by}{split}; they miss {self.missed:.0%} of their size. Strongest "
            f"channels: {named}.",
        )


def _listed(direction: Float64Array) -> str:
    order: Sequence[int] = np.argsort(-np.abs(direction), kind="stable")[:_MEMBERS].tolist()
    return ", ".join(str(one) for one in order if direction[one])


def _told(one: _Groups) -> Check:
    """Whether the groups have most of the attribution, so that they tell its story."""
    effects = np.abs(one.maps.sum(0)).sum()
    left = abs(one.total - float(one.maps.sum()))
    share = left / effects if effects > 0 else float(left > 0)
    count = one.maps.shape[1]
    more = "" if count == MOST_GROUPS else "more groups, or for "
    ok = bool(share <= _MISSED)
    return Check(
        "groups",
        share,
        _MISSED,
        ok,
        f"What is in no group comes to {share:.0%} of the groups' effects."
        if ok
        else f"{count} groups do not tell this story: what is in none of them comes to {share:.0%} of their effects, "
        f"and {_MISSED:.0%} are allowed. Ask for {more}groups by attributions.",
    )
