"""What ratings say, with the rater as the unit: a rater's tasks become one number before anything is tested.

A rater who answered some tasks of a question and not all is left out of it: classes differ, and a mean over other
classes would be another number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from caveat.study.ratings import Ratings
from caveat_reports.formatting import p_value, percent, plain, signed
from caveat_spec.base import Interval
from caveat_spec.study import (
    FEWEST_RATERS,
    Answer,
    Cell,
    Correctness,
    MapKind,
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

ALPHA = 0.05
SIGN_FLIPS = 9_999
VERY_SURE = 5
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


def analyse(study: Study, digest: str, ratings: Ratings, tests: Sequence[Tested]) -> StudyFindings:
    """Everything that ratings say, beside the report's own tests and the truth."""
    rated = arranged(study, ratings.answers)
    questions = asked(rated, [kind.name for kind in study.maps], study.seed)
    cells = _cells(study, rated)
    missing = ratings.missing(study)
    answered = len({rater for rater, _ in ratings.answers})
    return StudyFindings(
        study=digest,
        concept=study.concept,
        alpha=ALPHA,
        raters=len(study.sheets),
        answered=answered,
        tasks=sum(len(sheet.tasks) for sheet in study.sheets),
        taken=len(ratings.answers),
        refused=ratings.refused,
        missing=missing,
        questions=[_told(study, one) for one in questions],
        cells=cells,
        correctness=_correctness(study, rated),
        tests=list(tests),
        orders=_orders(study, cells, tests),
        notes=_notes(study, questions, cells, answered),
    )


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


def _told(study: Study, one: Question) -> Question:
    """The question with what came of it in words."""
    titles = {kind.name: kind.title for kind in study.maps}
    concept, names = study.concept.replace("_", " "), [titles[name] for name in one.maps]
    if one.difference is None:
        return one.model_copy(update={"sentence": f"{' and '.join(names)}: nobody has answered every task of it."})
    size = f"{plain(abs(one.difference), 2)} points"
    if len(names) == 1:
        side = "above" if one.difference >= 0 else "below"
        said = f"{names[0]}: raters put the {concept} {size} {side} the image"
    else:
        side = "more" if one.difference >= 0 else "less"
        said = f"{names[0]} gives the {concept} {size} {side} against the image than {names[1]} does"
    if one.interval is None or one.p_corrected is None:
        sentence = f"{said}, in the mean of {_raters(one.raters)}; fewer than {FEWEST_RATERS} are not tested."
    else:
        low, high = one.interval
        found = (
            "a difference that chance does not explain"
            if one.p_corrected <= ALPHA
            else "no difference beyond chance was found, which does not show that there is none"
        )
        sentence = (
            f"{said} ({signed(low, 2)} to {signed(high, 2)}, {_raters(one.raters)}, corrected p "
            f"{p_value(one.p_corrected)}): {found}."
        )
    return one.model_copy(update={"sentence": sentence})


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
        sentence=_correct_words(kind.title, share, gap),
    )


def _correct_words(title: str, share: Compared, gap: Compared) -> str:
    if share.value is None:
        return f"{title}: nobody has answered every task whose truth is known."
    interval = (
        ""
        if share.interval is None
        else (f" ({percent(max(0.0, share.interval[0]))} to {percent(min(1.0, share.interval[1]))})")
    )
    said = (
        f"{title}: raters rank the two as the truth does in {percent(share.value)} of tasks{interval}; 50 % is chance."
    )
    if gap.value is None:
        return f"{said} No rater was both right and wrong, so that their confidence cannot be compared."
    more = "more" if gap.value >= 0 else "less"
    ends = "" if gap.interval is None else f" ({signed(gap.interval[0], 2)} to {signed(gap.interval[1], 2)})"
    return f"{said} Where they are right they are {plain(abs(gap.value), 2)} points {more} sure{ends}."


def _mean_of(values: Array, chosen: NDArray[np.bool_]) -> Array:
    """Each rater's mean of the chosen values [rater, class]; NaN for a rater without any."""
    counts = chosen.sum(axis=1)
    sums = np.where(chosen, values, 0.0).sum(axis=1)
    means: Array = np.divide(sums, counts, out=np.full(len(values), np.nan), where=counts > 0)
    return means


def _orders(study: Study, cells: Sequence[Cell], tests: Sequence[Tested]) -> list[Order]:
    """For each class, which matters more to raters, to the report's tests, and in truth."""
    orders = []
    for of in study.classes:
        side, sentence = _order_of_tests([one for one in tests if one.of == of.name])
        orders.append(
            Order(
                of=of.name,
                raters={one.map: one.favoured for one in cells if one.of == of.name},
                tests=side,
                tests_sentence=sentence,
                truth=study.truth.get(of.name),
            )
        )
    return orders


def _order_of_tests(tests: Sequence[Tested]) -> tuple[Weighed | None, str]:
    """Which of the two the tests say matters more: the one whose interval lies beyond the other's, in size."""
    sizes = {one.stands_for: _size(one.effect_interval) for one in tests}
    said = "; ".join(
        f"{one.concept} moves {one.of} by {signed(one.effect_in_sd, 2)} sd at {one.place}"
        f"{'' if one.significant else ', not beyond chance'}"
        for one in tests
    )
    if not tests:
        return None, "No test to compare with."
    if len(sizes) < 2:
        return None, f"{said}. One concept alone has no order; --image-concept names one that stands for the image."
    if sizes["concept"][0] > sizes["image"][1]:
        return "concept", f"{said}."
    if sizes["image"][0] > sizes["concept"][1]:
        return "image", f"{said}."
    return None, f"{said}. Their intervals overlap in size."


def _size(interval: Interval) -> Interval:
    """The interval of the absolute value."""
    low, high = interval
    ends = sorted((abs(low), abs(high)))
    return (0.0, ends[1]) if low <= 0 <= high else (ends[0], ends[1])


def _notes(study: Study, questions: Sequence[Question], cells: Sequence[Cell], answered: int) -> list[str]:
    """What a reader has to know about the figures."""
    together = percent(1 - ALPHA)
    notes = [
        f"Each rater's answers become one mean before anything is compared. p-values come from flipping the signs of "
        f"raters' means ({SIGN_FLIPS:,} times, or every way where there are fewer), with Holm's correction over "
        f"{len(questions)} questions. Intervals hold together at {together}: over the questions, over the {len(cells)} "
        "classes with their kinds of map, and over the kinds of map."
    ]
    pictures = sum(len(one.pictures) for one in study.classes)
    notes.append(
        f"What is found holds for other raters, and for these {pictures} examples; it says little about others."
    )
    if 0 < answered < FEWEST_RATERS:
        notes.append(f"Only {_raters(answered)} answered: the figures describe them, and nothing is tested.")
    left_out = max((one.left_out for one in questions), default=0)
    if left_out:
        notes.append(
            f"Up to {_raters(left_out)} who answered some tasks of a question and not all are left out of it; the "
            "table of classes has all answers."
        )
    if not study.truth:
        notes.append("The study does not say what is right (--truth), so that no rating is right or wrong.")
    return notes


def _raters(count: int) -> str:
    return "1 rater" if count == 1 else f"{count} raters"
