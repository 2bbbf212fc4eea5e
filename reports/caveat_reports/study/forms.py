"""What raters see: a form on paper, and the same tasks as pages that are served one by one; none runs a script.

No page has the name of a method, what is right, or what a check of a map said: raters judge the map alone.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

from markupsafe import Markup

from caveat_reports.figures import strip
from caveat_reports.figures.map import cells
from caveat_reports.pages import environment, styled
from caveat_spec.explained import Figure, Panel
from caveat_spec.sanitize import raster
from caveat_spec.study import (
    LARGEST_CONFIDENCE,
    LARGEST_IMPORTANCE,
    RATINGS,
    Answer,
    Material,
    Sheet,
    Shown,
    Study,
    answer_in,
)

_OVER = Markup('<svg class="below" viewBox="0 0 224 224" aria-hidden="true" focusable="false"><use href="#{}"/></svg>')


@dataclass(frozen=True)
class DrawnExample:
    """One picture of a task, as a page draws it."""

    key: str
    """Its id on the page."""
    source: str | None
    """The picture; none for a text."""
    drawn: Markup
    """Its map."""


@dataclass(frozen=True)
class Asked:
    """One task, as a page draws it."""

    number: int
    of: int
    words: str
    """The class."""
    signed: bool
    seen: Sequence[DrawnExample]
    text: bool
    """Whether examples are texts."""


@dataclass(frozen=True)
class Scale:
    """One question with its scale."""

    name: str
    question: str
    hint: str
    most: int
    ends: tuple[str, str]


def file_name(rater: int, raters: int) -> str:
    """The name of a rater's form, such that names sort as numbers do."""
    return f"rater-{rater:0{len(str(raters))}}.html"


def printable(study: Study, material: Material, sheet: Sheet) -> str:
    """A rater's whole form, to print or to fill on the screen."""
    return _page("form.html", study, sheet=sheet, tasks=[_asked(study, material, sheet, n) for n in _numbers(sheet)])


def welcome(study: Study, sheet: Sheet, answered: Mapping[int, Answer], link: str) -> str:
    """Where a rater begins and comes back: what is asked, and which tasks are missing; `link` leads here."""
    missing = [number for number in _numbers(sheet) if number not in answered]
    shown = {"sheet": sheet, "answered": answered, "missing": missing, "link": link, "text": is_text(study)}
    return _page("welcome.html", study, **shown)


def task(
    study: Study,
    material: Material,
    sheet: Sheet,
    number: int,
    *,
    link: str,
    token: str,
    given: Mapping[str, str] | None = None,
    faults: Mapping[str, str] | None = None,
) -> str:
    """One task to answer; with what was `given` before, and the `faults` in it by question."""
    asked = _asked(study, material, sheet, number)
    return _page("task.html", study, one=asked, link=link, token=token, given=given or {}, faults=faults or {})


def answered(study: Study, sheet: Sheet, number: int, answer: Answer, link: str, *, other: bool = False) -> str:
    """A task that has its answer; `other` where another answer to it was sent and not taken."""
    return _page("answered.html", study, sheet=sheet, number=number, answer=answer, link=link, other=other)


def fault(title: str, detail: str, remedy: str) -> str:
    """A page that says what is wrong, and what to do."""
    return _rendered("fault.html", title=title, detail=detail, remedy=remedy)


def policy(*, served: bool) -> str:
    """The content security policy of these pages: our style, pictures inside the page, and forms to the same server."""
    inside = "; frame-ancestors 'none'" if served else ""
    return (
        f"default-src 'none'; style-src 'sha256-{styled('study.css').hash}'; img-src data:; base-uri 'none'; "
        f"form-action {chr(39)}{'self' if served else 'none'}{chr(39)}{inside}"
    )


def scales(study: Study) -> list[Scale]:
    """The three questions of a task, in the article's order."""
    noun = "text" if is_text(study) else "picture"
    importance = ("not at all", "as much as can be")
    words = concept_words(study)
    return [
        Scale(
            RATINGS[0],
            "How important is the image to the model?",
            f"Everything in the {noun} but the {words}.",
            LARGEST_IMPORTANCE,
            importance,
        ),
        Scale(RATINGS[1], f"How important is the {words} to the model?", "", LARGEST_IMPORTANCE, importance),
        Scale(RATINGS[2], "How sure are you of both answers?", "", LARGEST_CONFIDENCE, ("not at all", "completely")),
    ]


def answer_of(study: Study, fields: Mapping[str, str]) -> tuple[Answer | None, dict[str, str]]:
    """The answer that a task's form gives, or by question what is to be chosen yet."""
    answer, faults = answer_in(fields)
    asked = {one.name: f"Choose a number from 1 to {one.most}. {one.question}" for one in scales(study)}
    return answer, {name: asked[name] for name in asked if name in faults}


def task_after(sheet: Sheet, number: int, answered: Collection[int]) -> int | None:
    """The task to go on with: the next one that is missing, else the first; None where all are answered."""
    missing = [one for one in _numbers(sheet) if one not in answered]
    return next((one for one in missing if one > number), missing[0] if missing else None)


def form_token(digest: str, token: str, number: int) -> str:
    """What a task's form carries: it is made of the rater's link, so that another site has neither."""
    return hmac.new(token.encode(), f"{digest}/{number}".encode(), sha256).hexdigest()


def concept_words(study: Study) -> str:
    """What raters call the concept."""
    return study.concept.replace("_", " ")


def is_text(study: Study) -> bool:
    """Whether examples are texts."""
    return all(one.picture is None for of in study.classes for one in of.pictures)


def _numbers(sheet: Sheet) -> range:
    return range(1, len(sheet.tasks) + 1)


def _asked(study: Study, material: Material, sheet: Sheet, number: int) -> Asked:
    wanted = sheet.tasks[number - 1]
    shown = [material.shown[key] for key in wanted.pictures]
    figures = [one.maps[wanted.map] for one in shown]
    return Asked(
        number=number,
        of=len(sheet.tasks),
        words=wanted.of.replace("_", " "),
        signed=figures[0].signed,
        seen=[
            _seen(f"seen-{number}-{at}", one, figure)
            for at, (one, figure) in enumerate(zip(shown, figures, strict=True), 1)
        ],
        text=is_text(study),
    )


def _seen(key: str, one: Shown, figure: Figure) -> DrawnExample:
    source = raster(one.picture)
    if figure.map is None:
        panel = Panel(example="", position=0, set="shown", value=0.0, figures=[])
        return DrawnExample(key, source, strip.draw(figure, panel, key))
    return DrawnExample(key, source, _OVER.format(key) + cells(figure.map))


def _page(template: str, study: Study, **values: object) -> str:
    return _rendered(template, study=study, scales=scales(study), concept=concept_words(study), **values)


def _rendered(template: str, **values: object) -> str:
    served = template != "form.html"
    page = environment().get_template(f"study/{template}")
    return page.render(
        **values, style=styled("study.css").text, policy=policy(served=False), served=served, ratings=RATINGS
    )
