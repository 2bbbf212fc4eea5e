"""Everything that can go wrong is a `Problem`, whoever found it: the audit file, a server, or the sandboxed child."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from api_spec.problem import Fault, Problem

if TYPE_CHECKING:
    from caveat.document import Positions

PASS, FAIL, INVALID, INFRASTRUCTURE, INCONCLUSIVE = 0, 1, 2, 3, 4
"""What the command exits with."""

NOT_THE_AUDITS_FAULT = {401, 403, 407, 408, 425, 429}
"""Statuses under 500 that say nothing about what was asked: keys, proxies, patience."""


class ProblemError(Exception):
    """A problem, on its way to whoever can show it; `positions` say where its pointers lead, once that is known."""

    def __init__(self, problem: Problem, positions: Positions | None = None) -> None:
        super().__init__(f"{problem.detail} {problem.remedy}".strip())
        self.problem = problem
        self.positions = positions

    @property
    def exit_code(self) -> int:
        """2 where the request was at fault, 3 where the machinery was."""
        status = self.problem.status
        return INVALID if 400 <= status < 500 and status not in NOT_THE_AUDITS_FAULT else INFRASTRUCTURE


def problem(code: str, status: int, detail: str, remedy: str, errors: list[Fault] | None = None) -> ProblemError:
    """A problem ready to be raised."""
    return ProblemError(Problem.of(code, status, detail, remedy, errors))


@contextmanager
def pointing_into(positions: Positions) -> Iterator[None]:
    """Whatever goes wrong inside, its pointers lead into this document."""
    try:
        yield
    except ProblemError as error:
        error.positions = error.positions or positions
        raise
