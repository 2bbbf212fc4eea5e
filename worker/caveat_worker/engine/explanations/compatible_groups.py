"""Compatible groups: groups of a layer that compose into the groups of a later layer, and what flows between them.

The upper layer's groups are those of `groups`. Each number of the lower layer is split among copies of its channel, one
for each upper group, in proportion to the size of its attribution to that group; the copies are factorised, and added
up again (Olah et al. 2018). So a channel may be in two groups where it serves two upper ones at different places. What
flows from a lower to an upper group is that part of its effect on the target which passes through the upper group.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from caveat_spec.explanations import UPPER_GROUPS, CompatibleGroupsOptions
from caveat_worker.engine.base.arrays import AnyArray, Float64Array
from caveat_worker.engine.explanations import Shapes
from caveat_worker.engine.explanations.atoms import by_position, channel_axis, placed
from caveat_worker.engine.explanations.attributed import Attributed, Check
from caveat_worker.engine.explanations.checks import not_flat, tells_the_story
from caveat_worker.engine.explanations.factors import SignedFactors, share_missed, signed_factors, strongest_channels
from caveat_worker.engine.explanations.runs import FORWARD, GRADIENT, Runs


def cost(options: CompatibleGroupsOptions, shapes: Shapes) -> int:
    """Activations and the target's gradient at both layers, and two cotangents for each upper group."""
    return 2 * (GRADIENT + FORWARD) + 2 * GRADIENT * options.count + FORWARD


def compatible_groups(runs: Runs, x: AnyArray, options: CompatibleGroupsOptions) -> Attributed:
    """Each lower group's effect [n, k], the largest first.

    `parts` has what of it passes through each upper group [n, upper, k], where each group is [n, k, *positions], what
    it is in activations [n, k, channels], and where the upper groups are.
    """
    before = runs.passes
    several = [_explained(runs, x[[row]], options) for row in range(len(x))]
    effects, total = np.stack([one.lower.effects for one in several]), np.array([one.total for one in several])
    return Attributed(
        effects,
        total=total,
        checks=tuple(check for one in several for check in (not_flat(one.gradient), one.told)),
        passes=runs.passes - before,
        rest=total - effects.sum(1),
        notes=tuple(note for one in several for note in one.notes(options)),
        parts={
            "maps": np.stack([placed(one.lower.maps, one.gradient.shape) for one in several]),
            "directions": np.stack([one.lower.directions for one in several]),
            "pairs": np.stack([one.flow for one in several]),
            "upper": np.tile(np.arange(options.count), (len(several), 1)),
            "upper_directions": np.stack([one.upper.directions for one in several]),
            "upper_maps": np.stack([placed(one.upper.maps, one.upper_shape) for one in several]),
        },
    )


@dataclass(frozen=True)
class _Side:
    """The groups of one layer, the largest effect first."""

    maps: Float64Array
    """What each group does at each position [positions, k]."""
    directions: Float64Array
    """What each group is in activations [k, channels]."""
    missed: float
    """The share of the layer's size that the factors miss."""

    @property
    def effects(self) -> Float64Array:
        """What each group does [k]."""
        return np.asarray(self.maps.sum(0))


@dataclass(frozen=True)
class _Explained:
    """Groups of two layers at one example, and what flows between them."""

    lower: _Side
    upper: _Side
    flow: Float64Array
    """What each lower group does through each upper one [upper, k]."""
    alone: float
    """The share of the flow in the widest link of each group, with the lower layer's groups by themselves."""
    total: float
    """The lower layer's linear attribution."""
    told: Check
    gradient: AnyArray
    upper_shape: tuple[int, ...]

    def notes(self, options: CompatibleGroupsOptions) -> tuple[str, ...]:
        """How well both layers are told by groups, what the groups are, and how well they fit."""
        aside = abs(float(self.lower.effects.sum() - self.flow.sum()))
        size = float(np.abs(self.lower.effects).sum()) or 1.0
        around = "" if aside < 0.01 * size else f" {aside / size:.0%} of what they do passes no group of it."
        return (
            f"Non-negative factors of the activations; they miss {self.lower.missed:.0%} of the size of "
            f"{options.layer}, and {self.upper.missed:.0%} of that of {options.upper}.",
            f"{_widest(self.flow):.0%} of what flows is in the widest link of each group; with groups of "
            f"{options.layer} by itself it is {self.alone:.0%}.{around}",
            f"Strongest channels of {options.layer}: "
            f"{strongest_channels(self.lower.directions, map(str, range(1, options.count + 1)))}. "
            f"Of {options.upper}: {strongest_channels(self.upper.directions, UPPER_GROUPS)}.",
        )


def _explained(runs: Runs, x: AnyArray, options: CompatibleGroupsOptions) -> _Explained:
    """The groups of one example [1, …]."""
    wide, wide_gradient = runs.activations(x, options.upper), runs.gradient(x, options.upper)
    above, gradient_above = _positions(wide), _positions(wide_gradient)
    gradient = runs.gradient(x, options.layer)
    a, g = _positions(runs.activations(x, options.layer)), _positions(gradient)
    upper = signed_factors(above, options.count)
    shares = upper.parts(above)
    order = np.argsort(-np.abs((shares * above * gradient_above).sum((1, 2))), kind="stable")
    shares = shares[order]
    seeds = np.concatenate([_of_length_one(shares * above), shares * gradient_above])
    pulled = _positions_of_each(runs.pull(options.upper, _laid_out(seeds, wide.shape), options.layer, x))
    towards, through = pulled[: options.count], pulled[options.count :]
    found = compatible_factors(a, np.abs(a * towards), options.count)
    lower = _side(found, g)
    flow = _flow(found, through)
    largest = np.argsort(-np.abs(lower.effects), kind="stable")
    lower = _Side(lower.maps[:, largest], lower.directions[largest], lower.missed)
    total = float((a * g).sum())
    return _Explained(
        lower,
        _Side((shares * above * gradient_above).sum(2).T, upper.mixes[order], upper.missed),
        flow[:, largest],
        _widest(_flow(signed_factors(a, options.count), through)),
        total,
        tells_the_story(lower.maps, total, "groups of layers nearer to the scores"),
        gradient,
        wide.shape,
    )


def compatible_factors(a: Float64Array, sizes: Float64Array, count: int) -> SignedFactors:
    """Factors of activations [n, d] that keep apart what serves different upper groups, by sizes [upper, n, d].

    A number that is attributed to no upper group is shared equally.
    """
    whole = sizes.sum(0)
    shares = np.divide(sizes, whole, out=np.full_like(sizes, 1 / len(sizes)), where=whole > 0)
    copies = (a * shares).transpose(1, 0, 2).reshape(len(a), -1)  # [n, upper * d]
    found = signed_factors(copies, count)
    added = [one.reshape(count, len(sizes), -1).sum(1) for one in (found.positive, found.negative)]
    missed = share_missed(a, found.shares @ (added[0] - added[1]))
    return SignedFactors(found.shares, added[0], added[1], missed)


def _side(found: SignedFactors, gradient: Float64Array) -> _Side:
    return _Side(found.shares * (gradient @ found.mixes.T), found.mixes, found.missed)


def _flow(found: SignedFactors, through: Float64Array) -> Float64Array:
    """What each group does [upper, k] by what of the target's derivative passes each upper group [upper, n, d]."""
    return np.asarray(np.einsum("pk,kc,upc->uk", found.shares, found.mixes, through, optimize=True))


def _widest(flow: Float64Array) -> float:
    """The share of the flow [upper, k] that is in the widest link of each lower group."""
    sizes = np.abs(flow)
    whole = float(sizes.sum())
    return float(sizes.max(0).sum()) / whole if whole else 0.0


def _of_length_one(parts: Float64Array) -> Float64Array:
    """Each part [k, …] over its length, or 0: the derivative of that length by the part."""
    lengths = np.linalg.norm(parts.reshape(len(parts), -1), axis=1).reshape(-1, 1, 1)
    return np.asarray(np.divide(parts, lengths, out=np.zeros_like(parts), where=lengths > 0))


def _positions(values: AnyArray) -> Float64Array:
    """Values of one example [1, …] as [positions, channels]."""
    return np.asarray(by_position(values)[0], float)


def _positions_of_each(values: AnyArray) -> Float64Array:
    """Values [k, …] as [k, positions, channels]."""
    return np.asarray(by_position(values), float)


def _laid_out(seeds: Float64Array, shape: tuple[int, ...]) -> AnyArray:
    """Seeds [k, positions, channels] in the shape of their layer [n, …]."""
    axis = channel_axis(shape)
    places = [size for one, size in enumerate(shape) if one not in (0, axis)]
    last = seeds.astype(np.float32).reshape(len(seeds), *places, -1)
    return last if axis is None else np.moveaxis(last, -1, axis)
