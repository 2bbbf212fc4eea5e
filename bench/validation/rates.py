"""Error rates of the tests and of the verdicts, over many simulated audits whose truth is known."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
from scipy.stats import binom

from bench.validation.audits import ALPHA, TOLERANCE, audits, percent, rejected
from bench.validation.simulation import World
from caveat_spec.audit import Method
from caveat_worker.engine.concepts.fit_problem import Settings

ESTIMATORS = ("logistic", "mean_difference")
WIDE = World(40, 80, 40, d=2000, decay=0.5)
LAYERS = {
    "wide": WIDE,
    "ReLU": World(40, 80, 40, d=64, decay=0.2, relu=True),
}
PAIRED = {f"{name}, paired": replace(world, paired=True) for name, world in LAYERS.items()}
SETTINGS = Settings(cross_check=None, runs=2, permutations=99, bootstrap=Method().bootstrap, alpha=ALPHA)
"""Resamples as audits have them: ends of intervals from fewer lie too far in, and fewer of them hold the truth."""
POWER = replace(SETTINGS, permutations=Method().permutations)


def rates(quick: bool) -> tuple[str, bool]:
    """Runs the studies, with a tenth of the audits if `quick`; whether every error rate is within its bound."""
    share = 10 if quick else 1
    sections = [
        calibration(500 // share),
        not_encoded(500 // share),
        neutral(500 // share),
        published(100 // share),
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
no layer encodes it; up to {bound} passes lie inside the binomial 95 % interval around α. It can pass in some 2.5 %,
where the gap of the model's numbers looks smaller than it is. A layer that encodes it by chance clears nothing.

| concept / reference / target | influence | not encoded | gate passes | holds |
| --- | --- | --- | --- | --- |
{rows}

"""

NEUTRAL = """### No effect, but encoded

{count} audits a row: the layer encodes the concept, and the target's slope along it is zero. Such a concept is not a
random set, so the permutation p-value (*against sets*) is not calibrated for it; the effect's p is the larger of that
and the bootstrap p-value (*against zero*). Rates up to {share:.1%} are inside the binomial 95 % interval.

| layer | estimator | against sets, p ≤ α | effect, p ≤ α | score, p ≤ α | influential | not influential | holds |
| --- | --- | --- | --- | --- | --- | --- | --- |
{rows}

"""

PUBLISHED = """### The published test where there is no effect

The t-test of a concept's runs against runs of random sets (Kim et al. 2018; tensorflow/tcav), {count} null audits, wide
layer, logistic: more runs only make the test more confident of an effect that does not exist.

| runs | {runs} |
| --- | {rule} |
| rejected | {shares} |

"""


def calibration(count: int) -> tuple[str, bool]:
    """How often a concept that is a random set is called significant."""
    bound = int(binom.ppf(0.975, count, ALPHA))
    rows, everything = [], True
    for layer, world in (LAYERS | PAIRED).items():
        for estimator in ESTIMATORS:
            outcomes = audits(world, replace(SETTINGS, estimator=estimator), count)
            effect, score = (rejected(outcomes, of) for of in ("p_effect", "p_score"))
            findings = Counter(outcome.finding for outcome in outcomes)
            holds = max(effect, score, findings["influential"]) <= bound
            everything &= holds
            passed = sum(outcome.passes for outcome in outcomes)
            shares = (effect, score, findings["influential"], findings["not_encoded"], passed)
            rows.append(f"| {layer} | {estimator} | {percent(shares, count)} | {'yes' if holds else '**no**'} |")
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
            shares = percent((findings["not_encoded"], passed), count)
            rows.append(f"| {' / '.join(map(str, size))} | {name} | {shares} | {'yes' if holds else '**no**'} |")
    return NOT_ENCODED.format(count=count, bound=bound, rows="\n".join(rows)), everything


def neutral(count: int) -> tuple[str, bool]:
    """How often a concept that is encoded but has no effect is called significant."""
    bound = int(binom.ppf(0.975, count, ALPHA))
    rows, everything = [], True
    for layer, world in (LAYERS | PAIRED).items():
        for estimator in ESTIMATORS:
            outcomes = audits(replace(world, shift=3.0), replace(POWER, estimator=estimator), count)
            findings = Counter(outcome.finding for outcome in outcomes)
            shares = [rejected(outcomes, of) for of in ("p_against_sets", "p_effect", "p_score")]
            shares += [findings["influential"], findings["not_influential"]]
            holds = findings["influential"] <= bound and rejected(outcomes, "p_effect") <= bound
            everything &= holds
            rows.append(f"| {layer} | {estimator} | {percent(shares, count)} | {'yes' if holds else '**no**'} |")
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
