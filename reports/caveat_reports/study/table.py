"""Files of ratings as CSV, with the columns that `caveat study read` takes."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from caveat_spec.study import COLUMNS, RATINGS, Rating, Study


def ratings_csv(study: Study, ratings: Sequence[Rating]) -> str:
    """A row for each answer."""
    answered = [rating_row(study, one.rater, one.task, [getattr(one, name) for name in RATINGS]) for one in ratings]
    return rows([COLUMNS, *answered])


def rows(lines: Sequence[Sequence[object]]) -> str:
    """Rows of a CSV file with their line feeds."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def rating_row(study: Study, rater: int, number: int, ratings: Sequence[object] = ("",) * len(RATINGS)) -> list[object]:
    """A row of a file of ratings, for one rater's task; its ratings are empty by default."""
    task = study.sheets[rater - 1].tasks[number - 1]
    return [rater, number, task.of, task.map, study.model, *ratings]
