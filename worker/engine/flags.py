"""Reasons to doubt a row, each one sentence with its numbers; some of them withhold a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from worker.engine.gram import Floats

DEGENERATE = 0.01
"""Gradients that differ from their mean by less than this share of their size do not vary over examples."""
UNSTABLE_SCORE = 0.3
"""Two estimators' scores on the same examples should not be farther apart."""
UNSTABLE_RUNS = 0.1
"""At most this share of the runs may turn the effect around."""
CONFOUNDED_ACCURACY = 0.9
"""Over this held-out accuracy, pool and target examples are taken to differ in kind."""

APART, SPREAD = 0.5, 2.0
"""The square of the step between two sets, and how many times the one varies as much as the other, over which they are
of two kinds: a concept that is added to examples moves them, and leaves them about as varied as they were."""


@dataclass(frozen=True)
class Flag:
    """A reason to doubt a row; `withholds` says that the row may not decide a gate line."""

    code: str
    sentence: str
    withholds: bool


def flag_gradient(gx: Floats) -> list[Flag]:
    """Gradients that are zero, or the same at every target example; `gx` [m, n] over examples centred on their mean."""
    dead = int((~gx.any(axis=1)).sum())
    flags = []
    if dead:
        flags.append(
            Flag(
                "zero_gradient",
                f"The gradient is zero at {dead} of {len(gx)} target examples, "
                "so nothing at this layer can move the target there to first order.",
                withholds=2 * dead >= len(gx),
            )
        )
    size = float(np.linalg.norm(gx))
    if dead < len(gx) and (varies := float(np.linalg.norm(gx - gx.mean(0))) / size) < DEGENERATE:
        flags.append(
            Flag(
                "degenerate",
                f"The gradient hardly varies over the {len(gx)} target examples ({varies:.1g} of its size): the model "
                "is affine from here on, so the score can only be 0 or 1 and says nothing about these examples.",
                withholds=True,
            )
        )
    return flags


def flag_examples(n_concept: int, n_pool: int, n_target: int, fewest: int) -> list[Flag]:
    """Fewer examples than the method asks for."""
    counts = {"concept": n_concept, "pool": n_pool, "target": n_target}
    few = [f"the {name} has {count}" for name, count in counts.items() if count < fewest]
    if not few:
        return []
    sentence = f"{_capital(' and '.join(few))} examples; {fewest} are needed (`method.min_examples`)."
    return [Flag("few_examples", sentence, withholds=True)]


def flag_weak_cav(held_out: float, shuffled_high: float, alpha: float) -> list[Flag]:
    """A layer from which the concept cannot be told better than under shuffled labels."""
    if held_out > shuffled_high:
        return []
    return [
        Flag(
            "weak_cav",
            f"Held-out accuracy {held_out:.2f} does not beat shuffled labels, which reach {shuffled_high:.2f} in one "
            f"of {1 / alpha:.0f} shuffles: the layer does not encode the concept linearly, "
            "or the examples are too few.",
            withholds=True,
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
    """Two estimators that disagree; opposite effects, both over twice the null's sd `chance`, withhold the verdict."""
    opposite = effect * other_effect < 0 and min(abs(effect), abs(other_effect)) > 2 * chance
    if not opposite and abs(score - other_score) <= UNSTABLE_SCORE:
        return []
    return [
        Flag(
            "unstable_estimators",
            f"Estimators disagree: {names[0]} gives the score {score:.2f} and the effect {effect:+.3g}, {names[1]} "
            f"{other_score:.2f} and {other_effect:+.3g}.",
            withholds=opposite,
        )
    ]


def flag_negatives(effect: float, run_effects: Floats, draw: int) -> list[Flag]:
    """Runs against other draws from the pool that turn the effect around; the interval covers it, so none withholds."""
    turned = float((run_effects * np.sign(effect) < 0).mean())
    if turned <= UNSTABLE_RUNS:
        return []
    return [
        Flag(
            "unstable_negatives",
            f"In {turned:.0%} of {len(run_effects)} runs, each against {draw} examples drawn from the pool, the effect "
            "has the other sign: it depends on which negatives were drawn.",
            withholds=False,
        )
    ]


def flag_pool(accuracy: float, place: float) -> list[Flag]:
    """A pool that differs in kind from the target examples, where those lie nearer to the concept than to the pool.

    `place` is where the target examples' mean lies on the CAV: 0 at the pool's mean, 1 at the concept's.
    """
    if accuracy < CONFOUNDED_ACCURACY or place < 0.5:
        return []
    return [
        Flag(
            "confounded_negatives",
            f"A classifier tells the pool from the target examples with accuracy {accuracy:.2f}, and the target "
            f"examples lie {place:.0%} of the way from the pool to the concept: pool and concept may differ in more "
            "than the concept.",
            withholds=False,
        )
    ]


def flag_kind(apart: float, spread: float) -> list[Flag]:
    """A concept that lies far from its pool and varies otherwise than it does: a drawing is not a photograph.

    `apart` is the square of the step between the two over the variance within them, `spread` the ratio of the
    concept's variance to the pool's. Marks and stripes laid on photographs move a layer by 0.2 or less; drawn stripes
    by 0.5 to 0.9, and they vary a fifth to a third as much as photographs. One word's captions against other words'
    move it by up to 2, and vary at least half as much (docs/validation.md): that is the concept, and no other kind.
    """
    if apart < APART or 1 / SPREAD < spread < SPREAD:
        return []
    return [
        Flag(
            "confounded_negatives",
            f"Concept and pool lie far apart (the square of the step is {apart:.2g} of the variance within them), and "
            f"the concept varies {spread:.2g} times as much as the pool: they may differ in kind, in more than the "
            "concept. Pairs, the same examples without and with it, would tell.",
            withholds=True,
        )
    ]


def flag_moves_alike(effects_in_sd: Sequence[float], p: Sequence[float], alpha: float) -> list[Flag]:
    """A concept that moves all of three or more targets alike: what it encodes is probably not the concept.

    Synthetic examples against photographs encode "synthetic", and the scores of nearly all classes collapse together.
    Alike is: every effect significant, of one sign, and their spread under half of their mean.
    """
    effects = np.asarray(effects_in_sd, dtype=float)
    one_sign = bool((effects > 0).all() or (effects < 0).all())
    if len(effects) < 3 or not one_sign or max(p) >= alpha or effects.std() > abs(effects.mean()) / 2:
        return []
    return [
        Flag(
            "confounded_negatives",
            f"The concept moves all {len(effects)} targets alike, by {effects.mean():+.2g} sd with a spread of "
            f"{effects.std():.2g}: concept and pool probably differ in kind, in more than the concept.",
            withholds=True,
        )
    ]


def _capital(clause: str) -> str:
    return clause[:1].upper() + clause[1:]
