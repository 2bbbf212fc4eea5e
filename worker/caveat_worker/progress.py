"""How far a computation is: a stage and a share of the whole."""

from __future__ import annotations

from collections.abc import Callable

from caveat_spec.artifacts import STAGES, Stage

Progress = Callable[[Stage, float], None]
"""Told where a computation is: its stage, and the share of the whole that is done, from 0 to 1."""


def counter(stage: Stage, until: Stage, whole: int, progress: Progress) -> Callable[[int], None]:
    """Turns counts of finished work into progress from the beginning of one stage to that of another."""
    done = 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        share = min(1.0, done / max(whole, 1))
        progress(stage, round(STAGES[stage] + (STAGES[until] - STAGES[stage]) * share, 4))

    count(0)
    return count
