"""Errors as problem details for HTTP APIs (RFC 9457)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import Field, ValidationError

from caveat_spec.base import Document, Integer

MOST_FAULTS = 100
LONGEST_POINTER = 1_000  # characters; a document may have keys of a megabyte


class Fault(Document):
    """One fault in a request and its location."""

    pointer: str
    """JSON pointer (RFC 6901) into the request; empty for the whole request."""
    detail: str


class ProblemDetails(Document):
    """A problem in one sentence, with its remedy."""

    type: str
    """Stable identifier of the kind of problem: `urn:caveat:problem:<code>`."""
    title: str
    status: Integer
    detail: str
    remedy: str
    errors: list[Fault] = Field(default_factory=list)
    instance: str | None = None

    @property
    def code(self) -> str:
        """The kind of problem, without its namespace."""
        return self.type.removeprefix("urn:caveat:problem:")

    @classmethod
    def of(cls, code: str, status: int, detail: str, remedy: str, errors: list[Fault] | None = None) -> ProblemDetails:
        """Creates a problem whose title is its code in words."""
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
    """The faults that pydantic found, with pointers into the validated document; at most `MOST_FAULTS` of them."""
    found = error.errors(include_url=False, include_input=False)
    faults = [
        _fault(detail["msg"], detail["loc"], document, absent=detail["type"] == "missing")
        for detail in found[:MOST_FAULTS]
    ]
    if len(found) > MOST_FAULTS:
        faults.append(Fault(pointer="", detail=f"{len(found) - MOST_FAULTS:,} more faults like these were left out"))
    return faults


def _fault(message: str, location: tuple[int | str, ...], document: Any, *, absent: bool) -> Fault:
    """One fault; the message of a validator that compares fields begins with the pointer it is about."""
    sentence = message.removeprefix("Value error, ")
    if sentence.startswith("/"):
        return Fault(pointer=sentence.partition(" ")[0][:LONGEST_POINTER], detail=sentence[:LONGEST_POINTER])
    steps = tuple(step for step in location if step != "[key]")
    way = max(_ways(document, steps, absent=absent), key=lambda way: (way[-1:], len(way)), default=[])
    pointer = "".join(f"/{_escape(steps[at])}" for at in way)
    return Fault(pointer=pointer[:LONGEST_POINTER], detail=sentence[:LONGEST_POINTER])


def _ways(node: Any, steps: tuple[int | str, ...], *, absent: bool, at: int = 0) -> Iterator[list[int]]:
    """Every path from step `at` through the document, as the positions of the steps taken.

    Pydantic inserts the names of alternatives, such as `float` or `list[float]`, between the steps. They match nothing
    in the document and are skipped, though one may also be the name of a field. The right path is the one that gets
    closest to the end. With `absent`, the last step is a field that is missing from a mapping.
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
