"""CAV attribution: where in this example a concept is, by the direction that stands for it in a layer.

The concept score of an example is how far its activations lie from the reference set's mean along the concept
activation vector v (Kim et al. 2018), in standard deviations of the reference set. At the layer it is a sum over
positions, with nothing left over, as in Visual-TCAV (De Santis et al. 2024); at the input, v is the seed of a backward
pass. The vector is fitted without the example and its match: with many features, it would find its own noise in itself.
"""

from __future__ import annotations

import numpy as np

from caveat_spec.explanations import CavOptions
from caveat_worker.engine.base.arrays import AnyArray, Float64Array
from caveat_worker.engine.explanations import Shapes
from caveat_worker.engine.explanations.atoms import summed_over_channels
from caveat_worker.engine.explanations.attributed import Attributed, Check
from caveat_worker.engine.explanations.checks import not_flat
from caveat_worker.engine.explanations.runs import FORWARD, GRADIENT, INPUT, Direction, Runs


def cost(options: CavOptions, shapes: Shapes) -> int:
    """A forward pass to the layer, and a gradient and the input itself for a map of the input."""
    return FORWARD + (GRADIENT + 2 * FORWARD if options.at == "input" else 0)


def cav_attribution(runs: Runs, x: AnyArray, options: CavOptions) -> Attributed:
    """What each position [n, *positions] adds to the concept score; `rest` is what none accounts for."""
    before, cav = runs.passes, runs.direction(options.concept, options.layer, options.reduce)
    products: Float64Array = (runs.activations(x, options.layer) - cav.origin) * cav.here
    scores = products.reshape(len(x), -1).sum(1)
    checks = [encoded(cav, options)]
    if options.at == "input":
        seed = cav.here[None].astype(np.float32)
        gradient = np.concatenate([runs.pull(options.layer, seed, INPUT, x[[row]]) for row in range(len(x))])
        products = runs.activations(x, INPUT).astype(float) * gradient
        checks.append(not_flat(gradient))
    values = summed_over_channels(products)
    return Attributed(
        values,
        total=scores,
        checks=tuple(checks),
        passes=runs.passes - before,
        rest=scores - values.reshape(len(x), -1).sum(1),
        notes=(
            f"The concept score is {scores[0]:+.3g} standard deviations of the reference set, whose mean is 0; the CAV "
            f"is from {cav.examples} examples, without this one and its match.".replace("-", "−", 1),
            *(("A place of a layer sees more of the example than its own cell.",) if options.at == "layer" else ()),
        ),
    )


def encoded(cav: Direction, options: CavOptions) -> Check:
    """Whether the layer tells the concept from its reference set; else its direction means nothing."""
    ok = cav.held_out > cav.by_chance
    sides = f"{cav.held_out:.0%} of held-out examples are on their side of the CAV, and {cav.by_chance:.0%}"
    return Check(
        "encoded",
        cav.held_out,
        cav.by_chance,
        ok,
        f"{options.layer} tells '{options.concept}' from its reference set: {sides} or less with shuffled labels."
        if ok
        else f"{options.layer} does not tell '{options.concept}' from its reference set, so that its direction means "
        f"nothing: {sides} may be with shuffled labels.",
    )
