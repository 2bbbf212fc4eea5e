"""What the ratings of a study came to, as one page."""

from __future__ import annotations

from dataclasses import dataclass

from caveat_reports import formatting
from caveat_reports.chart import Scale, Span
from caveat_reports.pages import environment, styled
from caveat_reports.study.forms import concept_words, policy
from caveat_spec.base import Interval
from caveat_spec.study import FEWEST_RATERS, LARGEST_IMPORTANCE, Study, StudyFindings, Weighed

MOST_ROWS = 500
"""Rows of the tables of refused and missing answers; the JSON has all."""


@dataclass(frozen=True)
class Row:
    """One line of the chart: a difference with its interval."""

    title: str
    note: str
    at: float | None
    span: Span | None
    words: str


def render(study: Study, found: StudyFindings) -> str:
    """The whole page; it needs no network and no script."""
    scale = _scale(found)
    titles = {kind.name: kind.title for kind in study.maps}
    rows = [_row(scale, one.of.replace("_", " "), titles[one.map], one.difference, one.interval) for one in found.cells]
    template = environment().get_template("study/findings.html")
    return template.render(
        study=study,
        found=found,
        concept=concept_words(study),
        titles=titles,
        rows=rows,
        scale=scale,
        zero=scale.at(0),
        side=lambda side: _side(side, concept_words(study)),
        mean=lambda value: "" if value is None else formatting.fixed(value, 1),
        fewest=FEWEST_RATERS,
        most_rows=MOST_ROWS,
        style=styled("study.css").text,
        policy=policy(served=False),
        served=False,
    )


def _scale(found: StudyFindings) -> Scale:
    """A scale around 0 that holds every interval, in whole points."""
    ends = [abs(end) for one in found.cells if one.interval is not None for end in one.interval]
    ends += [abs(one.difference) for one in found.cells if one.difference is not None]
    end = next((one for one in (1, 2, 3, 4, 6, 8, 9) if one >= max(ends, default=1)), LARGEST_IMPORTANCE)
    return Scale(-end, end)


def _row(scale: Scale, title: str, note: str, difference: float | None, interval: Interval | None) -> Row:
    if difference is None:
        return Row(title, note, None, None, "no ratings")
    ends = "" if interval is None else f" ({formatting.signed(interval[0], 2)} to {formatting.signed(interval[1], 2)})"
    return Row(
        title,
        note,
        scale.at(difference),
        None if interval is None else scale.span(interval),
        f"{formatting.signed(difference, 2)}{ends}",
    )


def _side(side: Weighed | None, concept: str) -> str:
    return {"image": "image", "concept": concept, None: "undecided"}[side]
