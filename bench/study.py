"""Simulated raters: how often a study finds what is not there, and how often what was planted.

python -m bench.study            the rows, as Markdown (a few minutes)
python -m bench.study --quick    a tenth of the studies

`rows` gives them to docs/building-blocks.md, whose columns they have. The article says what raters are asked, not how
much their answers vary; the noise is our assumption, stated in each row, and the power is shown for other ones too. A
shift of one point is one of mean ratings: some of what raters mean is lost at the ends of the scale.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from bench.page import table
from bench.rows import Row
from caveat_spec.study import ALPHA, LARGEST_CONFIDENCE, LARGEST_IMPORTANCE, Question
from caveat_worker.engine.statistics.proportions import exact_interval
from caveat_worker.study_analysis import Rated, asked

MAPS = ("one kind of map", "another")
CLASSES = 3
STUDIES = 2_000
POWER_STUDIES = 1_000
RATERS = 50


@dataclass(frozen=True)
class Noise:
    """How answers of simulated raters vary, in points of a scale from 1 to 10."""

    answer: float = 2.0
    """Standard deviation of each answer about what the rater means; infinite for answers at random (2.87)."""
    leaning: float = 1.0
    """Of raters' own leaning to the concept, the same in all their tasks."""
    level: float = 1.5
    """Of the level at which raters use the scale, for image and concept alike."""
    classes: tuple[float, ...] = (1.0, 0.0, -1.0)
    """What the concept gains in each class; over the classes it is nothing."""

    def words(self) -> str:
        return f"sd {self.answer:g} an answer, {self.leaning:g} of raters' leanings"


ASSUMED = Noise()


BLOCK = "`caveat study`"


def rate(shifts: tuple[float, float], noise: Noise, raters: int, rng: np.random.Generator) -> Rated:
    """Ratings [rater, class, kind of map] on the scales, with the concept `shifts` points above the image."""
    shape = (raters, CLASSES, len(MAPS))
    middle = (1 + LARGEST_IMPORTANCE) / 2
    image = middle + noise.level * rng.normal(size=(raters, 1, 1)) + np.zeros(shape)
    leaning = noise.leaning * rng.normal(size=(raters, 1, 1)) + np.array(noise.classes)[:, None] + np.array(shifts)
    answers = [_answered(meant, noise, rng) for meant in (image, image + leaning)]
    return Rated(*answers, rng.integers(1, LARGEST_CONFIDENCE + 1, shape).astype(float))


@cache
def meant_for(shift: float, noise: Noise) -> float:
    """By how much more raters have to mean, for their mean ratings to differ by `shift` points."""
    low, high = 0.0, 4.0
    while high - low > 1e-3:
        middle = (low + high) / 2
        rated = rate((middle, 0.0), noise, 20_000, np.random.default_rng(0))
        low, high = (middle, high) if rated.difference[:, :, 0].mean() < shift else (low, middle)
    return high


def _answered(meant: np.ndarray, noise: Noise, rng: np.random.Generator) -> np.ndarray:
    """Whole numbers on the scale."""
    if np.isinf(noise.answer):
        return rng.integers(1, LARGEST_IMPORTANCE + 1, meant.shape).astype(float)
    return np.clip(np.round(meant + noise.answer * rng.normal(size=meant.shape)), 1, LARGEST_IMPORTANCE)


def studies(
    count: int, shifts: tuple[float, float], seed: int, noise: Noise = ASSUMED, raters: int = RATERS
) -> Iterator[list[Question]]:
    """What so many studies of their own raters found."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        yield asked(rate(shifts, noise, raters, rng), MAPS, number)


def false_alarms(count: int, seed: int, **how: Any) -> tuple[int, int]:
    """Of so many studies whose raters have nothing to tell: those that find anything, and those whose intervals do."""
    every = [*studies(count, (0.0, 0.0), seed, **how)]
    alarms = sum(any(found(one) for one in questions) for questions in every)
    return alarms, sum(not all(holds_nothing(one) for one in questions) for questions in every)


def powered(count: int, shift: float, seed: int, **how: Any) -> int:
    """Of so many studies whose mean ratings differ for one kind of map, those that find it and its direction."""
    planted = meant_for(shift, how.get("noise", ASSUMED))
    every = (questions[0] for questions in studies(count, (planted, 0.0), seed, **how))
    return sum(found(one) and (one.difference or 0.0) * shift > 0 for one in every)


def found(one: Question) -> bool:
    return one.p_corrected is not None and one.p_corrected <= ALPHA


def holds_nothing(one: Question) -> bool:
    return one.interval is not None and one.interval[0] <= 0 <= one.interval[1]


def rows(quick: bool = False) -> Iterator[Row]:
    """The rows of a page: false alarms, power at one point, and power elsewhere."""
    part = 10 if quick else 1
    null, planted = STUDIES // part, POWER_STUDIES // part
    yield from _null(f"{RATERS} raters, {ASSUMED.words()}", false_alarms(null, 1), null)
    yield from _null(f"{RATERS} raters who answer at random", false_alarms(null, 2, noise=AT_RANDOM), null)
    yield from _null("8 raters, the fewest that are tested", false_alarms(null, 3, raters=8), null)
    hits = powered(planted, 1.0, 4)
    yield Row(
        BLOCK,
        f"power at a planted shift of 1 point for one of two kinds of map: {RATERS} raters, {ASSUMED.words()}",
        "≥ 0.9",
        _share(hits, planted),
        hits >= 0.9 * planted,
    )
    for noise, raters, shift in ELSEWHERE:
        hits = powered(planted, shift, 5, noise=noise, raters=raters)
        yield Row(
            BLOCK,
            f"power at {shift:g} point{'' if shift == 1 else 's'}: {raters} raters, {noise.words()}",
            "",
            _share(hits, planted),
            None,
        )


AT_RANDOM = Noise(answer=np.inf)
ELSEWHERE = (
    (Noise(answer=1.0), RATERS, 1.0),
    (Noise(answer=3.0), RATERS, 1.0),
    (Noise(leaning=2.0), RATERS, 1.0),
    (ASSUMED, RATERS, 0.5),
    (ASSUMED, 20, 1.0),
    (ASSUMED, 20, 2.0),
    (ASSUMED, 100, 0.5),
)


def _null(who: str, counts: tuple[int, int], count: int) -> Iterator[Row]:
    """α is kept unless there are more alarms than chance explains at α."""
    nothing = f"simulated studies without anything to find, at α {ALPHA:g}: {who}"
    for what, alarms in zip(("find something", "have an interval without 0 among three"), counts, strict=True):
        low, _ = exact_interval(alarms, count, 0.05)
        yield Row(BLOCK, f"{nothing}; these {what}", f"≤ {ALPHA:g}", _share(alarms, count), low <= ALPHA)


def _share(hits: int, count: int) -> str:
    return f"{hits / count:.3f} ({hits} of {count:,})"


def main() -> int:
    every = list(rows("--quick" in sys.argv[1:]))
    print(table(["block", "simulated raters", "bound", "found", "met"], [one.cells() for one in every]))
    return int(any(one.met is False for one in every))


if __name__ == "__main__":
    sys.exit(main())
