"""The one shape of every error: problem details for HTTP APIs (RFC 9457)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import Field, ValidationError

from api_spec.base import Document, Integer

MOST_FAULTS = 100
LONGEST_POINTER = 1_000  # characters; a document may have keys of a megabyte


class Fault(Document):
    """One thing that is wrong, and where."""

    pointer: str
    """A JSON pointer (RFC 6901) into what was sent; empty for the whole of it."""
    detail: str


class Problem(Document):
    """What went wrong, in a sentence, and what to do about it."""

    type: str
    """A stable name for the kind of problem: `urn:caveat:problem:<code>`."""
    title: str
    status: Integer
    detail: str
    remedy: str
    errors: list[Fault] = Field(default_factory=list)
    instance: str | None = None

    @classmethod
    def of(cls, code: str, status: int, detail: str, remedy: str, errors: list[Fault] | None = None) -> Problem:
        """A problem whose title is its code in words."""
        title = code.replace("-", " ").capitalize()
        return cls(
            type=f"urn:caveat:problem:{code}",
            title=title,
            status=status,
            detail=detail,
            remedy=remedy,
            errors=errors or [],
        )


def faults_of(error: ValidationError, document: Any) -> list[Fault]:
    """What pydantic found, as pointers into the document that it looked at; of very many faults, the first."""
    found = error.errors(include_url=False, include_input=False)
    faults = [
        _fault(detail["msg"], detail["loc"], document, absent=detail["type"] == "missing")
        for detail in found[:MOST_FAULTS]
    ]
    if len(found) > MOST_FAULTS:
        faults.append(Fault(pointer="", detail=f"{len(found) - MOST_FAULTS:,} more faults like these were left out"))
    return faults


def _fault(message: str, location: tuple[int | str, ...], document: Any, *, absent: bool) -> Fault:
    """A validator that looks across fields begins its sentence with the pointer that it means."""
    sentence = message.removeprefix("Value error, ")
    if sentence.startswith("/"):
        return Fault(pointer=sentence.partition(" ")[0][:LONGEST_POINTER], detail=sentence[:LONGEST_POINTER])
    steps = tuple(step for step in location if step != "[key]")
    way = max(_ways(document, steps, absent=absent), key=lambda way: (way[-1:], len(way)), default=[])
    pointer = "".join(f"/{_escape(steps[at])}" for at in way)
    return Fault(pointer=pointer[:LONGEST_POINTER], detail=sentence[:LONGEST_POINTER])


def _ways(node: Any, steps: tuple[int | str, ...], *, absent: bool, at: int = 0) -> Iterator[list[int]]:
    """Every way from step `at` on through the document, as the positions of the steps that are taken.

    Pydantic puts the names of alternatives between the steps, such as `float` or `list[float]`: these lead nowhere and
    are passed over, though one may also be the name of a field. The way that is meant is the one that comes nearest to
    the end. With `absent`, the last step is a field that a mapping should have had.
    """
    if at == len(steps):
        yield []
        return
    step = steps[at]
    there = step in node if isinstance(node, dict) else isinstance(node, list) and step in range(len(node))
    if absent and at == len(steps) - 1:
        if isinstance(node, dict) and not there:
            yield [at]
        return
    if there:
        yield from ([at, *way] for way in _ways(node[step], steps, absent=absent, at=at + 1))
    yield from _ways(node, steps, absent=absent, at=at + 1)


def _escape(step: int | str) -> str:
    return str(step).replace("~", "~0").replace("/", "~1")
