"""Principal components: the few directions along which the activations of a layer's places differ most.

Three of them as red, green and blue give an overview of what a layer tells apart (Olah et al. 2018). The places are
those of one example, or of a set's examples, so that a colour means the same everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from caveat_spec.explanations import MOST_COMPONENTS, PrincipalComponentsOptions
from caveat_worker.engine.base.arrays import AnyArray, Float64Array
from caveat_worker.engine.explanations import Shapes
from caveat_worker.engine.explanations.atoms import by_position, placed
from caveat_worker.engine.explanations.attributed import Attributed
from caveat_worker.engine.explanations.runs import FORWARD, Components, Runs


def cost(options: PrincipalComponentsOptions, shapes: Shapes) -> int:
    """A forward pass to the layer; the set is counted apart."""
    return FORWARD


def principal_components(runs: Runs, x: AnyArray, options: PrincipalComponentsOptions) -> Attributed:
    """Each component's share of the variance between an example's places [n, 3].

    `parts` has each place's score along it [n, 3, *positions], and its channels [n, 3, channels].
    """
    before = runs.passes
    a = runs.activations(x, options.layer)
    shared = None if options.over is None else runs.components(options.over, options.layer)
    several = [_Places.of(places.astype(float), runs.tokens, shared) for places in by_position(a)]
    shares = np.stack([one.shares for one in several])
    return Attributed(
        shares,
        total=np.ones(len(a)),
        passes=runs.passes - before,
        rest=1 - shares.sum(1),
        notes=(_note(several[0], options),),
        parts={
            "maps": np.stack([placed(one.scores, a.shape) for one in several]),
            "directions": np.stack([one.components.directions for one in several]),
        },
    )


@dataclass(frozen=True)
class _Places:
    """The places of one example along components."""

    components: Components
    scores: Float64Array
    """[positions, 3]"""
    shares: Float64Array
    """Of the variance between these places [3]."""

    @classmethod
    def of(cls, places: Float64Array, tokens: int | None, shared: Components | None) -> _Places:
        """Of places [positions, channels], of which the first `tokens` are no padding; padding has no score."""
        own = places[:tokens]
        components = components_of(own) if shared is None else shared
        scores = (own - components.origin) @ components.directions.T
        varied = own - own.mean(0)
        size = max(float((varied**2).sum()), np.finfo(float).tiny)
        shares = ((varied @ components.directions.T) ** 2).sum(0) / size
        padded = np.zeros((len(places), len(components.directions)))
        padded[: len(own)] = scores
        return cls(components, padded, shares)


def components_of(rows: Float64Array) -> Components:
    """The three directions of rows [n, d] with the most variance; of fewer that vary, the others are 0.

    The sign is that with which the largest number of a direction is positive.
    """
    origin = rows.mean(0)
    varied = rows - origin
    _, sizes, right = np.linalg.svd(varied, full_matrices=False) if len(rows) <= rows.shape[1] else _by_channels(varied)
    whole = float((varied**2).sum())
    directions, shares = np.zeros((MOST_COMPONENTS, rows.shape[1])), np.zeros(MOST_COMPONENTS)
    found = min(MOST_COMPONENTS, int((sizes**2 > whole * np.finfo(float).eps).sum()))
    for one in range(found):
        v = right[one]
        directions[one] = v * np.sign(v[np.abs(v).argmax()])
        shares[one] = sizes[one] ** 2 / whole
    return Components(directions, origin, shares, len(rows))


def _by_channels(varied: Float64Array) -> tuple[None, Float64Array, Float64Array]:
    """Singular values and right vectors of many rows, by the smaller matrix of products between channels."""
    values, vectors = np.linalg.eigh(varied.T @ varied)
    return None, np.sqrt(np.maximum(values[::-1], 0)), vectors[:, ::-1].T


def _note(one: _Places, options: PrincipalComponentsOptions) -> str:
    """Whose components they are, and how much they hold."""
    if options.over is None:
        return (
            "Each example has components of its own, so that a colour means something else in each; 'over' names a set "
            "that they share."
        )
    return (
        f"Components of {one.components.places:,} places of {options.over}, the same for every example; there they "
        f"have {one.components.shares.sum():.0%} of the variance."
    )
