"""Error rates and power of the verdicts, over many simulated audits whose truth is known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.stats import binom

from bench.validation.audits import TOLERANCE, Outcome, audits
from bench.validation.coverage import coverage
from bench.validation.simulation import World
from caveat_worker.engine.concepts.fit_problem import Settings

ALPHA = 0.05
ESTIMATORS = ("logistic", "mean_difference")
LAYERS = {
    "wide": World(40, 80, 40, d=2000, decay=0.5),
    "ReLU": World(40, 80, 40, d=64, decay=0.2, relu=True),
}
PAIRED = {"wide, paired": World(40, 80, 40, d=2000, decay=0.5, paired=True)}
SETTINGS = Settings(cross_check=None, runs=2, permutations=99, bootstrap=99, alpha=ALPHA)
POWER = replace(SETTINGS, permutations=199, bootstrap=199)
EFFECTS = (0.0, 0.15, 0.5, 1.0)
"""Simulated effects in standard deviations of the target; two of them are beyond the tolerance."""


def rates(quick: bool) -> tuple[str, bool]:
    """Runs the studies, with a tenth of the audits if `quick`; whether every error rate is within its bound."""
    share = 10 if quick else 1
    sections = [
        coverage(400 // share),
        calibration(400 // share),
        not_encoded(200 // share),
        neutral(200 // share),
        published(100 // share),
        power(100 // share),
    ]
    return HEAD + "".join(body for body, _ in sections), all(holds for _, holds in sections)


HEAD = f"""## Error rates

Made by `python -m bench.validation rates`. Each audit here draws its activations and gradients from a simulation whose
truth is known, and goes through the same functions as any other audit. α is {ALPHA}; the gate line is *must not
matter*, with a tolerance of {TOLERANCE} standard deviations of the target. A *wide* layer has 2,000 correlated
features, many more than examples; a *ReLU* layer has 64 features, non-negative and skewed; in a *paired* layer, each
concept example has a reference example of its own. Concept / reference / target are 40 / 80 / 40 examples unless the
table says otherwise.

"""

CALIBRATION = """### No effect, and not encoded

{count} audits a row, in which a random set plays the concept. At a nominal {alpha:.0%}, up to {bound}
rejections ({share:.1%}) lie inside the binomial 95 % interval.

| layer | estimator | effect, p ≤ α | score, p ≤ α | gate: influential | gate: not encoded | gate passes | holds |
| --- | --- | --- | --- | --- | --- | --- | --- |
{rows}

A random set has no effect, but no layer encodes it either: the finding is *not encoded*. With so few examples the
model's own numbers for concept and reference are not known well enough to let it pass; the next table has more.

"""

NOT_ENCODED = """### Not encoded, with and without an influence

{count} audits a row, ReLU layer, mean difference. A concept whose influence equals the tolerance must not pass because
no layer encodes it; up to {bound} passes lie inside the binomial 95 % interval around α.

| concept / reference / target | influence | not encoded | gate passes | holds |
| --- | --- | --- | --- | --- |
{rows}

"""

NEUTRAL = """### No effect, but encoded

{count} audits a row: the layer encodes the concept, and the target's slope along it is zero. Such a concept is not a
random set, so the permutation p-value (*against sets*) is not calibrated for it; the effect's p is the larger of that
and the bootstrap p-value (*against zero*). Rates up to {share:.1%} are inside the binomial 95 % interval.

| layer | estimator | against sets, p ≤ α | effect, p ≤ α | score, p ≤ α | gate: influential | gate: not influential |
| --- | --- | --- | --- | --- | --- | --- |
{rows}

"""

PUBLISHED = """### The published test where there is no effect

The t-test of a concept's runs against runs of random sets (Kim et al. 2018; tensorflow/tcav), {count} null audits, wide
layer, logistic: more runs only make the test more confident of an effect that does not exist.

| runs | {runs} |
| --- | {rule} |
| rejected | {shares} |

"""

POWER_OF_GATE = """### A known effect

{count} audits a row, wide layer: the concept lies 3 along a direction, and the target's mean slope along it gives the
effect. *Wrong* counts effects of 0 called influential and effects beyond the tolerance called not influential;
inconclusive is not wrong. *Covered* is how often the 95 % interval holds the truth.

| estimator | concept / reference / target | effect (sd) | p ≤ α | influential | not | inconclusive | wrong | covered |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
{rows}
"""


def calibration(count: int) -> tuple[str, bool]:
    """How often a concept that is a random set is called significant."""
    bound = int(binom.ppf(0.975, count, ALPHA))
    rows, everything = [], True
    for layer, world in (LAYERS | PAIRED).items():
        for estimator in ESTIMATORS if layer in LAYERS else ESTIMATORS[:1]:
            outcomes = audits(world, replace(SETTINGS, estimator=estimator), count)
            effect, score = (_rejected(outcomes, of) for of in ("p_effect", "p_score"))
            findings = Counter(outcome.finding for outcome in outcomes)
            holds = max(effect, score, findings["influential"]) <= bound
            everything &= holds
            passed = sum(outcome.passes for outcome in outcomes)
            shares = (effect, score, findings["influential"], findings["not_encoded"], passed)
            rows.append(f"| {layer} | {estimator} | {_percent(shares, count)} | {'yes' if holds else '**no**'} |")
    text = CALIBRATION.format(count=count, alpha=ALPHA, bound=bound, share=bound / count, rows="\n".join(rows))
    return text, everything


def not_encoded(count: int) -> tuple[str, bool]:
    """How often a concept that no layer encodes passes, with and without an influence as large as the tolerance."""
    bound = int(binom.ppf(0.975, count, ALPHA))
    rows, everything = [], True
    for size in ((40, 80, 40), (400, 800, 400)):
        world = replace(LAYERS["ReLU"], n_concept=size[0], n_reference=size[1], n_target=size[2])
        weak = 0.5 * (40 / size[0]) ** 0.5
        for name, one, influence in (
            ("none", world, False),
            ("the tolerance, in a form that is not linear", replace(world, hidden=TOLERANCE), True),
            ("the tolerance, along a weak direction", replace(world, shift=weak, slope=TOLERANCE / weak), True),
        ):
            outcomes = audits(one, replace(SETTINGS, estimator="mean_difference"), count)
            passed = sum(outcome.passes for outcome in outcomes)
            findings = Counter(outcome.finding for outcome in outcomes)
            holds = not influence or passed <= bound
            everything &= holds
            shares = _percent((findings["not_encoded"], passed), count)
            rows.append(f"| {' / '.join(map(str, size))} | {name} | {shares} | {'yes' if holds else '**no**'} |")
    return NOT_ENCODED.format(count=count, bound=bound, rows="\n".join(rows)), everything


def neutral(count: int) -> tuple[str, bool]:
    """How often a concept that is encoded but has no effect is called significant."""
    bound = int(binom.ppf(0.975, count, ALPHA))
    rows, everything = [], True
    for layer, world in LAYERS.items():
        for estimator in ESTIMATORS:
            outcomes = audits(replace(world, shift=3.0), replace(POWER, estimator=estimator), count)
            findings = Counter(outcome.finding for outcome in outcomes)
            shares = [_rejected(outcomes, of) for of in ("p_against_sets", "p_effect", "p_score")]
            shares += [findings["influential"], findings["not_influential"]]
            everything &= findings["influential"] <= bound
            rows.append(f"| {layer} | {estimator} | {_percent(shares, count)} |")
    return NEUTRAL.format(count=count, share=bound / count, rows="\n".join(rows)), everything


def published(count: int) -> tuple[str, bool]:
    """The rejections of the published test on the same audits: shown, not required."""
    world, runs = next(iter(LAYERS.values())), (10, 30, 100, 500)
    outcomes = audits(world, replace(SETTINGS, permutations=19, bootstrap=19), count, published=runs)
    shares = [np.mean([outcome.published[each] <= ALPHA for outcome in outcomes]) for each in runs]
    text = PUBLISHED.format(
        count=count,
        runs=" | ".join(map(str, runs)),
        rule=" | ".join("---" for _ in runs),
        shares=" | ".join(f"{share:.0%}" for share in shares),
    )
    return text, True


def power(count: int) -> tuple[str, bool]:
    """The gate's findings for effects of known size."""
    world = next(iter(LAYERS.values()))
    rows, holds = [], True
    for size in ((20, 40, 20), (40, 80, 40), (80, 160, 80)):
        for estimator in ESTIMATORS if size == (40, 80, 40) else ESTIMATORS[:1]:
            for effect in EFFECTS:
                sized = replace(
                    world, n_concept=size[0], n_reference=size[1], n_target=size[2], shift=3.0, slope=effect / 3
                )
                outcomes = audits(sized, replace(POWER, estimator=estimator), count)
                wrong = sum(_wrong(outcome) for outcome in outcomes)
                holds &= wrong <= binom.ppf(0.999, count, ALPHA)
                rows.append(_power_row(estimator, size, effect, outcomes, wrong))
    return POWER_OF_GATE.format(count=count, rows="\n".join(rows)), holds


def _wrong(outcome: Outcome) -> bool:
    """The finding that the truth excludes."""
    if abs(outcome.truth) > TOLERANCE:
        return outcome.finding == "not_influential"
    return outcome.truth == 0 and outcome.finding == "influential"


def _power_row(estimator: str, size: tuple[int, int, int], effect: float, outcomes: list[Outcome], wrong: int) -> str:
    findings = Counter(outcome.finding for outcome in outcomes)
    covered = sum(outcome.interval[0] <= outcome.truth <= outcome.interval[1] for outcome in outcomes)
    shares = [_rejected(outcomes, "p_effect")]
    shares += [findings[each] for each in ("influential", "not_influential", "inconclusive")]
    figures = _percent([*shares, wrong, covered], len(outcomes), 0)
    return f"| {estimator} | {' / '.join(map(str, size))} | {effect} | {figures} |"


def _rejected(outcomes: list[Outcome], p: str) -> int:
    return sum(getattr(outcome, p) <= ALPHA for outcome in outcomes)


def _percent(shares: Sequence[int], count: int, digits: int = 1) -> str:
    return " | ".join(f"{share / count:.{digits}%}" for share in shares)
