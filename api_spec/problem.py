"""The one shape of every error: problem details for HTTP APIs (RFC 9457)."""

from __future__ import annotations

from pydantic import Field

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
