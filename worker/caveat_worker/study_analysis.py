"""What ratings of a study say, with the rater as the unit: a rater's tasks become one number before anything is tested.

The numbers alone; `caveat_reports.study.wording` has the sentences.

A rater who answered some tasks of a question and not all is left out of it: classes differ, and a mean over other
classes would be another number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from caveat_spec.base import Interval
from caveat_spec.results import rounded
from caveat_spec.study import (
    ALPHA,
    FEWEST_RATERS,
    SIGN_FLIPS,
    Answer,
    Cell,
    Correctness,
    MapKind,
    MissingTasks,
    NewFindings,
    Order,
    Question,
    Study,
    StudyFindings,
    Tested,
    Weighed,
)
from caveat_worker.engine.statistics.correction import correct
from caveat_worker.engine.statistics.intervals import mean_interval
from caveat_worker.engine.statistics.p_values import sign_flip_p

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Rated:
    """The answers as arrays [rater, class, kind of map]; NaN where there is none."""

    image: Array
    concept: Array
    confidence: Array

    @property
    def difference(self) -> Array:
        """Concept minus image, in points."""
        return self.concept - self.image


@dataclass(frozen=True)
class Compared:
    """The mean over raters of one number each, and whether it is 0."""

    raters: int
    value: float | None
    interval: Interval | None
    p: float | None


def analyse_study(new: NewFindings) -> StudyFindings:
    """Everything that ratings say, beside the report's own tests and the truth, without sentences."""
    study = new.study
    answers = {(one.rater, one.task): one for one in new.ratings}
    rated = arranged(study, answers)
    questions = asked(rated, [kind.name for kind in study.maps], study.seed)
    cells = _cells(study, rated)
    found = StudyFindings(
        study=new.digest,
        concept=study.concept,
        alpha=ALPHA,
        raters=len(study.sheets),
        answered=len({rater for rater, _ in answers}),
        tasks=sum(len(sheet.tasks) for sheet in study.sheets),
        taken=len(answers),
        refused=new.refused,
        missing=_missing(study, answers),
        questions=questions,
        cells=cells,
        correctness=_correctness(study, rated),
        tests=new.tests,
        orders=_orders(study, cells, new.tests),
        notes=[],
    )
    return rounded(found)


def _missing(study: Study, answers: Mapping[tuple[int, int], Answer]) -> list[MissingTasks]:
    """Each rater's tasks without an answer."""
    found = []
    for sheet in study.sheets:
        tasks = [number for number in range(1, len(sheet.tasks) + 1) if (sheet.rater, number) not in answers]
        if tasks:
            found.append(MissingTasks(rater=sheet.rater, tasks=tasks))
    return found


def arranged(study: Study, answers: Mapping[tuple[int, int], Answer]) -> Rated:
    """The answers as arrays."""
    classes = {one.name: at for at, one in enumerate(study.classes)}
    kinds = {one.name: at for at, one in enumerate(study.maps)}
    values = np.full((3, len(study.sheets), len(classes), len(kinds)), np.nan)
    for (rater, number), answer in answers.items():
        task = study.sheets[rater - 1].tasks[number - 1]
        at = (slice(None), rater - 1, classes[task.of], kinds[task.map])
        values[at] = (answer.image, answer.concept, answer.confidence)
    return Rated(*values)


def asked(rated: Rated, maps: Sequence[str], seed: int) -> list[Question]:
    """One question for each kind of map, and one for each two of them; Holm's correction over all."""
    by_rater = rated.difference.mean(axis=1)  # [rater, kind]; NaN where a class is missing
    pairs = list(combinations(range(len(maps)), 2))
    subjects: list[tuple[int, ...]] = [*((at,) for at in range(len(maps))), *pairs]
    numbers = [by_rater[:, at] for at in range(len(maps))] + [by_rater[:, a] - by_rater[:, b] for a, b in pairs]
    some = np.any(~np.isnan(rated.difference), axis=1).reshape(by_rater.shape)  # [rater, kind]
    begun = [some[:, at] for at in range(len(maps))] + [some[:, a] | some[:, b] for a, b in pairs]
    rng = np.random.default_rng(seed)
    found = [compared(one, rng, ALPHA / len(numbers)) for one in numbers]
    tested = {at: one.p for at, one in enumerate(found) if one.p is not None}
    corrected = dict(zip(tested, correct(list(tested.values())), strict=True))
    return [
        Question(
            maps=[maps[at] for at in about],
            raters=one.raters,
            left_out=int(begun[number].sum()) - one.raters,
            difference=one.value,
            interval=one.interval,
            p=one.p,
            p_corrected=float(corrected[number]) if number in corrected else None,
            sentence="",
        )
        for number, (about, one) in enumerate(zip(subjects, found, strict=True))
    ]


def compared(numbers: Array, rng: np.random.Generator | None, alpha: float) -> Compared:
    """The mean of raters' numbers [rater] with its interval at 1 − alpha, and its p-value by flipping their signs.

    Raters without a number (NaN) are left out. Fewer than eight are described: they have no interval and no p-value.
    """
    known = numbers[~np.isnan(numbers)]
    if not len(known):
        return Compared(0, None, None, None)
    value = float(known.mean())
    if len(known) < FEWEST_RATERS:
        return Compared(len(known), value, None, None)
    p = None if rng is None else sign_flip_p(known, SIGN_FLIPS, rng)
    return Compared(len(known), value, mean_interval(known, alpha), p)


def _cells(study: Study, rated: Rated) -> list[Cell]:
    """Each class with each kind of map; their intervals hold together."""
    alpha = ALPHA / (len(study.classes) * len(study.maps))
    cells = []
    for row, of in enumerate(study.classes):
        for column, kind in enumerate(study.maps):
            one = compared(rated.difference[:, row, column], None, alpha)
            there = ~np.isnan(rated.image[:, row, column])
            means = [
                float(each[there, row, column].mean()) if there.any() else None
                for each in (rated.image, rated.concept, rated.confidence)
            ]
            cells.append(
                Cell(
                    of=of.name,
                    map=kind.name,
                    raters=one.raters,
                    image=means[0],
                    concept=means[1],
                    difference=one.value,
                    interval=one.interval,
                    confidence=means[2],
                    favoured=_side(one.interval),
                )
            )
    return cells


def _side(interval: Interval | None) -> Weighed | None:
    if interval is None or interval[0] <= 0 <= interval[1]:
        return None
    return "concept" if interval[0] > 0 else "image"


def _correctness(study: Study, rated: Rated) -> list[Correctness]:
    """How often each kind of map leads raters to the truth, and how sure they are when it does not."""
    rows = [at for at, one in enumerate(study.classes) if one.name in study.truth]
    if not rows:
        return []
    signs = np.array([1.0 if study.truth[study.classes[at].name] == "concept" else -1.0 for at in rows])
    towards = rated.difference[:, rows] * signs[:, None]  # [rater, class, kind]
    right = np.where(np.isnan(towards), np.nan, (np.sign(towards) + 1) / 2)
    alpha = ALPHA / len(study.maps)
    return [_correct(kind, right[:, :, at], rated.confidence[:, rows, at], alpha) for at, kind in enumerate(study.maps)]


def _correct(kind: MapKind, right: Array, confidence: Array, alpha: float) -> Correctness:
    """One kind of map: `right` [rater, class] is 1, 0, or ½ for equal ratings."""
    share = compared(right.mean(axis=1), None, alpha)
    sure = [_mean_of(confidence, right == which) for which in (1.0, 0.0)]  # [rater] each
    gap = compared(sure[0] - sure[1], None, alpha)
    means = [None if np.isnan(one).all() else float(np.nanmean(one)) for one in sure]
    return Correctness(
        map=kind.name,
        raters=share.raters,
        share=share.value,
        interval=None if share.interval is None else (max(0.0, share.interval[0]), min(1.0, share.interval[1])),
        confidence_right=means[0],
        confidence_wrong=means[1],
        both=gap.raters,
        confidence_difference=gap.value,
        confidence_interval=gap.interval,
        sentence="",
    )


def _mean_of(values: Array, chosen: NDArray[np.bool_]) -> Array:
    """Each rater's mean of the chosen values [rater, class]; NaN for a rater without any."""
    counts = chosen.sum(axis=1)
    sums = np.where(chosen, values, 0.0).sum(axis=1)
    means: Array = np.divide(sums, counts, out=np.full(len(values), np.nan), where=counts > 0)
    return means


def _orders(study: Study, cells: Sequence[Cell], tests: Sequence[Tested]) -> list[Order]:
    """For each class, which matters more to raters, to the report's tests, and in truth."""
    return [
        Order(
            of=of.name,
            raters={one.map: one.favoured for one in cells if one.of == of.name},
            tests=_order_of_tests([one for one in tests if one.of == of.name]),
            tests_sentence="",
            truth=study.truth.get(of.name),
        )
        for of in study.classes
    ]


def _order_of_tests(tests: Sequence[Tested]) -> Weighed | None:
    """Which of the two the tests say matters more: the one whose interval lies beyond the other's, in size."""
    sizes = {one.stands_for: _size(one.effect_interval) for one in tests}
    if len(sizes) < 2:
        return None
    if sizes["concept"][0] > sizes["image"][1]:
        return "concept"
    return "image" if sizes["image"][0] > sizes["concept"][1] else None


def _size(interval: Interval) -> Interval:
    """The interval of the absolute value."""
    low, high = interval
    ends = sorted((abs(low), abs(high)))
    return (0.0, ends[1]) if low <= 0 <= high else (ends[0], ends[1])
