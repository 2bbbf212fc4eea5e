"""Reasons to doubt a test, each one sentence with its numbers; some of them block a verdict."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from caveat_spec.results import Flag
from caveat_worker.engine.activations.feature_space import AnyProducts, FactoredProducts
from caveat_worker.engine.base.arrays import Float64Array

DEGENERATE = 0.01
"""Gradients that differ from their mean by less than this share of their size do not vary over examples."""
UNSTABLE_SCORE = 0.3
"""Two estimators' scores on the same examples should not be farther apart."""
UNSTABLE_RUNS = 0.1
"""At most this share of the runs may turn the effect around."""
CONFOUNDED_ACCURACY = 0.9
"""Over this held-out accuracy, reference and target examples are taken to differ in kind."""

SEPARATION, SPREAD = 0.5, 2.0
"""Above these, two sets are of different kinds: the square of the step between them over the variance within them, and
the ratio of their variances. A concept that is added to examples moves them and leaves them about as varied."""


def flag_gradient(gx: AnyProducts) -> list[Flag]:
    """Gradients that are zero, or the same at every target example; `gx` [m, n] over examples centred on their mean."""
    dead = int((~(gx.left if isinstance(gx, FactoredProducts) else gx).any(axis=1)).sum())
    flags = []
    if dead:
        flags.append(
            Flag(
                code="zero_gradient",
                sentence=f"The gradient is zero at {dead} of {len(gx)} target examples, "
                "so nothing at this layer can move the target there to first order.",
                blocking=2 * dead >= len(gx),
            )
        )
    if dead < len(gx) and (varies := _size(_from_mean(gx)) / _size(gx)) < DEGENERATE:
        flags.append(
            Flag(
                code="degenerate",
                sentence=f"The gradient hardly varies over the {len(gx)} target examples ({varies:.1g} of its size): "
                "the model is affine from here on, so the effect is as good as exact, while the TCAV score can only be "
                "0 or 1 and says nothing about these examples.",
                blocking=False,
            )
        )
    return flags


def _size(products: AnyProducts) -> float:
    """The Frobenius norm."""
    return products.size() if isinstance(products, FactoredProducts) else float(np.linalg.norm(products))


def _from_mean(products: AnyProducts) -> AnyProducts:
    """Rows [m, n] from their mean."""
    if isinstance(products, FactoredProducts):
        return FactoredProducts(products.left - products.left.mean(0), products.right)
    from_mean: Float64Array = products - products.mean(0)
    return from_mean


def flag_examples(n_concept: int, n_reference: int, n_target: int, fewest: int) -> list[Flag]:
    """Fewer examples than the method asks for."""
    counts = {"concept": n_concept, "reference set": n_reference, "target": n_target}
    few = [f"the {name} has {count}" for name, count in counts.items() if count < fewest]
    if not few:
        return []
    sentence = f"{_capital(' and '.join(few))} examples; {fewest} are needed (`method.min_examples`)."
    return [Flag(code="few_examples", sentence=sentence, blocking=True)]


def flag_weak_cav(held_out: float, shuffled_high: float, alpha: float) -> list[Flag]:
    """A layer from which the concept cannot be told better than under shuffled labels."""
    if held_out > shuffled_high:
        return []
    return [
        Flag(
            code="weak_cav",
            sentence=f"Held-out accuracy {held_out:.2f} does not beat shuffled labels, which reach {shuffled_high:.2f} "
            f"in one of {1 / alpha:.0f} shuffles: the layer does not encode the concept linearly, "
            "or the examples are too few.",
            blocking=True,
        )
    ]


def flag_estimators(
    score: float,
    effect: float,
    other_score: float,
    other_effect: float,
    chance: float,
    names: tuple[str, str],
) -> list[Flag]:
    """Two estimators that disagree; opposite effects, both above twice the null's sd `chance`, block the verdict."""
    opposite = effect * other_effect < 0 and min(abs(effect), abs(other_effect)) > 2 * chance
    if not opposite and abs(score - other_score) <= UNSTABLE_SCORE:
        return []
    return [
        Flag(
            code="unstable_estimators",
            sentence=f"Estimators disagree: {names[0]} gives the score {score:.2f} and the effect {effect:+.3g}, "
            f"{names[1]} {other_score:.2f} and {other_effect:+.3g}.",
            blocking=opposite,
        )
    ]


def flag_negatives(effect: float, run_effects: Float64Array, draw: int) -> list[Flag]:
    """Runs against other draws from the reference set in which the effect changes sign; never blocking.

    The interval already covers them.
    """
    turned = float((run_effects * np.sign(effect) < 0).mean())
    if turned <= UNSTABLE_RUNS:
        return []
    return [
        Flag(
            code="unstable_negatives",
            sentence=f"In {turned:.0%} of {len(run_effects)} runs, each against {draw} examples drawn from the "
            "reference set, the effect has the other sign: it depends on which negatives were drawn.",
            blocking=False,
        )
    ]


def flag_reference(accuracy: float, place: float) -> list[Flag]:
    """A reference set that differs in kind from the target examples, where those lie nearer to the concept.

    `place` is where the target examples' mean lies on the CAV: 0 at the reference's mean, 1 at the concept's.
    """
    if accuracy < CONFOUNDED_ACCURACY or place < 0.5:
        return []
    return [
        Flag(
            code="reference_unlike_targets",
            sentence=f"A classifier tells the reference set from the target examples with accuracy {accuracy:.2f}, and "
            f"the target examples lie {place:.0%} of the way from the reference set to the concept: the two sets may "
            "differ in more than the concept.",
            blocking=False,
        )
    ]


def flag_sets(set_separation: float, spread: float) -> list[Flag]:
    """A concept that lies far from its reference set and varies otherwise than it does: a drawing is not a photograph.

    `set_separation` is the square of the step between the two over the variance within them, `spread` the ratio of the
    concept's variance to the reference's. Marks and stripes laid on photographs move a layer by 0.2 or less; drawn
    stripes by 0.5 to 0.9, and they vary a fifth to a third as much as photographs. Captions with one word against
    captions with others move it by up to 2, and vary at least half as much (docs/validation.md): that is the concept.
    """
    if set_separation < SEPARATION or 1 / SPREAD < spread < SPREAD:
        return []
    return [
        Flag(
            code="sets_differ_in_kind",
            sentence=f"Concept and reference lie far apart (the square of the step is {set_separation:.2g} of the "
            f"variance within them), and the concept varies {spread:.2g} times as much as the reference set: the two "
            "sets may differ in more than the concept. Matched pairs, the same examples without and with it, would "
            "tell.",
            blocking=True,
        )
    ]


def flag_moves_all(effects_in_sd: Sequence[float], p: Sequence[float], alpha: float) -> list[Flag]:
    """A concept that moves all of three or more targets alike: what it encodes is probably not the concept.

    Synthetic examples against photographs encode "synthetic", and the scores of nearly all classes collapse together.
    Alike is: every effect significant, of one sign, and their spread under half of their mean. It never blocks, because
    a verdict on one target must not depend on which others are listed; matched pairs are not asked, because they differ
    in nothing but the concept.
    """
    effects = np.asarray(effects_in_sd, dtype=float)
    one_sign = bool((effects > 0).all() or (effects < 0).all())
    if len(effects) < 3 or not one_sign or max(p) >= alpha or effects.std() > abs(effects.mean()) / 2:
        return []
    return [
        Flag(
            code="moves_all_targets",
            sentence=f"The concept moves all {len(effects)} targets alike, by {effects.mean():+.2g} sd with a spread "
            f"of {effects.std():.2g}: the two sets probably differ in more than the concept.",
            blocking=False,
        )
    ]


def _capital(clause: str) -> str:
    return clause[:1].upper() + clause[1:]
