"""Power: what the given examples can settle, before the model runs.

An interval narrows with the number of examples. How wide it will be depends on how much single examples vary, which
only the model knows; so a plan assumes it, says what it assumes, and takes the figures of an earlier report where there
is one. A line settles where its whole interval lies inside the tolerance. `settles` is the smallest tolerance for which
nine of ten audits do so, if the concept does nothing; `finds` is the smallest true effect that nine of ten audits find.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

from pydantic import Field

from caveat_spec.alpha_spending import SpentAt, spending
from caveat_spec.audit import SHARES, Audit, ConceptLine, GroupLine, Unit
from caveat_spec.base import Count, Document, Integer, Name
from caveat_spec.report import Report
from caveat_spec.results import ConceptTest
from caveat_spec.roles import always_whole, example_roles
from caveat_spec.verdict.rules import UNIT_WORDS, in_unit

AUTO_LAYERS = 4
"""The most layers that `layers: auto` picks for a target."""
SPREAD: dict[Unit, float] = {"sd": 0.5, "probability": 0.1}
"""How much the change of single examples is assumed to vary on matched pairs, as a standard deviation in the unit."""
SCALE_ERROR = 0.95
"""The relative standard error of a scale by the middle 70 % of one normal example; that of n falls as 1 / √n."""
SCALE_TAIL = 6.0
"""Resamples of few examples give some very small scales, which widen an interval in sd by this over n, measured."""
MOST_EXAMPLES = 10_000_000
ASSUMED = (
    "Assumed until a report has measured it (`--report`): on matched pairs, single changes vary by 0.5 sd of the "
    "target or by 10 percentage points; without pairs, a target varies over concept and reference as over its own "
    "examples; and no decision flips by itself."
)
MEASURED = "Intervals are as wide as in the given report, narrowed or widened for the number of examples."

_NORMAL = NormalDist()
NINE_OF_TEN = _NORMAL.inv_cdf(0.95), _NORMAL.inv_cdf(0.9)
"""Standard errors to either side of 0 that hold nine of ten estimates; and below a value that nine of ten exceed."""


class PlannedLine(Document):
    """What the examples can settle about one line of the gate."""

    line: Integer
    """Its position in the gate, from 0."""
    subject: str
    evidence: Literal["matched pairs", "association", "groups"]
    unit: Unit | None = None
    tolerance: float | None = None
    settles: float | None = None
    """The smallest tolerance, in the line's unit, that nine of ten audits settle if the concept does nothing; null
    where no tolerance is one, or where that is not known."""
    finds: float | None = None
    """The smallest true effect beyond the tolerance that nine of ten audits find."""
    has: dict[Name, Count] = Field(default_factory=dict)
    """The examples that decide it: a set → how many it has."""
    needs: dict[Name, Count] = Field(default_factory=dict)
    """How many they would have to be for the line's tolerance; empty where that is not known."""
    first_look: float | None = None
    """The share of the examples at the first look of a sequential audit that settles the line in nine of ten, if the
    concept does nothing; null where none does, or where that is not known."""
    reachable: bool | None = None
    """Whether these examples can settle the line's tolerance; null where that cannot be said beforehand."""
    assumed: bool = False
    """Whether the figures rest on an assumed spread, so that a report may show other ones."""
    sentence: str


class PlannedLook(Document):
    """One look of a sequential audit."""

    share: float
    """Of each example set."""
    alpha: float
    """What it spends."""


class AuditPlan(Document):
    """What an audit's examples can settle, before the model runs."""

    examples: dict[Name, Count]
    """Each set and its number of examples."""
    alpha: float
    correction: str
    tests: Count
    """Tests by association that the correction is over."""
    assumed: str
    """What is taken for granted about how much examples vary, in a sentence."""
    looks: list[PlannedLook] = Field(default_factory=list)
    """Of a sequential audit; what lines can settle is by all examples, at the alpha that the last look spends."""
    left_out: list[float] = Field(default_factory=list)
    """Shares of looks that would have fewer than `min_examples` of some kind; the next look spends their alpha. A draw
    decides which examples a look has, so that near the bound the audit may take one, or leave one out."""
    lines: list[PlannedLine]

    @property
    def unreachable(self) -> list[str]:
        """A sentence for each line whose tolerance these examples cannot settle, as far as that is known."""
        return [
            f"{'Perhaps out' if line.assumed else 'Out'} of reach: {line.subject}: {line.sentence}"
            for line in self.lines
            if line.reachable is False
        ]


@dataclass(frozen=True)
class _Width:
    """How wide an interval will be: the standard error with the sets' sizes multiplied by a factor.

    `scaled_by` examples give the scale of figures in sd, which is then uncertain too; 0 for other units.
    """

    sets: dict[str, int]
    error: Callable[[float], float]
    scaled_by: int = 0

    def settles(self, alpha: float, times: float = 1.0) -> float:
        """The smallest tolerance that holds the whole interval in nine of ten audits, if the truth is 0.

        With the standard error e and the scale's relative error r, it is the root of `x = t e + z √(e² + x² r²)`.
        """
        error, freedom = self.error(times), max(min(self.sets.values()) * times - 1, 1)
        half, z = _t(1 - alpha / 2, freedom) * error, NINE_OF_TEN[0]
        if self.scaled_by:
            half *= 1 + SCALE_TAIL / (self.scaled_by * times)
        left = 1 - (z * SCALE_ERROR) ** 2 / (self.scaled_by * times) if self.scaled_by else 1.0
        if left <= 0:
            return math.inf
        return (half + math.sqrt(half**2 - left * (half**2 - (z * error) ** 2))) / left

    def finds(self, alpha: float, corrected: float, tolerance: float) -> float:
        """The smallest effect that is significant, with its whole interval beyond the tolerance, in nine of ten."""
        freedom = max(min(self.sets.values()) - 1, 1)
        farther = tolerance + _t(1 - alpha / 2, freedom) * self.error(1)
        significant = _NORMAL.inv_cdf(1 - corrected / 2) * self.error(1)
        return max(farther, significant) + NINE_OF_TEN[1] * self.error(1)

    def needs(self, alpha: float, tolerance: float, fewest: int) -> dict[str, int]:
        """The sets' sizes at which the tolerance settles, `fewest` or more; empty where they are out of reach."""
        low, high = 0.0, 1.0
        while self.settles(alpha, high) > tolerance:
            low, high = high, high * 2
            if high * max(self.sets.values()) > MOST_EXAMPLES:
                return {}
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if self.settles(alpha, middle) > tolerance else (low, middle)
        return {name: max(math.ceil(n * high), fewest) for name, n in self.sets.items()}


def plan_audit(audit: Audit, counts: Mapping[str, int], report: Report | None = None) -> AuditPlan:
    """What the gate's lines can settle with so many examples in each set; widths are those of a `report`, if given."""
    layers = AUTO_LAYERS if audit.layers == "auto" else len(audit.layers)
    tests = len(audit.concepts) * len(audit.targets) * layers
    asked, looks = audit.method.sequential, _looks(audit, counts)
    lines = [
        _groups(position, line)
        if isinstance(line, GroupLine)
        else _concept(audit, counts, report, tests, position, line)
        for position, line in enumerate(audit.gate)
    ]
    return AuditPlan(
        examples=dict(counts),
        alpha=audit.method.alpha,
        looks=[PlannedLook(share=look.share, alpha=look.alpha) for look in looks if asked],
        left_out=[share for share in asked.looks if share not in {look.share for look in looks}] if asked else [],
        correction=audit.method.correction,
        tests=tests,
        assumed=ASSUMED if report is None else MEASURED,
        lines=lines,
    )


def _groups(position: int, line: GroupLine) -> PlannedLine:
    by_value = line.judge == "point"
    return PlannedLine(
        line=position,
        subject=f"{line.metric.replace('_', ' ')} of {line.group}",
        evidence="groups",
        reachable=True if by_value else None,
        sentence="The metric's value decides, whatever the number of people."
        if by_value
        else "Whether the interval keeps the bound depends on the size of each group and on its rate.",
    )


def _concept(
    audit: Audit, counts: Mapping[str, int], report: Report | None, tests: int, position: int, line: ConceptLine
) -> PlannedLine:
    concept = audit.concepts[line.concept]
    base = audit.examples[concept.examples].pairs_with
    paired, looks = base is not None, _looks(audit, counts)
    alpha = looks[-1].alpha
    sets = _deciding(audit, counts, line, base)
    about = {
        "line": position,
        "subject": f"{line.concept} on {line.target}",
        "evidence": "matched pairs" if paired else "association",
        "unit": line.unit,
        "tolerance": line.tolerance,
        "has": sets,
    }
    if line.unit == "decisions":
        return PlannedLine.model_validate(about | _exact(audit, looks, sets, line))
    width = _measured(report, sets, line) if report is not None else _assumed(audit, sets, line, paired=paired)
    if width is None:
        said = "How wide its interval will be is not known before the model runs; give an earlier report (`--report`)."
        return PlannedLine.model_validate(about | {"sentence": said})
    corrected = alpha if paired or audit.method.correction == "none" else alpha / max(tests, 1)
    settles, needs = width.settles(alpha), width.needs(alpha, line.tolerance, audit.method.min_examples)
    figures = {
        "settles": settles if math.isfinite(settles) else None,
        "finds": width.finds(alpha, corrected, line.tolerance),
        "needs": needs,
        "first_look": _first_look(audit, looks, lambda look: width.settles(look.alpha, look.share) <= line.tolerance),
        "reachable": settles <= line.tolerance,
        "assumed": report is None,
        "sentence": _sentence(sets, needs, settles, line, assumed=report is None),
    }
    return PlannedLine.model_validate(about | figures)


def _looks(audit: Audit, counts: Mapping[str, int]) -> list[SpentAt]:
    """The looks of a sequential audit that have enough examples, or the only one of another."""
    asked = audit.method.sequential
    if asked is None:
        return spending([1.0], audit.method.alpha)
    whole = always_whole(audit)

    def enough(share: float) -> bool:
        return all(
            sum(counts[name] * (1 if name in whole else share) for name in role.sets) >= audit.method.min_examples
            for role in example_roles(audit)
        )

    return spending([share for share in asked.looks if share == 1 or enough(share)], audit.method.alpha)


def _first_look(audit: Audit, looks: Sequence[SpentAt], settles: Callable[[SpentAt], bool]) -> float | None:
    """The share of the first look that settles a line; None where none does, and for an audit without looks."""
    found = next((look.share for look in looks if settles(look)), None)
    return None if audit.method.sequential is None else found


def _deciding(audit: Audit, counts: Mapping[str, int], line: ConceptLine, base: str | None) -> dict[str, int]:
    """The sets whose sizes decide how wide a line's interval is."""
    concept, target = audit.concepts[line.concept], audit.targets[line.target].examples
    if line.unit in SHARES and base is None:
        return {target: counts[target]}
    pairs = {} if base is None else {concept.examples: min(counts[concept.examples], counts[base])}
    if line.unit in SHARES:
        return pairs
    of_scale = {target: counts[target]}
    return (pairs or {name: counts[name] for name in (concept.examples, *concept.reference_sets)}) | of_scale


def _assumed(audit: Audit, sets: dict[str, int], line: ConceptLine, *, paired: bool) -> _Width | None:
    """The width before anything was measured; None in the target's own unit, whose scale the model has."""
    spread = SPREAD.get(line.unit)
    if spread is None or min(sets.values()) < 2:
        return None
    concept = audit.concepts[line.concept]
    scaled_by = sets[audit.targets[line.target].examples] if line.unit == "sd" else 0
    if paired or line.unit == "probability":
        n = next(iter(sets.values()))
        return _Width(sets, lambda times: spread / math.sqrt(n * times), scaled_by)
    shares = 1 / sets[concept.examples] + 1 / sum(sets[name] for name in concept.reference_sets)
    return _Width(sets, lambda times: math.sqrt(shares / times), scaled_by)


def _measured(report: Report, sets: dict[str, int], line: ConceptLine) -> _Width | None:
    """The width of the widest interval that an earlier report has of the line's concept and target."""
    pair = line.concept, line.target
    tests = [one for one in report.interventions if (one.concept, one.target) == pair]
    tests = tests or [one for one in report.associations if (one.concept, one.target) == pair]
    found = [(one, in_unit(one.effect, line) or (one.finite_step and in_unit(one.finite_step, line))) for one in tests]
    halves = [_scaled(one, figure.interval, sets, report) for one, figure in found if figure is not None]
    if not halves:
        return None
    error = max(halves) / _NORMAL.inv_cdf(1 - report.alpha / 2)
    return _Width(sets, lambda times: error / math.sqrt(times))


def _scaled(test: ConceptTest, interval: tuple[float, float], sets: dict[str, int], report: Report) -> float:
    """Half an interval of an earlier report, with as many examples as there are now."""
    counts = {one.name: one.count for one in report.plan.examples}
    grown = min((now / counts[name] for name, now in sets.items() if counts.get(name)), default=1.0)
    return (interval[1] - interval[0]) / 2 / math.sqrt(grown)


def _exact(audit: Audit, looks: Sequence[SpentAt], sets: dict[str, int], line: ConceptLine) -> dict[str, object]:
    """Decisions: the exact interval of no flip in n ends at 1 - (alpha / 2) ^ (1 / n)."""
    ((name, n),) = sets.items()

    def ends(alpha: float, n: float) -> float:
        return 1 - (alpha / 2) ** (1 / n) if n else 1.0

    alpha = looks[-1].alpha
    settles = ends(alpha, n)
    needs = {name: math.ceil(math.log(alpha / 2) / math.log1p(-line.tolerance))}
    return {
        "settles": settles,
        "needs": needs,
        "first_look": _first_look(audit, looks, lambda look: ends(look.alpha, n * look.share) <= line.tolerance),
        "reachable": n >= needs[name],
        "sentence": _sentence(sets, needs, settles, line),
    }


def _sentence(
    sets: dict[str, int], needs: dict[str, int], settles: float, line: ConceptLine, *, assumed: bool = False
) -> str:
    has = ("by the assumed spread, " if assumed else "") + "with "
    has += " and ".join(f"{count:,} of {name}" for name, count in sets.items())
    if math.isfinite(settles):
        smallest = f"{has}, the smallest tolerance that nine of ten audits settle is {amount(settles, line.unit)}"
    else:
        smallest = f"{has}, nine of ten audits settle no tolerance at all"
    if settles <= line.tolerance:
        return f"{smallest[:1].upper()}{smallest[1:]}."
    wanted = " and ".join(f"{count:,} of {name}" for name, count in needs.items())
    remedy = f"give {wanted}, or raise the tolerance" if needs else "raise the tolerance"
    return f"{smallest[:1].upper()}{smallest[1:]}; for {amount(line.tolerance, line.unit)} {remedy}."


def amount(value: float, unit: Unit) -> str:
    """A number in its unit: `0.29 sd`, `5.9 percentage points`, `8.8 % of decisions`; rounded up, so that it holds."""
    number = float(f"{100 * value if unit in SHARES else value:.6g}")
    digit = 10.0 ** (math.floor(math.log10(number)) - 2) if number else 1.0
    return f"{math.ceil(number / digit - 1e-6) * digit:.3g} {UNIT_WORDS.get(unit, unit)}"


def _t(level: float, freedom: float) -> float:
    """Student's quantile by Cornish and Fisher's expansion: within 1 % for 5 degrees of freedom or more."""
    z = _NORMAL.inv_cdf(level)
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
