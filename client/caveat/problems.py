"""Errors as problem details (RFC 9457), whether found in the audit file, by a service or by the sandboxed child."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from caveat.positions import Positions
from caveat_spec.problem import Fault, ProblemDetails

PASS, FAIL, INVALID, INFRASTRUCTURE, INCONCLUSIVE = 0, 1, 2, 3, 4
"""Exit codes of the command."""

NOT_INVALID = {401, 403, 407, 408, 425, 429}
"""Statuses under 500 that do not mean that the request was invalid: keys, proxies, rate limits, timeouts."""


class ProblemError(Exception):
    """A problem as an exception; `positions` give line and column of its JSON pointers, where the file is known."""

    def __init__(self, problem: ProblemDetails, positions: Positions | None = None) -> None:
        faults = "".join(f"\n  {fault.pointer}: {fault.detail}" for fault in problem.errors or ())
        super().__init__(f"{problem.detail} {problem.remedy}".strip() + faults)
        self.problem = problem
        self.positions = positions

    @property
    def exit_code(self) -> int:
        """2 where the request was invalid, 3 for a failure of the infrastructure."""
        status = self.problem.status
        return INVALID if 400 <= status < 500 and status not in NOT_INVALID else INFRASTRUCTURE


def problem(code: str, status: int, detail: str, remedy: str, errors: list[Fault] | None = None) -> ProblemError:
    """Makes a `ProblemError`."""
    return ProblemError(ProblemDetails.of(code, status, detail, remedy, errors))


@contextmanager
def pointing_into(positions: Positions) -> Iterator[None]:
    """Gives problems raised inside the positions of this document."""
    try:
        yield
    except ProblemError as error:
        error.positions = error.positions or positions
        raise


@contextmanager
def at(pointer: str) -> Iterator[None]:
    """Gives problems raised inside a fault at this JSON pointer."""
    try:
        yield
    except ProblemError as error:
        fault = Fault(pointer=pointer, detail=error.problem.detail)
        error.problem = error.problem.model_copy(update={"errors": [fault]})
        raise
