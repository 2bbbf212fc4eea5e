"""The one exception that the engine raises for input it will not work on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class Refused(ValueError):  # noqa: N818
    """Says in `sentence` what is wrong, in `remedy` what to do, and in `code` a slug that programs can test."""

    def __init__(self, code: str, sentence: str, remedy: str, pointer: str | None = None) -> None:
        super().__init__(f"{sentence} {remedy}")
        self.code = code
        self.sentence = sentence
        self.remedy = remedy
        self.pointer = pointer

    def __reduce__(self) -> tuple[type[Refused], tuple[str, str, str, str | None]]:
        return type(self), (self.code, self.sentence, self.remedy, self.pointer)


@contextmanager
def about(place: str, *fields: str) -> Iterator[None]:
    """Lets a refusal say what it is about: `place`, a JSON pointer, and its own field if it is one of `fields`."""
    try:
        yield
    except Refused as refused:
        if not (refused.pointer or "").startswith("/"):
            refused.pointer = f"{place}/{refused.pointer}" if refused.pointer in fields else place
        raise
