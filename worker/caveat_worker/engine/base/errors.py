"""The exception that the engine raises for invalid input."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class InvalidInput(ValueError):  # noqa: N818
    """Invalid input: `sentence` says what is wrong, `remedy` what to do, and `code` is a slug for programs.

    `pointer` is the JSON pointer of the field at fault, or the field's name until `error_context` completes it.
    """

    def __init__(self, code: str, sentence: str, remedy: str, pointer: str | None = None) -> None:
        super().__init__(f"{sentence} {remedy}")
        self.code = code
        self.sentence = sentence
        self.remedy = remedy
        self.pointer = pointer

    def __reduce__(self) -> tuple[type[InvalidInput], tuple[str, str, str, str | None]]:
        return type(self), (self.code, self.sentence, self.remedy, self.pointer)


@contextmanager
def error_context(place: str, *fields: str) -> Iterator[None]:
    """Points an `InvalidInput` from the block to `place`, a JSON pointer, or to its own field there if in `fields`."""
    try:
        yield
    except InvalidInput as error:
        if not (error.pointer or "").startswith("/"):
            error.pointer = f"{place}/{error.pointer}" if error.pointer in fields else place
        raise
