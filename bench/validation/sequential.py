"""Sequential audits: error rates where an audit may stop at any look, power, and the passes that are saved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.validation.audits import ALPHA, DRAWS, TOLERANCE, verdict_on
from bench.validation.coverage import TARGETS
from bench.validation.ground_truth import Answers, Asked, answers
from bench.validation.scenarios import CASES
from bench.validation.simulation import World, draw, numbers
from caveat_spec.alpha_spending import SpentAt, method_at, spending
from caveat_spec.audit import Audit, ConceptLine, Method, Sequential
from caveat_spec.report import Look
from caveat_worker.engine.base.arrays import Float64Array
from caveat_worker.engine.concepts.concept_test import run_concept_test
from caveat_worker.engine.concepts.fit_problem import Settings, TargetData
from caveat_worker.engine.concepts.output_gap import output_gap
from caveat_worker.engine.statistics.intervals import mean_interval, scaled_mean_interval
from caveat_worker.engine.statistics.p_values import sign_flip_p
from caveat_worker.engine.statistics.proportions import exact_interval

LOOKS = Sequential().looks
PAIRS = 400
SPREAD = 1.0
"""Standard deviation of single changes, in that of the target."""
CURVE = (0.0, 0.1, 0.2, 0.25, 0.35, 0.4, 0.5, 0.6, 0.8, 1.0)
OF = ("tables",)
"""The ground truths that are asked again, of `scenarios.CASES`; any of them may stand here."""
MEDIAN = 0.5
"""The largest share of the passes that half of the settled ground-truth lines may need."""


@dataclass(frozen=True)
class Stopped:
    """Where an audit of one line stopped, and with what."""

    share: float
    finding: str
    alarm: bool
    """Whether a test at any look until then had p ≤ its alpha."""


def sequential(quick: bool) -> tuple[str, bool]:
    """Error rates and power; holds where no rate is above alpha."""
    count = 100 if quick else 1000
    parts = [error_rates(count), power_curve(count)]
    text = HEAD.format(looks=_shares(LOOKS), alphas=_alphas()) + "".join(text for text, _ in parts)
    return text, all(holds for _, holds in parts)


HEAD = """## Sequential audits

Made by `python -m bench.validation sequential`. Looks at {looks} of the examples, which spend {alphas}.
An audit of one line stops at the first look that settles it; it is *wrong* whatever the look at which it was.

"""


def _shares(shares: Sequence[float]) -> str:
    return ", ".join(f"{share:.0%}" for share in shares)


def _alphas() -> str:
    return ", ".join(f"{one.alpha:.4f}" for one in spending(LOOKS, ALPHA))


def most(count: int) -> float:
    """The largest share of `count` audits within the binomial 95 % interval of alpha."""
    return ALPHA + 1.96 * float(np.sqrt(ALPHA * (1 - ALPHA) / count))


# -- A measured change


def _stop(
    changes: Float64Array, values: Float64Array | None, looks: Sequence[SpentAt], seed: int, *, tested: bool
) -> Stopped:
    """Looks at the first changes until their mean is settled: in the target's unit, or in sd where there are values."""
    rng, alarm, finding, share = np.random.default_rng([DRAWS, seed]), False, "open", 1.0
    for look in looks:
        n, method = round(look.share * len(changes)), method_at(Method(), look)
        share, seen = look.share, changes[:n]
        alarm |= tested and sign_flip_p(seen, method.permutations, rng) <= look.alpha
        if values is None:
            low, high = mean_interval(seen, look.alpha)
        else:
            low, high = scaled_mean_interval(seen, values[:n], look.alpha, method.bootstrap, rng, together=True)
        finding = _finding(low, high)
        if finding != "open":
            break
    return Stopped(share, finding, alarm)


def _finding(low: float, high: float) -> str:
    if low > TOLERANCE or high < -TOLERANCE:
        return "influential"
    return "not influential" if low >= -TOLERANCE and high <= TOLERANCE else "open"


FIXED = [SpentAt(1.0, ALPHA)]


def _measured(case: tuple[str, float, bool, int], looks: Sequence[SpentAt]) -> list[Stopped]:
    """Audits of one row, stopped."""
    name, effect, in_sd, count = case
    rng = np.random.default_rng([DRAWS, 7, *name.encode()])
    spread = float(TARGETS[name](rng, 1_000_000).std())
    found = []
    for seed in range(count):
        noise = TARGETS[name](rng, PAIRS) / spread
        changes = effect + SPREAD * (noise - _mean_of(name) / spread)
        found.append(_stop(changes, rng.normal(size=PAIRS) if in_sd else None, looks, seed, tested=effect == 0))
    return found


def _mean_of(name: str) -> float:
    return float(np.exp(0.7459**2 / 2)) if name == "lognormal" else 0.0


ERRORS = """### Error rates where an audit may stop at any look

{count} audits a row of {pairs} matched pairs whose single changes vary by {spread:g} sd; the tolerance is {tolerance}
sd. *False alarms* have a p at or under its look's alpha at any look; *influential* and *not influential* are what the
audit stopped with, both wrong where the truth equals the tolerance. Rates up to {most:.1%} lie inside the binomial 95 %
interval around alpha.

| changes | unit | truth | false alarms | influential | not influential | median share of the examples | holds |
| --- | --- | --- | --- | --- | --- | --- | --- |
{rows}

"""


def error_rates(count: int) -> tuple[str, bool]:
    """Null rows and rows whose truth is the tolerance, by measured changes and by decisions."""
    cases = [(name, effect, False, count) for name in TARGETS for effect in (0.0, TOLERANCE)]
    cases += [(name, effect, True, count) for name in ("normal", "mixture") for effect in (0.0, TOLERANCE)]
    with ProcessPoolExecutor() as executor:
        every = list(executor.map(partial(_measured, looks=spending(LOOKS, ALPHA)), cases))
    rows, everything = [], True
    for (name, effect, scaled, _), found in zip(cases, every, strict=True):
        rows.append(_row(name, "sd" if scaled else "its own", effect, found))
        everything &= rows[-1].endswith("yes |")
    flips = _flips(count)
    rows.append(_row("flips of decisions", "decisions", TOLERANCE, flips, alarms=False))
    everything &= rows[-1].endswith("yes |")
    text = ERRORS.format(
        count=count,
        pairs=PAIRS,
        spread=SPREAD,
        tolerance=TOLERANCE,
        most=most(count),
        rows="\n".join(rows),
    )
    return text, everything


def _row(name: str, unit: str, effect: float, found: Sequence[Stopped], *, alarms: bool = True) -> str:
    rates = {kind: _rate(found, kind) for kind in ("influential", "not influential")}
    alarm = sum(one.alarm for one in found) / len(found)
    wrong = [sum(rates.values())] if effect else [rates["influential"], alarm]
    cells = [
        f"{alarm:.1%}" if alarms and not effect else "",
        *(f"{rate:.1%}" for rate in rates.values()),
        f"{np.median([one.share for one in found]):.0%}",
        "yes" if max(wrong) <= most(len(found)) else "**no**",
    ]
    return f"| {name} | {unit} | {'the tolerance' if effect else 'none'} | {' | '.join(cells)} |"


def _rate(found: Sequence[Stopped], kind: str) -> float:
    return sum(one.finding == kind for one in found) / len(found)


def _flips(count: int) -> list[Stopped]:
    """Shares of flipped decisions that equal the tolerance."""
    rng, found = np.random.default_rng([DRAWS, 8]), []
    for _ in range(count):
        flipped, finding, share = rng.random(PAIRS) < TOLERANCE, "open", 1.0
        for look in spending(LOOKS, ALPHA):
            n, share = round(look.share * PAIRS), look.share
            finding = _finding(*exact_interval(int(flipped[:n].sum()), n, look.alpha))
            if finding != "open":
                break
        found.append(Stopped(share, finding, alarm=False))
    return found


# -- Association


ASSOCIATION = """## Sequential audits by association

Made by `python -m bench.validation association`, with the same looks. {count} audits a row of {sizes} concept,
reference and target examples and a layer of {d} features, mean difference. *Encoded, no effect* is a concept that the
layer encodes while the target does not change along it; *a random set* is one that the layer does not encode.

| truth | false alarms | influential | not influential | median share of the examples | holds |
| --- | --- | --- | --- | --- | --- |
{rows}

"""
SIZES, SHIFT = (80, 160, 80), 3.0
WORLDS: Mapping[str, World] = {
    "a random set": World(*SIZES),
    "encoded, no effect": World(*SIZES, shift=SHIFT),
    "encoded, at the tolerance": World(*SIZES, shift=SHIFT, slope=TOLERANCE / SHIFT),
}


def association(quick: bool) -> tuple[str, bool]:
    """Null rows and a row at the tolerance, by association."""
    rows, everything, count = [], True, 16 if quick else 1000
    with ProcessPoolExecutor() as executor:
        for name, world in WORLDS.items():
            found = list(executor.map(partial(_associated, world), range(count), chunksize=8))
            line = _row("", "", world.slope, found)
            rows.append(f"| {name} |{line.split('|', 4)[4]}")
            everything &= line.endswith("yes |")
    sizes = " / ".join(map(str, SIZES))
    return ASSOCIATION.format(count=count, sizes=sizes, d=World().d, rows="\n".join(rows)), everything


def _associated(world: World, seed: int) -> Stopped:
    """One audit by association, look by look."""
    rng = np.random.default_rng([DRAWS, 9, seed])
    data, target = draw(world, rng)
    concept, reference = numbers(world, rng)
    alarm, finding, share = False, "open", 1.0
    for look in spending(LOOKS, ALPHA):
        share, method = look.share, method_at(Method(), look)
        settings = Settings(
            cross_check=None, runs=2, folds=2, permutations=method.permutations, bootstrap=method.bootstrap
        )
        settings = replace(settings, alpha=look.alpha)
        some = replace(data, concept=_first(data.concept, share), reference=_first(data.reference, share))
        there = TargetData(_first(target.gx, share), _first(target.values, share))
        result = run_concept_test(some, [there], settings, rng).figures[0]
        gap = output_gap(_first(concept, share), _first(reference, share), there.values, settings, rng)
        line = verdict_on(result, gap, settings, TOLERANCE)
        alarm |= result.effect.p <= look.alpha
        if line.outcome != "inconclusive":
            finding = str(line.finding).replace("_", " ")
            finding = "not influential" if finding == "not encoded" else finding
            break
    return Stopped(share, finding, alarm)


def _first(array: NDArray[Any], share: float) -> NDArray[Any]:
    return array[: round(share * len(array))]


# -- Power


POWER = """### Power, and the examples that it takes

{count} audits a row of {pairs} matched pairs, normal changes that vary by {spread:g} sd, tolerance {tolerance} sd.
*Settled* is the share with the right finding, *fixed* by all examples at once. The price of looking is the difference;
what it buys is the mean share of the examples.

| true change (sd) | settled, fixed | sequential | wrong, fixed | sequential | mean share of the examples | median |
| --- | --- | --- | --- | --- | --- | --- |
{rows}

"""


def power_curve(count: int) -> tuple[str, bool]:
    """Right findings by the size of the change, fixed and sequential, of the same draws."""
    cases = [("normal", effect, False, count) for effect in CURVE]
    with ProcessPoolExecutor() as executor:
        fixed = list(executor.map(partial(_measured, looks=FIXED), cases))
        looked = list(executor.map(partial(_measured, looks=spending(LOOKS, ALPHA)), cases))
    rows = []
    for effect, once, several in zip(CURVE, fixed, looked, strict=True):
        right, wrong = ("influential", "not influential") if effect > TOLERANCE else ("not influential", "influential")
        shares = [one.share for one in several]
        rows.append(
            f"| {effect:g} | {_rate(once, right):.0%} | {_rate(several, right):.0%} | {_rate(once, wrong):.1%} "
            f"| {_rate(several, wrong):.1%} | {np.mean(shares):.0%} | {np.median(shares):.0%} |"
        )
    text = POWER.format(count=count, pairs=PAIRS, spread=SPREAD, tolerance=TOLERANCE, rows="\n".join(rows))
    return text, True


# -- Ground truths


TRUTHS = """## Ground truths, sequentially

Made by `python -m bench.validation passes`. The tables chosen beforehand, asked again with `sequential: {{}}`: {count}
audits, {lines} lines about concepts: {tally}. A line needs the passes until the first look that settles it. Half of the
{settled} settled lines need at most {median:.0%} of the passes of a fixed audit (three quarters at most {most:.0%});
half of the audits, which go on while any of their lines may still be settled, at most {of_audits:.0%}. A pass is an
example forward, a gradient, or a step from a layer to the end. The other ground truths were not asked again.

| audit | lines | settled at {heads} | never | wrong | passes, of a fixed audit |
| --- | --- | {dashes} | --- | --- | --- |
{rows}
"""


def passes(quick: bool, folder: Path) -> tuple[str, bool]:
    """Ground truths, sequentially; holds where none is wrong and half of the passes suffice."""
    asked = [one for name in OF for one in CASES[name](folder / name)]
    found = [answers(replace(one, audit=_looked(one))) for one in (asked[:2] if quick else asked)]
    shares = [share for one in found for share in _shares_of(one) if share is not None]
    whole = [1 - one.report.sequential.saved for one in found if one.report.sequential is not None]
    tally = sum((one.tally for one in found), start=found[0].tally.__class__())
    text = TRUTHS.format(
        count=len(found),
        lines=sum(len(one.facts) for one in found),
        tally=", ".join(f"{count} {kind}" for kind, count in tally.items()),
        settled=len(shares),
        median=np.median(shares),
        most=np.quantile(shares, 0.75),
        of_audits=np.median(whole),
        heads=" | ".join(f"{share:.0%}" for share in LOOKS),
        dashes=" | ".join(["---"] * len(LOOKS)),
        rows="\n".join(map(_truth_row, found)),
    )
    return text, not tally["wrong"] and float(np.median(shares)) <= MEDIAN


def _looked(asked: Asked) -> Audit:
    method = asked.audit.method.model_copy(update={"sequential": Sequential()})
    return asked.audit.model_copy(update={"method": method})


def _first_looks(of: Answers) -> Iterator[Look | None]:
    """The first look that settles each line about a concept."""
    assert of.report.sequential is not None
    gate = of.asked.audit.gate
    for number, line in enumerate(gate):
        if isinstance(line, ConceptLine):
            yield next((look for look in of.report.sequential.looks if number in look.settled), None)


def _shares_of(of: Answers) -> list[float | None]:
    """The share of a fixed audit's passes that each line about a concept needs; None where it is never settled."""
    assert of.report.sequential is not None
    fixed = of.report.sequential.fixed.total
    return [None if look is None else look.passes.total / fixed for look in _first_looks(of)]


def _truth_row(of: Answers) -> str:
    assert of.report.sequential is not None
    at = [None if look is None else look.share for look in _first_looks(of)]
    counts = " | ".join(str(sum(one == share for one in at)) for share in LOOKS)
    return (
        f"| {of.asked.title} | {len(at)} | {counts} | {at.count(None)} | {of.tally['wrong']} "
        f"| {1 - of.report.sequential.saved:.0%} |"
    )
