"""The one shape of every error: problem details for HTTP APIs (RFC 9457)."""

from __future__ import annotations

from typing import Any

from pydantic import Field, ValidationError

from api_spec.base import Document, Integer


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
    """What pydantic found, as pointers into the document that it looked at."""
    return [
        _fault(detail["msg"], detail["loc"], document)
        for detail in error.errors(include_url=False, include_input=False)
    ]


def _fault(message: str, location: tuple[int | str, ...], document: Any) -> Fault:
    """A validator that looks across fields begins its sentence with the pointer that it means."""
    sentence = message.removeprefix("Value error, ")
    if sentence.startswith("/"):
        return Fault(pointer=sentence.partition(" ")[0], detail=sentence)
    steps = _walk(document, tuple(step for step in location if step != "[key]"))
    return Fault(pointer="".join(f"/{_escape(step)}" for step in steps or ()), detail=sentence)


def _walk(node: Any, location: tuple[int | str, ...]) -> list[int | str] | None:
    """The steps of `location` that lead through the document; pydantic adds the names of alternatives, which do not."""
    if not location:
        return []
    step, rest = location[0], location[1:]
    there = step in node if isinstance(node, dict) else isinstance(node, list) and step in range(len(node))
    further = _walk(node[step], rest) if there else None
    if further is not None:
        return [step, *further]
    if rest:
        return _walk(node, rest)
    return [step] if isinstance(node, dict) else None


def _escape(step: int | str) -> str:
    return str(step).replace("~", "~0").replace("/", "~1")
