"""A report as one page of HTML that needs nothing else: no network, no script, no other file."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Container, Iterable
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Literal

from caveat_reports import explanations, formatting, summary
from caveat_reports.canonical import canonical, digest
from caveat_reports.chart import UNIT, Scale, Span, silhouette, symmetric
from caveat_reports.diff import ShownDifference, sentences, shown_diff
from caveat_reports.figures import draw
from caveat_reports.figures.shades import ramp, shade
from caveat_reports.figures.table import draw as table
from caveat_reports.glossary import GLOSSARY
from caveat_reports.pages import environment, styled
from caveat_reports.versions import LAYER_HEAD, shown_versions
from caveat_spec.alpha_spending import SpentAt, method_at
from caveat_spec.audit import ExampleKind, GroupLine
from caveat_spec.base import Interval, digest_of_bytes
from caveat_spec.report import Report
from caveat_spec.results import Comparison, ConceptTest, Estimate, Histogram, Score
from caveat_spec.sanitize import raster

DOWNLOAD_LIMIT = 2_000_000
"""Bytes of canonical JSON up to which the page carries the report itself."""
GLANCE_FROM = 5
"""Pairs of concept and target from which a table sums them up."""
LONGEST_SIDE = 16
"""Cells on the longer side of a map of positions."""
EXAMPLE_NOUNS: dict[ExampleKind, str] = {"images": "pictures", "arrays": "arrays", "table": "rows", "text": "texts"}
"""What the examples of each kind are called."""


@dataclass(frozen=True)
class Plot:
    """One row of a chart: what was observed, its interval, and behind it the null."""

    key: str
    title: str
    description: str
    at: float
    interval: Span
    mark: Literal["dot", "ring", "diamond", "diamond-ring"]
    silhouette: str | None = None
    band: Span | None = None


@dataclass(frozen=True)
class LayerFigure:
    """One layer of a card."""

    row: ConceptTest
    effect: Plot
    score: Plot | None
    where: Where | None


@dataclass(frozen=True)
class Where:
    """The positions of a layer, each shaded by its part of the effect; coarser than the layer if need be."""

    cells: list[list[str]]
    description: str


@dataclass(frozen=True)
class Card:
    """One concept and one target."""

    key: str
    pair: summary.Pair
    unit: str
    layers: list[LayerFigure]
    intervention: Plot | None
    intervention_sentences: list[str]
    tolerance: str | None
    strongest: ConceptTest | None
    strength: int


@dataclass(frozen=True)
class Bar:
    """One group's rate."""

    key: str
    group: str
    n: int
    small: bool
    value: float
    interval: Interval
    width: float
    span: Span
    below: bool


@dataclass(frozen=True)
class Measure:
    """One rate over all groups."""

    name: str
    title: str
    bars: list[Bar]
    four_fifths: float | None


@dataclass(frozen=True)
class Since:
    """What moved since a baseline: in sentences, and as two tables."""

    baseline: str
    sentences: list[str]
    beyond_noise: list[ShownDifference]
    within_noise: list[ShownDifference]

    @classmethod
    def of(cls, report: Report, baseline: Report) -> Since:
        """The comparison of two reports."""
        found = shown_diff(report, baseline)
        beyond, within = ([one for one in found if one.beyond_noise is wanted] for wanted in (True, False))
        return cls(digest(baseline), sentences(report, baseline), beyond, within)


def render(report: Report, baseline: Report | None = None) -> str:
    """The whole page; with a `baseline`, also what moved since."""
    style = styled("report.css")
    return (
        environment()
        .get_template("report.html")
        .render(
            report=report,
            method=report.audit.method,
            formatting=formatting,
            summary=summary,
            style=style,
            cards=(shown := cards(report)),
            glance=glance(shown) if len(shown) >= GLANCE_FROM else None,
            scale=_effect_scale(report),
            unit_scale=UNIT,
            confidence=_confidence(report.alpha),
            confidence_of_groups=_confidence(report.audit.method.alpha),
            resamples=_resamples(report),
            questions=summary.questions(report),
            since=None if baseline is None else Since.of(report, baseline),
            measures={one.name: measures(one, i) for i, one in enumerate(report.comparisons)},
            bounds=(bounds := _bounds(report)),
            metrics={one.name: _asked_first(one, bounds) for one in report.comparisons},
            kinds=EXAMPLE_NOUNS,
            glossary=GLOSSARY,
            matrices={title: list(found) for title, found in groupby(report.matrices, lambda one: one.title)},
            explained=explanations,
            versions=shown_versions(report),
            layer_head=LAYER_HEAD,
            room=explanations.Room(),
            draw=draw,
            table=table,
            ramp=ramp,
            shade=shade,
            picture=raster,
            download=_download(report),
            associations=[f"{card.pair.concept} → {card.pair.target}" for card in shown if card.intervention is None],
        )
    )


def _confidence(alpha: float) -> str:
    return f"{100 * (1 - alpha):.4g}\u202f%"


def _resamples(report: Report) -> int:
    """How many resamples intervals rest on; the last look of a sequential audit may draw more."""
    method, found = report.audit.method, report.sequential
    if found is None:
        return method.bootstrap
    return method_at(method, SpentAt(found.looks[-1].share, found.alpha)).bootstrap


def cards(report: Report) -> list[Card]:
    """A card for each concept and target, all on one scale."""
    scale = _effect_scale(report)
    return [_card(report, pair, f"c{i}", scale) for i, pair in enumerate(summary.pairs(report), start=1)]


def _card(report: Report, pair: summary.Pair, key: str, scale: Scale) -> Card:
    tolerance, words = _tolerance(report, pair)
    band = None if tolerance is None else scale.span((-tolerance, tolerance))
    unit = summary.unit_of(report, pair.target)
    intervention = pair.intervention
    strongest = pair.strongest
    return Card(
        key=key,
        pair=pair,
        unit=unit,
        layers=[
            LayerFigure(
                row=row,
                effect=_effect_plot(row, f"{key}-e{i}", unit, scale, band, _sd(report, pair.target), report),
                score=None if row.score is None else _score_plot(row, row.score, f"{key}-s{i}", report),
                where=_where(row, pair.target),
            )
            for i, row in enumerate(pair.tests, start=1)
        ],
        intervention=None
        if intervention is None
        else Plot(
            key=f"{key}-w",
            title=f"Measured change of {pair.target} when {pair.concept} is added",
            description=summary.intervention_sentences(intervention, unit)[0],
            at=scale.at(intervention.effect.in_sd),
            interval=scale.span(intervention.effect.interval_in_sd),
            mark="diamond" if intervention.effect.p < report.alpha else "diamond-ring",
            band=band,
        ),
        intervention_sentences=[] if intervention is None else summary.intervention_sentences(intervention, unit)[1:],
        tolerance=words,
        strongest=strongest,
        strength=0 if strongest is None else _step(strongest.effect.in_sd / scale.high),
    )


def _effect_plot(
    row: ConceptTest, key: str, unit: str, scale: Scale, band: Span | None, sd: float, report: Report
) -> Plot:
    null = row.effect.null
    beyond = row.effect.deciding_p < report.alpha
    by_chance = (
        ""
        if null is None
        else f"By chance ({summary.null_words(null)}) it is {formatting.signed(null.mean)} ± "
        f"{formatting.plain(null.sd)} {unit}; "
    )
    return Plot(
        key=key,
        title=f"Effect of {row.concept} on {row.target} at {row.place}",
        description=f"{summary.effect_words(row, unit)}. {by_chance}p corrected "
        f"{formatting.p_value(row.effect.deciding_p)}.",
        at=scale.at(row.effect.in_sd),
        interval=scale.span(row.effect.interval_in_sd),
        mark="dot" if beyond else "ring",
        silhouette=silhouette(null.histogram, scale, sd) if null is not None and sd > 0 else None,
        band=band,
    )


def _score_plot(row: ConceptTest, score: Score, key: str, report: Report) -> Plot:
    null = score.null
    return Plot(
        key=key,
        title=f"TCAV score of {row.concept} for {row.target} at {row.place}",
        description=f"{summary.score_words(row)}. By chance ({summary.null_words(null)}) "
        f"it is {formatting.fixed(null.mean)} ± {formatting.fixed(null.sd)}; p {formatting.p_value(score.p)}.",
        at=UNIT.at(score.value),
        interval=UNIT.span(score.interval),
        mark="dot" if score.p < report.alpha else "ring",
        silhouette=silhouette(null.histogram, UNIT),
    )


def _effect_scale(report: Report) -> Scale:
    """One symmetric scale, in standard deviations of the target, that holds every observation and most of each null."""
    observed = [value for row in report.associations for value in (row.effect.in_sd, *row.effect.interval_in_sd)]
    measured = [value for one in report.interventions for value in (one.effect.in_sd, *one.effect.interval_in_sd)]
    nulls = [
        edge / sd
        for row in report.associations
        if row.effect.null is not None and (sd := _sd(report, row.target)) > 0
        for edge in _core(row.effect.null.histogram)
    ]
    tolerances = [tolerance for pair in summary.pairs(report) if (tolerance := _tolerance(report, pair)[0]) is not None]
    return symmetric([*observed, *measured, *nulls, *tolerances])


def _core(histogram: Histogram) -> Iterable[float]:
    """The edges of the bars that hold anything."""
    for count, (low, high) in zip(histogram.counts, pairwise(histogram.edges), strict=True):
        if count:
            yield from (low, high)


def _sd(report: Report, target: str) -> float:
    """The standard deviation of a target over its examples; 0 where it is not known."""
    return next((one.sd for one in report.plan.targets if one.target == target), 0.0)


def _tolerance(report: Report, pair: summary.Pair) -> tuple[float | None, str | None]:
    """The narrowest tolerance the gate asks of a pair, in standard deviations, and all of them in words."""
    sd = _sd(report, pair.target)
    asked = [line for _, line in summary.concept_lines(report, pair.concept, pair.target)]
    widths = [line.tolerance for line in asked if line.unit == "sd"]
    widths += [line.tolerance / sd for line in asked if line.unit == "logit" and sd > 0]
    return min(widths, default=None), ", ".join(dict.fromkeys(map(summary.tolerance_words, asked))) or None


@dataclass(frozen=True)
class Glance:
    """Every concept against every target: the strongest effect of each."""

    concepts: list[str]
    targets: list[str]
    cards: dict[tuple[str, str], Card]


def glance(shown: list[Card]) -> Glance:
    """The cards as a table."""
    return Glance(
        concepts=list(dict.fromkeys(card.pair.concept for card in shown)),
        targets=list(dict.fromkeys(card.pair.target for card in shown)),
        cards={(card.pair.concept, card.pair.target): card for card in shown},
    )


_RATES = {
    "selection_rate": "Selection rate",
    "true_positive_rate": "True positive rate",
    "false_positive_rate": "False positive rate",
    "standardised_rate": "Selection rate",
}
"""The rates of a group, and what each is called."""


def measures(group: Comparison, position: int) -> list[Measure]:
    """The rates that every group or some group has."""
    found = []
    for name, title in _RATES.items():
        rates = [(row, getattr(row, name)) for row in group.rows]
        if all(rate is None for _, rate in rates):
            continue
        highest = max(rate.value for _, rate in rates if rate is not None)
        line = 0.8 * highest if name == "selection_rate" and len(rates) > 1 else None
        found.append(
            Measure(
                name=name,
                title=f"{title} {summary.given_words(group)}" if name == "standardised_rate" else title,
                four_fifths=None if line is None else UNIT.at(line),
                bars=[
                    Bar(
                        key=f"g{position}-{name}-{i}",
                        group=row.group,
                        n=row.n,
                        small=row.small,
                        value=rate.value,
                        interval=rate.interval,
                        width=UNIT.at(rate.value),
                        span=UNIT.span(rate.interval),
                        below=line is not None and rate.value < line,
                    )
                    for i, (row, rate) in enumerate(rates)
                    if rate is not None
                ],
            )
        )
    return found


def _bounds(report: Report) -> dict[tuple[str, str], list[tuple[str, summary.Line]]]:
    """What the gate asks of each group metric, and what came of it: (group, metric) → bound in words and line."""
    said = {line.number: line for line in summary.lines(report)}
    found: dict[tuple[str, str], list[tuple[str, summary.Line]]] = {}
    for position, line in enumerate(report.audit.gate):
        if isinstance(line, GroupLine) and position + 1 in said:
            found.setdefault((line.group, line.metric), []).append((summary.bound(line), said[position + 1]))
    return found


def _asked_first(group: Comparison, asked: Container[tuple[str, str]]) -> list[tuple[str, Estimate]]:
    """A group's metrics, those that the gate asks about before the others."""
    return sorted(group.metrics.items(), key=lambda metric: (group.name, metric[0]) not in asked)


@dataclass(frozen=True)
class Download:
    """The report's canonical bytes: their digest, their number, and a link that holds them if they are few."""

    digest: str
    size: int
    link: str | None


def _download(report: Report) -> Download:
    content = canonical(report)
    link = f"data:application/json;base64,{b64encode(content).decode()}" if len(content) <= DOWNLOAD_LIMIT else None
    return Download(digest=digest_of_bytes(content), size=len(content), link=link)


def _where(row: ConceptTest, target: str) -> Where | None:
    """The map of a row's positions, summed over blocks so that no side is longer than `LONGEST_SIDE`."""
    if row.spatial_map is None:
        return None
    height, width = [1, 1, *row.spatial_map.shape][-2:]
    planes = len(row.spatial_map.parts) // (height * width)
    block = -(-max(height, width) // LONGEST_SIDE)
    parts = [[0.0] * -(-width // block) for _ in range(-(-height // block))]
    for place, part in enumerate(row.spatial_map.parts):
        y, x = divmod(place % (height * width), width)
        parts[y // block][x // block] += part
    largest = max((abs(part) for line in parts for part in line), default=0.0) or 1.0
    strongest = max(((abs(part), y, x) for y, line in enumerate(parts) for x, part in enumerate(line)))
    return Where(
        cells=[[shade(part / largest) for part in line] for line in parts],
        description=(
            f"Where at {row.place} a step towards {row.concept} moves {target}: {height} by {width} positions"
            f"{f', summed over {planes} planes' if planes > 1 else ''}. The strongest is row {strongest[1] + 1} of "
            f"{len(parts)}, column {strongest[2] + 1} of {len(parts[0])}, counted from the top left."
        ),
    )


def _step(part: float, steps: int = 6) -> int:
    """-1..1 as one of the shades -6..6."""
    return round(max(-1.0, min(1.0, part)) * steps)
