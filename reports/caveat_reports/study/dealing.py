"""Deals the pictures and maps of a report out to raters: who sees which of them, in which order."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version

import rfc8785
from pydantic import TypeAdapter, ValidationError

from caveat_reports import summary
from caveat_reports.canonical import canonical, digest
from caveat_spec.base import Name, digest_of_bytes
from caveat_spec.explain import Element
from caveat_spec.explained import Explained, Figure, Panel
from caveat_spec.problem import ProblemDetails
from caveat_spec.report import Report
from caveat_spec.results import ConceptTest
from caveat_spec.sanitize import raster
from caveat_spec.study import (
    IMAGE,
    MOST_TASKS,
    MapKind,
    Material,
    Sheet,
    Shown,
    ShownPicture,
    Study,
    StudyClass,
    Task,
    Tested,
    Weighed,
)

CONSENT = (
    "Taking part is voluntary, and you may stop at any time. Your answers are kept under a number, without your name "
    "or anything else about you."
)
DRAWN = ("map", "strip")
"""Presentations that show raters where in an example a number arises."""


class UnfitReportError(Exception):
    """The report does not allow the study that is asked for."""

    def __init__(self, problem: ProblemDetails) -> None:
        super().__init__(problem.detail)
        self.problem = problem


def problem(code: str, status: int, detail: str, remedy: str) -> UnfitReportError:
    """The exception that tells a person this."""
    return UnfitReportError(ProblemDetails.of(code, status, detail, remedy))


@dataclass(frozen=True)
class Design:
    """What a person asks of a study."""

    raters: int
    seed: int
    pictures: int = 4
    concept: str | None = None
    image_concept: str | None = None
    """A concept of the report that stands for the image."""
    targets: Sequence[str] = ()
    """All that the report explains, where none is named."""
    maps: Sequence[str] = ()
    """All that every class has, where none is named."""
    truth: Mapping[str, str] = field(default_factory=dict)
    """Class → `image` or a concept's name."""
    consent: str | None = None
    """What raters read before they begin; the words of `CONSENT` where left out."""


@dataclass(frozen=True)
class Candidate:
    """A picture that raters may see, and why it may not be."""

    example: str
    set: str
    picture: str | None
    figures: dict[str, Figure]
    """Kind of map → the figure that is drawn."""


def plan(report: Report, design: Design) -> tuple[Study, Material]:
    """The study of a design and what its raters see, without their forms."""
    kinds, by_class = _candidates(report, design)
    _check_enough(by_class, kinds, design)
    concept, concepts, image_concepts = _concepts(report, design, list(by_class))
    shown: dict[str, Shown] = {}
    classes = []
    for name, candidates in by_class.items():
        pictures = []
        for number, one in enumerate(candidates, 1):
            key = f"{name}/{number}"
            shown[key] = Shown(picture=one.picture, maps={kind.name: one.figures[kind.name] for kind in kinds})
            pictures.append(_shown_picture(key, one, kinds))
        classes.append(StudyClass(name=name, pictures=pictures))
    material = Material(shown=shown)
    study = Study(
        caveat=version("caveat"),
        seed=design.seed,
        report=digest(report),
        model=report.audit.model,
        concept=concept,
        concepts=concepts,
        image_concepts=image_concepts,
        classes=classes,
        maps=kinds,
        pictures=design.pictures,
        truth=_truth(design, concept, list(by_class)),
        consent=design.consent or CONSENT,
        material=digest_of_bytes(canonical(material)),
        sheets=[
            Sheet(rater=rater, tasks=_tasks(classes, kinds, design, rater)) for rater in range(1, design.raters + 1)
        ],
        forms={},
    )
    return study, material


def _tasks(classes: Sequence[StudyClass], kinds: Sequence[MapKind], design: Design, rater: int) -> list[Task]:
    """A rater's tasks in their order: each kind of map of a class has other pictures as far as there are enough."""
    tasks = []
    for one in classes:
        keys = _shuffled([picture.key for picture in one.pictures], design.seed, rater, one.name)
        names = _shuffled([kind.name for kind in kinds], design.seed, rater, one.name, "maps")
        for turn, name in enumerate(names):
            places = range(turn * design.pictures, (turn + 1) * design.pictures)
            tasks.append(Task(of=one.name, map=name, pictures=[keys[place % len(keys)] for place in places]))
    return [tasks[int(at)] for at in _shuffled([str(at) for at in range(len(tasks))], design.seed, rater, "order")]


def _shuffled(items: Sequence[str], *seed: object) -> list[str]:
    """The items in the order of digests of the seed and each: the same in every version of every language."""
    return sorted(items, key=lambda item: hashlib.sha256("/".join(map(str, (*seed, item))).encode()).hexdigest())


def _candidates(report: Report, design: Design) -> tuple[list[MapKind], dict[str, list[Candidate]]]:
    """The kinds of map that every class has, and each class's pictures with all of them."""
    names, titles = _map_names(report)
    by_class: dict[str, dict[tuple[str, int], Candidate]] = {}
    for target, panel, figures in _drawn(report.explanations, names):
        place = (panel.set, panel.position)
        known = by_class.setdefault(target, {}).get(place)
        picture = raster(panel.thumbnail)
        merged = figures if known is None else {**known.figures, **figures}
        by_class[target][place] = Candidate(panel.example, panel.set, picture, merged)
    for name in design.targets:
        if name not in by_class:
            raise _no_maps(f"The report draws no map for '{name}'.", _asked(by_class, "It draws maps for"))
    if design.targets:
        by_class = {name: of for name, of in by_class.items() if name in design.targets}
    if not by_class:
        raise _no_maps(
            "The report draws no map.", "Ask for some with `explain:`, and `caveat schema` lists the methods."
        )
    everywhere = [
        name for name in titles if all(any(name in c.figures for c in of.values()) for of in by_class.values())
    ]
    chosen = list(dict.fromkeys(design.maps)) or everywhere
    for name in chosen:
        if name not in everywhere:
            raise _no_maps(
                f"Not every class has maps of the kind '{name}'.", _asked(everywhere, "Every class has maps of")
            )
    if not chosen:
        raise _no_maps("No kind of map is drawn for every class.", "Ask for the same methods in each explanation.")
    kinds = [MapKind(name=name, title=titles[name]) for name in chosen]
    return kinds, {target: [one for one in of.values() if _complete(one, chosen)] for target, of in by_class.items()}


def _complete(one: Candidate, chosen: Sequence[str]) -> bool:
    """Whether a picture has every kind of map, and is in the report where a map lies over it."""
    if not set(chosen) <= set(one.figures):
        return False
    return one.picture is not None or all(one.figures[name].presentation == "strip" for name in chosen)


def _drawn(explained: Sequence[Explained], names: dict[bytes, str]) -> Iterator[tuple[str, Panel, dict[str, Figure]]]:
    """Each panel with its drawn figures by the names of their kinds; examples' matches are left out."""
    for one in explained:
        for panel in one.panels:
            found = {names[_kind(figure.element)]: _bare(figure) for figure in panel.figures if _can_be_shown(figure)}
            if found and panel.match_of is None:
                yield one.target, panel, found


def _can_be_shown(figure: Figure) -> bool:
    """Whether it is drawn as a map, and of the target's number: one with a unit of its own is of something else."""
    drawn = figure.map is not None if figure.presentation == "map" else bool(figure.atoms)
    return figure.presentation in DRAWN and figure.withheld is None and figure.unit is None and drawn


def _bare(figure: Figure) -> Figure:
    """A figure without what a rater must not see: its checks, its notes, and what it singles out."""
    nothing: dict[str, object] = {
        "sentence": "", "checks": [], "notes": [], "focus": None, "links": [], "upper": [], "icons": None,
    }  # fmt: skip
    return figure.model_copy(update=nothing if figure.presentation == "strip" else {**nothing, "atoms": []})


def _kind(element: Element) -> bytes:
    """What two elements have to share to be one kind of map: a method with its options."""
    return rfc8785.dumps({"by": element.by, "options": element.options})


def _map_names(report: Report) -> tuple[dict[bytes, str], dict[str, str]]:
    """Kind of map → its name, and name → title: the method's name, numbered where it is asked with several options."""
    names: dict[bytes, str] = {}
    titles: dict[str, str] = {}
    for one in report.explanations:
        for _, figure in one.figures:
            kind = _kind(figure.element)
            if _can_be_shown(figure) and kind not in names:
                again = sum(name.split("-")[0] == figure.element.by for name in names.values())
                names[kind] = figure.element.by if not again else f"{figure.element.by}-{again + 1}"
                titles[names[kind]] = figure.title
    return names, titles


def _shown_picture(key: str, one: Candidate, kinds: Sequence[MapKind]) -> ShownPicture:
    picture = None if one.picture is None else digest_of_bytes(base64.b64decode(one.picture.partition(",")[2]))
    maps = {kind.name: digest_of_bytes(canonical(one.figures[kind.name])) for kind in kinds}
    return ShownPicture(key=key, example=one.example, set=one.set, picture=picture, maps=maps)


def _concepts(report: Report, design: Design, classes: Sequence[str]) -> tuple[str, dict[str, str], dict[str, str]]:
    """What raters call the concept, and the report's concepts by class for it and for the image."""
    declared = report.audit.concepts
    image = {} if design.image_concept is None else _by_class(report, design.image_concept, classes)
    if design.concept is not None:
        return _name(design.concept), _by_class(report, design.concept, classes), image
    others = [name for name in declared if name not in image.values()]
    if len(others) == 1:
        return others[0], dict.fromkeys(classes, others[0]), image
    raise problem(
        "no-concept-chosen",
        422,
        f"The report has {len(others)} concepts that raters could weigh against the image.",
        _asked(others, "Choose one with --concept:")
        if others
        else "Name it with --concept, such as --concept caption.",
    )


def _by_class(report: Report, name: str, classes: Sequence[str]) -> dict[str, str]:
    """The concept of that name for every class, or `NAME-CLASS` for each; none where a report declares no concept."""
    declared = report.audit.concepts
    if not declared:
        return {}
    if name in declared:
        return dict.fromkeys(classes, name)
    found = {of: f"{name}{sign}{of}" for of in classes for sign in "-_." if f"{name}{sign}{of}" in declared}
    if len(found) < len(classes):
        raise problem(
            "unknown-concept",
            422,
            f"The report has no concept '{name}', and not one called {name}-CLASS for every class.",
            _asked(declared, "It has"),
        )
    return found


def _name(text: str) -> str:
    try:
        return TypeAdapter(Name).validate_python(text)
    except ValidationError:
        raise problem(
            "invalid-name",
            422,
            f"'{text}' is no name of a concept.",
            "Use up to 64 letters, digits, `_`, `.` and `-`; raters read `_` as a space.",
        ) from None


def _truth(design: Design, concept: str, classes: Sequence[str]) -> dict[str, Weighed]:
    """Which of the two matters more, by class."""
    words: dict[str, Weighed] = {IMAGE: "image", concept: "concept"}
    if design.image_concept is not None:
        words.setdefault(design.image_concept, "image")
    found: dict[str, Weighed] = {}
    for name, said in design.truth.items():
        if name not in classes or said not in words:
            raise problem(
                "invalid-truth",
                422,
                f"--truth {name}={said} does not say which of the two matters more for a class of the study.",
                f"Classes are {', '.join(classes)}; what matters more is {' or '.join(words)}.",
            )
        found[name] = words[said]
    return found


def _check_enough(by_class: dict[str, list[Candidate]], kinds: Sequence[MapKind], design: Design) -> None:
    """Raises an `UnfitReportError` where a class has too few pictures, or a rater would have too many tasks."""
    tasks = len(by_class) * len(kinds)
    if tasks > MOST_TASKS:
        raise problem(
            "too-many-tasks",
            422,
            f"{len(by_class)} classes with {len(kinds)} kinds of map are {tasks} tasks for each rater; the most is "
            f"{MOST_TASKS}, and the article has 6.",
            f"Choose classes with --target ({', '.join(by_class)}) and kinds of map with --map "
            f"({', '.join(kind.name for kind in kinds)}).",
        )
    for name, candidates in by_class.items():
        if len(candidates) < design.pictures:
            raise problem(
                "too-few-pictures",
                422,
                f"Class '{name}' has {len(candidates)} of the {design.pictures} pictures that a task shows: only those "
                "count that are in the report with every kind of map drawn, and not as another one's match.",
                "Audit with `pictures: full` in `method` and `count: 8` in each explanation, show fewer with "
                "--pictures, or choose kinds of map with --map.",
            )


def _no_maps(sentence: str, remedy: str) -> UnfitReportError:
    return problem("no-maps-to-rate", 422, sentence, remedy)


def _asked(names: Iterable[str], before: str) -> str:
    return f"{before} {', '.join(names) or 'none'}."


def tests_of(report: Report, study: Study) -> list[Tested]:
    """What a report's tests say of each class: about its concept, and about the one that stands for the image."""
    roles: dict[tuple[str, str], Weighed] = {
        **{(concept, of): "concept" for of, concept in study.concepts.items()},
        **{(concept, of): "image" for of, concept in study.image_concepts.items()},
    }
    return [
        _tested(test, roles[pair.concept, pair.target], report.alpha)
        for pair in summary.pairs(report)
        if (pair.concept, pair.target) in roles
        for test in [pair.strongest or pair.intervention]
        if test is not None
    ]


def _tested(test: ConceptTest, role: Weighed, alpha: float) -> Tested:
    return Tested(
        of=test.target,
        concept=test.concept,
        stands_for=role,
        place=test.place,
        score=None if test.score is None else test.score.value,
        score_interval=None if test.score is None else test.score.interval,
        effect_in_sd=test.effect.in_sd,
        effect_interval=test.effect.interval_in_sd,
        p=test.effect.deciding_p,
        significant=test.effect.deciding_p <= alpha,
    )
