"""What the ratings of a study came to, in sentences; the numbers are a worker's."""

from __future__ import annotations

from collections.abc import Sequence

from caveat_reports.formatting import p_value, percent, plain, signed
from caveat_spec.study import (
    ALPHA,
    FEWEST_RATERS,
    SIGN_FLIPS,
    Correctness,
    Order,
    Question,
    Study,
    StudyFindings,
    Tested,
)


def worded(study: Study, found: StudyFindings) -> StudyFindings:
    """The findings with a sentence for everything that they say, and what a reader has to know."""
    titles = {kind.name: kind.title for kind in study.maps}
    right = [one.model_copy(update={"sentence": _correct_words(titles[one.map], one)}) for one in found.correctness]
    orders = [one.model_copy(update={"tests_sentence": _tests_words(one, found.tests)}) for one in found.orders]
    said = {
        "questions": [_told(study, one) for one in found.questions],
        "correctness": right,
        "orders": orders,
        "notes": _notes(study, found),
    }
    return found.model_copy(update=said)


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


def _correct_words(title: str, one: Correctness) -> str:
    if one.share is None:
        return f"{title}: nobody has answered every task whose truth is known."
    interval = "" if one.interval is None else f" ({percent(one.interval[0])} to {percent(one.interval[1])})"
    said = f"{title}: raters rank the two as the truth does in {percent(one.share)} of tasks{interval}; 50 % is chance."
    gap, ends = one.confidence_difference, one.confidence_interval
    if gap is None:
        return f"{said} No rater was both right and wrong, so that their confidence cannot be compared."
    more = "more" if gap >= 0 else "less"
    apart = "" if ends is None else f" ({signed(ends[0], 2)} to {signed(ends[1], 2)})"
    return f"{said} Where they are right they are {plain(abs(gap), 2)} points {more} sure{apart}."


def _tests_words(one: Order, every: Sequence[Tested]) -> str:
    """What the tests say of a class, and whether that is an order."""
    tests = [test for test in every if test.of == one.of]
    said = "; ".join(
        f"{test.concept} moves {test.of} by {signed(test.effect_in_sd, 2)} sd at {test.place}"
        f"{'' if test.significant else ', not beyond chance'}"
        for test in tests
    )
    if not tests:
        return "No test to compare with."
    if len({test.stands_for for test in tests}) < 2:
        return f"{said}. One concept alone has no order; name another one that stands for the image."
    return f"{said}." if one.tests is not None else f"{said}. Their intervals overlap in size."


def _notes(study: Study, found: StudyFindings) -> list[str]:
    """What a reader has to know about the figures."""
    questions, cells, answered = found.questions, found.cells, found.answered
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
        notes.append("The study does not say what is right, so that no rating is right or wrong.")
    return notes


def _raters(count: int) -> str:
    return "1 rater" if count == 1 else f"{count} raters"
