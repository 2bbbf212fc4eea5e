"""Whether the layers of a concept should be combined: error rates and power of rules for several layers at once.

Layers are normal estimates with a common correlation, because they rest on the same target examples. Nothing here runs
an audit: the rules are compared at their best, with standard errors known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.stats import cauchy, norm

from bench.validation.audits import ALPHA, DRAWS, TOLERANCE
from caveat_worker.engine.base.arrays import Float64Array

LAYERS = 4
CORRELATIONS = (0.5, 0.9)
ERROR = 0.1
"""Standard error of each layer's effect, in sd."""
COUNT = 200_000
EFFECT = 0.35
"""What a layer that moves the target moves it by, in sd."""
Rule = Callable[[Float64Array, float], NDArray[np.bool_]]
"""Estimates [draws, layers] and the correlation → whether the rule holds [draws]."""

TEXT = """## Layers of a concept

Made by `python -m bench.validation layers`. {count} draws of {layers} layers, estimates with a standard
error of {error} sd and the correlation that the table says; tolerance {tolerance} sd. Caveat clears a line where *every
layer is inside*, and accuses where one layer is significant after *Holm's* correction.

| to clear a line | correlation | wrong: one layer at the tolerance | wrong: all layers | cleared, no effect |
| --- | --- | --- | --- | --- |
{clearing}

| to find an effect | correlation | false alarms | found: {effect} sd at one layer | found: {effect} sd at every layer |
| --- | --- | --- | --- | --- |
{finding}
"""


def layers(quick: bool) -> tuple[str, bool]:
    """Error rates and power of every rule; holds where those in use keep alpha."""
    count = COUNT // 10 if quick else COUNT
    rates = {
        (table, name, correlation): _rates(rule, correlation, count, truths)
        for table, rules, truths in (("clearing", CLEARING, TO_CLEAR), ("finding", FINDING, TO_FIND))
        for name, rule in rules.items()
        for correlation in CORRELATIONS
    }
    rows = {
        table: "\n".join(
            f"| {name} | {correlation:g} | {' | '.join(f'{rate:.1%}' for rate in found)} |"
            for (of, name, correlation), found in rates.items()
            if of == table
        )
        for table in ("clearing", "finding")
    }
    text = TEXT.format(count=f"{count:,}", layers=LAYERS, error=ERROR, tolerance=TOLERANCE, effect=EFFECT, **rows)
    used = [rates["clearing", "every layer inside", one][:2] for one in CORRELATIONS]
    used += [rates["finding", "Holm", one][:1] for one in CORRELATIONS]
    return text, all(rate <= ALPHA for each in used for rate in each)


def _rates(rule: Rule, correlation: float, count: int, truths: Float64Array) -> list[float]:
    """How often a rule holds where the layers' effects are each row of `truths` [rows, layers]."""
    rng = np.random.default_rng([DRAWS, 11])
    shared, own = rng.normal(size=(count, 1)), rng.normal(size=(count, LAYERS))
    noise = ERROR * (correlation**0.5 * shared + (1 - correlation) ** 0.5 * own)
    return [float(rule(truth + noise, correlation).mean()) for truth in truths]


def _one(effect: float) -> list[float]:
    return [effect, *[0.0] * (LAYERS - 1)]


TO_CLEAR = np.array([_one(TOLERANCE), [TOLERANCE] * LAYERS, [0.0] * LAYERS])
TO_FIND = np.array([[0.0] * LAYERS, _one(EFFECT), [EFFECT] * LAYERS])


def _largest(correlation: float, alpha: float = ALPHA) -> float:
    """The quantile of the largest of correlated normal sizes, as max-T draws it from permutations."""
    rng = np.random.default_rng([DRAWS, 12])
    shared, own = rng.normal(size=(COUNT, 1)), rng.normal(size=(COUNT, LAYERS))
    drawn = correlation**0.5 * shared + (1 - correlation) ** 0.5 * own
    return float(np.quantile(np.abs(drawn).max(axis=1), 1 - alpha))


def _mean_error(correlation: float) -> float:
    """The standard error of the mean over layers."""
    return ERROR * float(np.sqrt((1 + (LAYERS - 1) * correlation) / LAYERS))


HALF = float(norm.isf(ALPHA / 2))
CLEARING: Mapping[str, Rule] = {
    "every layer inside": lambda found, _: np.abs(found).max(axis=1) + HALF * ERROR <= TOLERANCE,
    "max-type: simultaneous intervals": lambda found, of: np.abs(found).max(axis=1) + _largest(of) * ERROR <= TOLERANCE,
    "mean of the layers inside": lambda found, of: np.abs(found.mean(axis=1)) + HALF * _mean_error(of) <= TOLERANCE,
}


def _p(found: Float64Array) -> Float64Array:
    p: Float64Array = 2 * norm.sf(np.abs(found) / ERROR)
    return p


FINDING: Mapping[str, Rule] = {
    "Holm": lambda found, _: _p(found).min(axis=1) <= ALPHA / LAYERS,
    "max-T": lambda found, of: np.abs(found).max(axis=1) / ERROR >= _largest(of),
    "Cauchy combination": lambda found, _: (
        cauchy.sf(np.tan((0.5 - np.clip(_p(found), 1e-15, 1)) * np.pi).mean(axis=1)) <= ALPHA
    ),
    "mean of the layers": lambda found, of: np.abs(found.mean(axis=1)) / _mean_error(of) >= HALF,
}
