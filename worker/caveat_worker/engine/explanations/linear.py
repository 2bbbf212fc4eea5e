"""Linear attribution: a·∂S/∂a at a layer, by positions, channels or neurons, and what really removing them does.

For atoms of a layer behind which the model is linear it is exact; elsewhere the largest atoms are removed, and the
order is withheld where removal contradicts it (Olah et al. 2018; Ancona et al. 2018).
"""

from __future__ import annotations

import numpy as np

from caveat_spec.explanations import Atoms, LinearOptions
from caveat_worker.engine.base.arrays import AnyArray, Float32Array, Float64Array, Indices
from caveat_worker.engine.explanations import Shapes
from caveat_worker.engine.explanations.atoms import channel_axis, summed_over_channels, summed_over_positions
from caveat_worker.engine.explanations.attributed import Attributed
from caveat_worker.engine.explanations.checks import not_flat, removal
from caveat_worker.engine.explanations.runs import FORWARD, GRADIENT, Runs

_RULES = {"exact": "vjp"}
_OTHERS = 50
"""Atoms that are removed beside the largest, drawn at random."""


def cost(options: LinearOptions, shapes: Shapes) -> int:
    """A gradient, a forward pass for activations and one for scores, and one for each atom that is removed."""
    if options.pooling != "exact":
        return 2 * GRADIENT + 2 * FORWARD
    return GRADIENT + 2 * FORWARD + (options.confirm + _OTHERS + 1 if options.confirm else 0)


def linear(runs: Runs, x: AnyArray, options: LinearOptions) -> Attributed:
    """a·∂S/∂a, summed to the atoms [n, *atoms]; `parts` has the effects of removal, and which atoms they are of."""
    before = runs.passes
    activations = runs.activations(x, options.layer)
    a = activations.astype(float)
    gradient = runs.gradient(x, options.layer, rules=_RULES.get(options.pooling, options.pooling))
    products: Float64Array = a * gradient.astype(float)
    sums = {"positions": summed_over_channels, "channels": summed_over_positions}
    values = sums[options.atoms](products) if options.atoms in sums else products
    scores, flat = runs.scores(x), values.reshape(len(values), -1)
    checks, parts = [not_flat(gradient)], _maps(products, options.atoms)
    notes = _relaxed(runs, x, a, flat.sum(1), options)
    if options.confirm and checks[0].ok and not notes:
        removed = [_remove(runs, x[[row]], activations[[row]], flat[row], options) for row in range(len(x))]
        parts |= {
            "removed": np.stack([which for which, _ in removed]),
            "removal_effects": np.stack([effects for _, effects in removed]),
        }
        checks += [removal(flat[row][which], effects) for row, (which, effects) in enumerate(removed)]
    return Attributed(
        values,
        total=scores,
        checks=tuple(checks),
        passes=runs.passes - before,
        rest=scores - flat.sum(1),
        notes=notes,
        parts=parts,
    )


def _maps(products: Float64Array, atoms: Atoms) -> dict[str, AnyArray]:
    """Where each channel does its part [n, channels, *positions]; nothing for other atoms."""
    axis = channel_axis(products.shape)
    return {} if atoms != "channels" or axis is None else {"maps": np.moveaxis(products, axis, 1)}


def _relaxed(runs: Runs, x: AnyArray, a: Float64Array, sums: Float64Array, options: LinearOptions) -> tuple[str, ...]:
    """What stands under a figure of relaxed pooling: that it is not the model's gradient, and how the total changed."""
    if options.pooling == "exact":
        return ()
    exact = (a * runs.gradient(x, options.layer)).reshape(len(x), -1).sum(1)
    return (
        f"Relaxed pooling: not the model's gradient. The total went from {exact[0]:.3g} to {sums[0]:.3g}, and no atom "
        f"was removed to confirm it.",
    )


def _remove(
    runs: Runs, x: AnyArray, a: Float32Array, values: Float64Array, options: LinearOptions
) -> tuple[Indices, Float64Array]:
    """The atoms of one example that are removed, the largest first [k], and how the target falls without each [k]."""
    largest = np.argsort(-np.abs(values), kind="stable")
    rng = np.random.default_rng(options.seed)
    others = rng.permutation(largest[options.confirm :])[:_OTHERS]
    which = np.concatenate([largest[: options.confirm], others])
    without = np.repeat(a, len(which), axis=0)
    for row, atom in enumerate(which):
        without[(row, *_place(a.shape, options.atoms, int(atom)))] = 0
    whole = runs.rest(options.layer, a, x)[0]
    return which, whole - runs.rest(options.layer, without, x)


def _place(shape: tuple[int, ...], atoms: Atoms, atom: int) -> tuple[slice | int, ...]:
    """Where an atom is in the activations [...] of one example."""
    axis = channel_axis(shape)
    if atoms == "neurons" or axis is None:
        return tuple(int(one) for one in np.unravel_index(atom, shape[1:]))
    place: list[slice | int] = [slice(None)] * (len(shape) - 1)
    if atoms == "channels":
        place[axis - 1] = atom
        return tuple(place)
    sides = [size for one, size in enumerate(shape) if one not in (0, axis)]
    found = [int(one) for one in np.unravel_index(atom, sides)]
    for one in range(len(place)):
        if one != axis - 1:
            place[one] = found.pop(0)
    return tuple(place)
