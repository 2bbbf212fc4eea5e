"""What a hostile case is: bytes made by code, what is asked about them, and the problem that has to come back."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from api_spec.jobs import JobKind

TAKEN = "taken"
"""In place of a problem's code: what looks odd does no harm."""


@dataclass(frozen=True)
class Asked:
    """A job: its kind, its request, and the bytes that the request names by their digests."""

    kind: JobKind
    payload: dict[str, Any]
    blobs: dict[str, bytes]

    def place(self, folder: Path) -> Callable[[str], Path]:
        """Writes the bytes into `folder`, and says where each digest is."""
        for digest, data in self.blobs.items():
            (folder / digest[7:]).write_bytes(data)
        return lambda digest: folder / digest[7:]


@dataclass(frozen=True)
class Case:
    """One hostile input; `codes` are the problems that may come back, one of them must."""

    name: str
    codes: frozenset[str]
    make: Callable[[], Asked]
    heavy: bool
    """Whether only the limits of a process of its own hold it."""


class Cases(list[Case]):
    """The cases of one file."""

    def add(
        self, *codes: str, of: Iterable[Any] = ((),), heavy: bool = False
    ) -> Callable[[Callable[..., Asked]], Callable[..., Asked]]:
        """Registers a function that makes a case, once for each of its arguments in `of`."""

        def register(make: Callable[..., Asked]) -> Callable[..., Asked]:
            for given in of:
                arguments = given if isinstance(given, tuple) else (given,)
                name = "-".join([make.__name__, *(_short(argument) for argument in arguments)])
                self.append(Case(name, frozenset(codes), partial(make, *arguments), heavy))
            return make

        return register


def model(data: bytes) -> Asked:
    """Asks what is in a model."""
    return Asked("model", {"blob": digest(data)}, {digest(data): data})


def examples(declared: dict[str, Any], **files: bytes) -> Asked:
    """Asks what is in an example set; each file stands for the field of its name."""
    sources = {field: digest(data) for field, data in files.items()}
    return Asked("examples", {"examples": sources | declared}, {digest(data): data for data in files.values()})


def digest(data: bytes) -> str:
    """As the API names bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _short(argument: object) -> str:
    text = getattr(argument, "__name__", None) or (
        hashlib.sha256(argument).hexdigest()[:8] if isinstance(argument, bytes) else str(argument)
    )
    text = text.encode("unicode_escape").decode()
    return text if len(text) <= 40 else f"{text[:32]}~{hashlib.sha256(text.encode()).hexdigest()[:6]}"
