"""The story of `explain`: choose examples, run each element at each of them, and draw figures on one scale.

Every example is explained on its own, by one thread, so that the number of threads, the order, and whether an earlier
audit had the answer change no bit of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np

from caveat_spec.audit import Text
from caveat_spec.explained import Check, Explained, Figure, Panel
from caveat_spec.results import rounded
from caveat_worker.engine.activations.requirements import ONLY, Plan
from caveat_worker.engine.autodiff.model import Model
from caveat_worker.engine.base.arrays import AnyArray, Float64Array
from caveat_worker.engine.base.errors import error_context
from caveat_worker.engine.base.store import ArrayStore
from caveat_worker.engine.explanations.atoms import strongest
from caveat_worker.engine.explanations.entry import Entry
from caveat_worker.engine.explanations.model_runs import ModelRuns, OpenModel
from caveat_worker.engine.explanations.runs import INPUT
from caveat_worker.engine.onnx.session import Provider
from caveat_worker.engine.panels.choice import Choice, Source, check_finite, choose, match_of
from caveat_worker.engine.panels.dictionaries import Dictionaries
from caveat_worker.engine.panels.directions import Directions
from caveat_worker.engine.panels.examined import ExaminedSets
from caveat_worker.engine.panels.figures import Asked, Found, Subject, figures
from caveat_worker.engine.panels.grids import Box, changed_box
from caveat_worker.engine.panels.icons import (
    Crop,
    Measure,
    Pictured,
    Responses,
    Sight,
    Words,
    icons_of,
    keep_responses,
    of_concept,
    of_groups,
    recalled_responses,
    responses,
    responses_key,
    tokens_of,
    with_icons,
)
from caveat_worker.engine.panels.informative import StreamedSets, with_informative_patches
from caveat_worker.engine.panels.integrity import FEWEST, integrity, keep_checks, recalled_checks
from caveat_worker.engine.panels.kept import answer_key, found_in, keep, recalled
from caveat_worker.engine.panels.labelled import LabelledSets
from caveat_worker.engine.panels.maps import Drawn
from caveat_worker.engine.panels.patches import Cells, nearest_to, on_one_scale, with_patches
from caveat_worker.engine.panels.planned import PlannedElement, PlannedExplanation

Thumbnail = Callable[[str, int], str | None]
"""(example set, position) → what the model sees, as a data URI."""

MEASURES: Mapping[str, Callable[..., Measure]] = {
    "concepts": of_concept,
    **dict.fromkeys(("groups", "components", "proposals"), lambda *directions: of_groups(np.array(directions))),
}
"""Atoms with directions → what examples are measured by along them."""
ORDERED_BY = {
    "concepts": "concept score",
    "groups": "part along the group",
    "components": "score",
}
"""The same in words; by activation otherwise."""
TYPICAL = 64
"""Examples of which the mean is a typical one."""


@dataclass(frozen=True)
class Means:
    """What explaining needs beside the plan: the examples, where answers are kept, and how many threads there are."""

    source: Source
    thumbnail: Thumbnail
    crop: Crop
    words: Words
    store: ArrayStore
    provider: Provider
    versions: Mapping[str, str]
    cores: int
    progress: Callable[[int], None]
    """Counts elements at examples."""
    shuffled: Model | None = None
    """A model of the same kind that was trained on random labels."""

    @cached_property
    def labelled(self) -> LabelledSets:
        """The labelled sets, which all explanations share."""
        return LabelledSets(self.source)

    @cached_property
    def dictionaries(self) -> Dictionaries:
        """The groups over example sets, which all explanations share."""
        return Dictionaries(self.source)


@dataclass(frozen=True)
class Shown:
    """One example that is explained, as the model takes it."""

    examples: str
    position: int
    subject: Subject
    feeds: Mapping[str, AnyArray]
    x: AnyArray
    value: float


def units(planned: Sequence[PlannedExplanation]) -> int:
    """How many elements at examples there are at most."""
    return sum(one.pictures * len(one.elements) for one in planned)


def explain(
    plan: Plan, planned: Sequence[PlannedExplanation], means: Means
) -> tuple[list[Explained], list[list[Drawn]]]:
    """Every explanation of an audit, in its order, in figures that a person can compare; and what they are of."""
    found = [_explained(plan, one, means) for one in planned]
    return [explained for explained, _ in found], [drawn for _, drawn in found]


@dataclass(frozen=True)
class Usual:
    """What examples of a set are like: a typical input [1, …], and how far a table's columns range [1, columns]."""

    typical: AnyArray | None = None
    ranges: AnyArray | None = None


@dataclass(frozen=True)
class Question:
    """One explanation with the open model and a typical input, which all its elements share."""

    plan: Plan
    planned: PlannedExplanation
    opened: OpenModel
    usual: Usual
    means: Means


def explain_part(plan: Plan, planned: PlannedExplanation, means: Means, element: int, panels: range) -> None:
    """Leaves an element's answers at some panels in the store, and at the first its checks, for whoever joins them."""
    question, _, shown = _asked(plan, planned, means)
    one = planned.elements[element]
    with error_context(f"/explain/{planned.name}/show/{element}"):
        here = shown[panels.start : panels.stop]
        answers = _answers(question, one, here)
        for example, (found, _) in zip(here, answers, strict=True) if one.to_order else ():
            _responses(question, one, example, found)
            if one.presentation == "flow":
                _responses(question, one, example, found, upper=True)
        if panels.start == 0:
            _integrity(question, one, here, answers)


def _asked(plan: Plan, planned: PlannedExplanation, means: Means) -> tuple[Question, Choice, list[Shown]]:
    """An explanation with its open model, the rule by which its examples are chosen, and those."""
    with error_context(f"/explain/{planned.name}"):
        opened = OpenModel(plan.model, planned.target, means.provider, threads=1)
        choice = choose(planned, opened, means.source)
        shown = list(_shown(planned, choice, opened, means))
        return Question(plan, planned, opened, _usual(planned, opened, means), means), choice, shown


def _explained(plan: Plan, planned: PlannedExplanation, means: Means) -> tuple[Explained, list[Drawn]]:
    question, choice, shown = _asked(plan, planned, means)
    drawn = []
    for position, one in enumerate(planned.elements):
        with error_context(f"/explain/{planned.name}/show/{position}"):
            drawn.append(_drawn(question, one, shown))
    panels = [_panel(one, [figures[number] for figures, _, _ in drawn], means) for number, one in enumerate(shown)]
    subjects, text = [one.subject for one in shown], isinstance(plan.audit.examples[planned.examples], Text)
    explained = rounded(
        Explained(
            name=planned.name,
            target=planned.asked.of,
            unit=planned.target.scale,
            selection=choice.sentence,
            reading=list(dict.fromkeys(f"{_title(one)}: {one.way.entry.summary}" for one in planned.elements)),
            panels=panels,
            passes=planned.to_choose + len(shown) + sum(passes for _, _, passes in drawn),
        )
    )
    return explained, [Drawn(found, subjects, text) for _, found, _ in drawn]


def _shown(planned: PlannedExplanation, choice: Choice, opened: OpenModel, means: Means) -> Iterator[Shown]:
    """The chosen examples, each followed by its match where the audit asks for it."""
    for position in choice.positions:
        one = _one(planned, planned.examples, position, opened, means)
        if planned.matches is None:
            yield one
            continue
        other = _one(planned, planned.matches, match_of(planned, means.source, position), opened, means)
        box = _box(one.x, other.x)
        yield replace(one, subject=replace(one.subject, box=box))
        if planned.asked.examples.pairs:
            yield replace(other, subject=replace(other.subject, box=box, match_of=one.subject.name))


def _one(planned: PlannedExplanation, examples: str, position: int, opened: OpenModel, means: Means) -> Shown:
    """An example as the model takes it, with its number; raises InvalidInput where that is none."""
    feeds = means.source.feeds(examples, [position])
    runs, x = opened.around(feeds)
    name, value = means.source.names[examples][position], runs.scores(x)
    check_finite(planned, examples, [name], value)
    subject = Subject(name, names=_parts(examples, position, opened.entry, means))
    return Shown(examples, position, subject, feeds, x, float(value[0]))


def _parts(examples: str, position: int, entry: Entry, means: Means) -> tuple[str, ...]:
    """The names of the columns or tokens that stand for an example's input, in their order."""
    named = means.source.parts(examples, position)
    if entry.embeds:
        return tuple(next(iter(named.values()), ()))
    return tuple(name for tensor in entry.names for name in named.get(tensor, named.get(ONLY, ())))


def _usual(planned: PlannedExplanation, opened: OpenModel, means: Means) -> Usual:
    """A typical input, the mean of some examples without what is missing, and the commonest of categories; and ranges.

    They are taken from the set without the concept where there is one. Tokens have no mean.
    """
    if opened.entry.embeds:
        return Usual()
    name = planned.matches or planned.examples
    count = min(TYPICAL, len(means.source.names[name]))
    x = opened.input_of(means.source.feeds(name, range(count)))
    if x.dtype == object:
        return Usual(np.array([[_commonest(column) for column in x.T]], object))
    if x.ndim != 2:
        return Usual(np.asarray(x.mean(0, keepdims=True, dtype=float), x.dtype))
    columns = [_known(column) for column in x.T]
    means_of = [[column.mean() if len(column) else np.nan for column in columns]]
    return Usual(np.asarray(means_of, x.dtype), np.array([[np.ptp(c) if len(c) else 0.0 for c in columns]]))


def _known(column: AnyArray) -> Float64Array:
    """The numbers of a column that are not missing."""
    numbers: Float64Array = column.astype(float)
    return numbers[~np.isnan(numbers)]


def _commonest(column: AnyArray) -> Any:
    """The mean of numbers, or the most frequent of other values, the first of several."""
    if all(isinstance(value, int | float | np.number) for value in column):
        known = _known(column)
        return float(known.mean()) if len(known) else float("nan")
    values, counts = np.unique(column.astype(str), return_counts=True)
    return values[int(counts.argmax())]


def _box(one: AnyArray, other: AnyArray) -> Box | None:
    """Where two pictures differ; None for examples that have no places."""
    return changed_box(one[0], other[0]) if one.ndim == 4 and one.shape == other.shape else None


def _drawn(question: Question, one: PlannedElement, shown: Sequence[Shown]) -> tuple[list[Figure], list[Found], int]:
    """An element's figure at each example, what it found there, and the passes that they took."""

    answers = _answers(question, one, shown)
    upper, checks = getattr(one.options, "upper", None), _integrity(question, one, shown, answers)
    sized = upper is not None and one.atoms != "groups"  # what groups do is counted in the target's unit
    number_of = question.planned.asked.of if one.concept is None else f"the concept score of {one.concept}"
    found = [replace(answer, checks=(*answer.checks, *checks)) for answer, _ in answers]
    asked = Asked(
        element=one.element,
        presentation=one.presentation,
        layer=one.layer,
        atoms=one.atoms,
        title=_title(one),
        target=f"the largest {one.atoms} of {upper}" if sized else number_of,
        signed=one.atoms == "patches"
        or any(_has_negative(answer, linked=upper is not None and not sized) for answer in found),
        shape=one.shapes[one.layer],
        upper=() if upper is None else one.shapes[upper],
        unit=("log p" if one.on_own_labels else one.way.entry.unit)
        or ("activation" if sized else None if one.concept is None else "sd"),
        most=one.way.entry.most,
        examples=_names(question, one),
    )
    checked = one.held_against * bool(checks)
    passes = sum(passes for _, passes in answers) + checked * one.cost + (1 + checked) * one.to_fit * bool(shown)
    drawn = figures(asked, found, [example.subject for example in shown])
    if one.icons is not None:
        drawn = [_with_icons(question, one, *each) for each in zip(drawn, found, shown, strict=True)]
        passes += one.to_order * (len(shown) if one.own_order else bool(shown))
    if one.presentation == "patches":
        return on_one_scale(drawn), found, passes
    if one.presentation == "colours":
        drawn = [_with_words(question, one, *each) for each in zip(drawn, shown, strict=True)]
    return drawn, found, passes


def _has_negative(found: Found, *, linked: bool) -> bool:
    """Whether a number that is drawn is below 0, links between atoms of one unit included."""
    pairs = found.pairs if linked and found.pairs is not None else np.zeros(0)
    return bool((found.values < 0).any() or (pairs < 0).any())


def _names(question: Question, one: PlannedElement) -> Sequence[str]:
    """The names of the examples that an element's numbers are of, where it is about a labelled set."""
    training = getattr(one.options, "training", None)
    return () if training is None else question.means.source.names[training]


def _with_icons(question: Question, one: PlannedElement, figure: Figure, found: Found, example: Shown) -> Figure:
    """A figure with the examples that its atoms respond to, unless it is withheld."""
    if figure.withheld is not None or one.icons is None:
        return figure
    means, plan, opened = question.means, question.plan, question.opened
    if one.presentation == "flow":
        return _beside_ribbons(question, one, figure, found, example)
    sight = Sight.of(opened, one.layer, (1, *one.shapes[one.layer]), example.x.shape)
    pictured = Pictured(means.source, means.crop, means.words)
    if found.patches is not None:
        return with_informative_patches(figure, found.patches, opened, sight, pictured)
    there = _responses(question, one, example, found)
    if one.presentation == "patches":
        cells, own, words = (
            _cells(question, one, example, found),
            _itself(question, one.icons, example),
            _words(question, one, example),
        )
        return with_patches(figure, one.icons, cells, there, own, sight, pictured, words)
    return with_icons(
        figure,
        one.icons,
        there,
        {atom.id: atom.place[0] for atom in figure.atoms},
        sight,
        pictured,
        measure=ORDERED_BY.get(one.atoms, "activation"),
        unit="activation" if one.concept is None else "sd",
        adopted=plan.audit.method.min_examples,
    )


def _beside_ribbons(question: Question, one: PlannedElement, figure: Figure, found: Found, example: Shown) -> Figure:
    """A figure with the examples that the atoms at both ends of its links respond to."""
    means, links = question.means, [*zip(found.links, figure.links, strict=True)]
    ends = ({link.source: low for (low, _, _), link in links}, {link.sink: high for (_, high, _), link in links})
    both = []
    for upper, columns in enumerate(ends):
        layer = str(one.options.model_dump()["upper"]) if upper else one.layer
        both.append(
            icons_of(
                str(one.icons),
                _responses(question, one, example, found, upper=bool(upper)),
                columns,
                Sight.of(question.opened, layer, (1, *one.shapes[layer]), example.x.shape),
                Pictured(means.source, means.crop, means.words),
                measure=ORDERED_BY.get(one.atoms, "activation"),
                unit="activation",
                adopted=question.plan.audit.method.min_examples,
            )
        )
    return figure.model_copy(update={"icons": both[0], "upper_icons": both[1]})


def _cells(question: Question, one: PlannedElement, example: Shown, found: Found) -> Cells:
    """The places of an example that are drawn as patches."""
    runs, x = question.opened.around(example.feeds)
    tokens = tokens_of(question.opened, question.means.source, example.examples, example.position, one.layer)
    return Cells.of(found.values, runs.activations(x, one.layer), tokens, additive=found.additive)


def _itself(question: Question, icons: str, example: Shown) -> list[int]:
    """The rows of a set that are the example, or its match."""
    sets, own, keys = question.plan.audit.examples, example.examples, question.means.source.keys
    if icons == own:
        return [example.position]
    paired = sets[icons].pairs_with == own or sets[own].pairs_with == icons
    return [row for row, key in enumerate(keys[icons]) if key == keys[own][example.position]] if paired else []


def _words(question: Question, one: PlannedElement, example: Shown) -> list[str]:
    """The tokens of an example, where a layer has a position for each."""
    tokens = tokens_of(question.opened, question.means.source, example.examples, example.position, one.layer)
    return [] if tokens is None else [*example.subject.names[:tokens]]


def _with_words(question: Question, one: PlannedElement, figure: Figure, example: Shown) -> Figure:
    """A figure with the words that colours stand beside."""
    return figure if figure.withheld else figure.model_copy(update={"words": _words(question, one, example)})


def _responses(
    question: Question, one: PlannedElement, example: Shown, found: Found, *, upper: bool = False
) -> Responses:
    """How strongly atoms of an element's layer, or of its upper one, respond to the examples that icons are from.

    It is kept for later audits.
    """
    assert one.icons is not None, "asked for by whoever calls"
    means, icons, answer = question.means, one.icons, _key(question, one, example) if one.own_order else ""
    if upper:
        one = replace(one, layer=str(one.options.model_dump()["upper"]))
        found = replace(found, directions=found.upper_directions)
    key = responses_key(question.plan, one, means.provider, means.versions, answer)
    there = recalled_responses(means.store, key)
    if there is None:
        if one.presentation == "patches":
            measure = nearest_to(_cells(question, one, example, found))
        else:
            measure = MEASURES[one.atoms](*found.directions) if found.directions is not None else strongest
        there = responses(question.opened, means.source, icons, one.layer, measure)
        keep_responses(means.store, key, there)
    return there


def _answers(question: Question, one: PlannedElement, shown: Sequence[Shown]) -> list[tuple[Found, int]]:
    """What an element finds at each example, and the passes that it takes."""

    def run(example: Shown) -> tuple[Found, int]:
        answer = _answer(question, one, example)
        question.means.progress(1)
        return answer

    answers = [run(example) for example in shown[:1]]  # opens the sessions that the others share
    with ThreadPoolExecutor(question.means.cores) as workers:
        answers += workers.map(run, shown[1:])
    return answers


def _integrity(
    question: Question, one: PlannedElement, shown: Sequence[Shown], answers: Sequence[tuple[Found, int]]
) -> tuple[Check, ...]:
    """The checks of an element against other models, at its first example; none where that has few parts."""
    if not one.held_against or not answers or answers[0][0].values.size < FEWEST:
        return ()
    means, plan, example = question.means, question.plan, shown[0]
    sanity = plan.audit.integrity.sanity
    key = f"{_key(question, one, example)}-{sanity}"
    checks = recalled_checks(means.store, key)
    if checks is None:
        seed = plan.audit.method.seed
        settle = partial(_settle, question, one, example)
        checks = integrity(one, question.opened, means.shuffled, sanity, example.feeds, settle, seed)
        keep_checks(means.store, key, checks)
    return checks


def _settle(question: Question, one: PlannedElement, example: Shown, runs: ModelRuns) -> None:
    """Gives runs around an example what they know beside the model."""
    means = question.means
    runs.typical, runs.ranges = question.usual.typical, question.usual.ranges
    without = means.source.keys[example.examples][example.position]
    runs.directions = Directions(question.plan, means.source, means.store, without)
    runs.labelled_sets = means.labelled
    runs.examined_sets = ExaminedSets(question.plan, means.source)
    runs.dictionaries = means.dictionaries
    runs.shared_components = means.dictionaries.components
    runs.streamed_sets = StreamedSets(means.source)
    if one.layer != INPUT:
        runs.tokens = tokens_of(question.opened, means.source, example.examples, example.position, one.layer)


def _key(question: Question, one: PlannedElement, example: Shown) -> str:
    means, target = question.means, question.planned.asked.of
    without, usual = means.source.keys[example.examples][example.position], question.usual
    return answer_key(
        question.plan,
        target,
        one,
        example.feeds,
        (usual.typical, usual.ranges),
        means.provider,
        means.versions,
        without,
    )


def _answer(question: Question, one: PlannedElement, example: Shown) -> tuple[Found, int]:
    """What an element finds at an example, or found in an earlier audit, and the passes that it took."""
    means, key = question.means, _key(question, one, example)
    kept = recalled(means.store, key, one.atoms)
    if kept is not None:
        return kept
    runs, x = question.opened.around(example.feeds)
    _settle(question, one, example, runs)
    found = found_in(one.way.run(runs, x, one.options), one.atoms)
    keep(means.store, key, found, runs.passes)
    return found, runs.passes


def _title(one: PlannedElement) -> str:
    """The method in words, and the layer where it is not the input."""
    words = one.way.entry.words if one.concept is None else f"{one.way.entry.words}: {one.concept}"
    if one.on_own_labels:
        return f"{words} on its own label"
    if one.atoms == "groups" and hasattr(one.options, "upper"):
        return f"{words} at {one.layer} and {one.options.upper}"
    return words if one.layer == INPUT else f"{words} at {one.layer}"


def _panel(shown: Shown, drawn: Sequence[Figure], means: Means) -> Panel:
    return Panel(
        example=shown.subject.name,
        position=shown.position,
        set=shown.examples,
        match_of=shown.subject.match_of,
        thumbnail=means.thumbnail(shown.examples, shown.position),
        value=shown.value,
        figures=list(drawn),
    )
