"""The checks that withhold an explanation which does not hold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from caveat_worker.engine.base.arrays import AnyArray, Float64Array
from caveat_worker.engine.explanations.attributed import Check


def rank_correlation(first: Float64Array, second: Float64Array) -> float:
    """Spearman's rank correlation of two lists [k] that both vary."""
    from scipy.stats import spearmanr  # takes half a second to import, which only explanations need

    return float(spearmanr(first, second).statistic)


def not_flat(gradient: AnyArray) -> Check:
    """Whether a gradient [n, …] is other than zero somewhere for every example."""
    least = float(np.abs(gradient).reshape(len(gradient), -1).max(1).min())
    return Check(
        "flat",
        least,
        0.0,
        least > 0,
        "The target's gradient is not zero."
        if least > 0
        else "The target does not change with small changes of this example: its gradient is zero everywhere, as "
        "behind a Relu that is off. Name the tensor before that Relu as the target's output.",
    )


def completeness(parts: Float64Array, whole: Float64Array, bound: float, scale: float = 0.0) -> Check:
    """Whether sums of parts [n] are the wholes [n], within `bound` of the larger of a whole and `scale`."""
    missing = np.abs(whole - parts)
    allowed = np.maximum(np.abs(whole), scale)
    share = float(np.max(missing / np.maximum(allowed, np.finfo(float).tiny)))
    worst = int(np.argmax(missing))
    ok = bool(np.isfinite(share) and share <= bound)
    return Check(
        "completeness",
        share if np.isfinite(share) else float("inf"),
        bound,
        ok,
        f"The parts add up to {whole[worst]:.4g}, as they must."
        if ok
        else f"The parts do not add up to the score: {missing[worst]:.3g} of {whole[worst]:.3g} is missing.",
    )


_LOCAL = 0.5
"""The share of the input's longer side that a place may see to be called local."""


def local(share: float, layer: str) -> Check:
    """Whether a place of a layer, which sees a share of the input's longer side, speaks for itself."""
    ok = share <= _LOCAL
    return Check(
        "local",
        share,
        _LOCAL,
        ok,
        f"A place of {layer} sees {share:.0%} of the input's longer side."
        if ok
        else f"A place of {layer} sees {share:.0%} of the input's longer side, and at most {_LOCAL:.0%} is local: its "
        "evidence may come from anywhere. Use occlusion, or a layer whose places see less.",
    )


_MEAN_MISSED = 1e-5
"""The share of the score, or of the evidence if that is larger, by which their mean may differ from it."""


def mean_of_places(
    means: Float64Array, scores: Float64Array, sizes: Float64Array, layer: str, names: Sequence[str] = ()
) -> Check:
    """Whether scores [n] are the means of evidence [n], whose largest is `sizes` [n]; `names` are the examples'."""
    missed = np.abs(means - scores) / np.maximum(np.maximum(np.abs(scores), sizes), np.finfo(float).tiny)
    worst = int(missed.argmax())
    ok, where = bool(missed[worst] <= _MEAN_MISSED), f" at {names[worst]}" if names else ""
    return Check(
        "mean",
        float(missed[worst]),
        _MEAN_MISSED,
        ok,
        f"The mean of the evidence is the score, {scores[worst]:.4g}{where}."
        if ok
        else f"The score is not the mean of what the places of {layer} say alone, {scores[worst]:.4g} and not "
        f"{means[worst]:.4g}{where}: behind it is more than a mean over positions and an affine layer. Name the layer "
        "before that mean if there is one, or use linear.",
    )


_AGREE = 0.8


def removal(values: Float64Array, effects: Float64Array) -> Check:
    """Whether atoms [k] are in the order of what removing them does [k], by their rank correlation."""
    same = np.ptp(values) == 0 or np.ptp(effects) == 0
    rank = float(np.allclose(values, effects)) if same else rank_correlation(values, effects)
    ok = rank >= _AGREE
    return Check(
        "removal",
        rank,
        _AGREE,
        ok,
        f"Removing {len(values)} of these atoms one by one confirms their order (rank correlation {rank:.2f})."
        if ok
        else f"The order is not confirmed: removing {len(values)} of these atoms one by one gives another one "
        f"(rank correlation {rank:.2f}, at least {_AGREE:g} is needed). Trust the effects of removal instead.",
    )


_MISSED = 0.5
"""The share of all groups' effects that may be in no group."""


def tells_the_story(maps: Float64Array, total: float, otherwise: str) -> Check:
    """Whether groups whose effects are at positions [positions, k] have most of a layer's linear attribution.

    `otherwise` is what to ask for where they have not.
    """
    effects = np.abs(maps.sum(0)).sum()
    left = abs(total - float(maps.sum()))
    share = left / effects if effects > 0 else float(left > 0)
    count = maps.shape[1]
    ok = bool(share <= _MISSED)
    return Check(
        "groups",
        share,
        _MISSED,
        ok,
        f"What is in no group comes to {share:.0%} of the groups' effects."
        if ok
        else f"{count} groups do not tell this story: what is in none of them comes to {share:.0%} of their effects, "
        f"and {_MISSED:.0%} are allowed. Ask for {otherwise}.",
    )


def bias_share(values: Float64Array, biases: Float64Array) -> tuple[str, ...]:
    """A note where biases [n] have more of a score than all atoms [n, …] together."""
    sizes = np.abs(values).reshape(len(values), -1).sum(1)
    worst = int(np.argmax(np.abs(biases) - sizes))
    if abs(biases[worst]) <= sizes[worst]:
        return ()
    return (f"{biases[worst]:.3g} of the score belongs to the model's biases, and to no part of the example.",)
