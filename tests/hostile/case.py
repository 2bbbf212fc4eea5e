"""A hostile case: bytes made by code, the job that reads them, and the problems in which the job may end."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from caveat_spec.jobs import JobKind

ACCEPTED = "accepted"
"""The code of a case that is unusual but harmless."""


@dataclass(frozen=True)
class Job:
    """A job: its kind, its request, and the bytes that the request names by their digests."""

    kind: JobKind
    payload: dict[str, Any]
    blobs: dict[str, bytes]

    def place(self, folder: Path) -> Callable[[str], Path]:
        """Writes the bytes into `folder`; returns the path of each digest."""
        for digest, data in self.blobs.items():
            (folder / digest[7:]).write_bytes(data)
        return lambda digest: folder / digest[7:]


@dataclass(frozen=True)
class Case:
    """One hostile input, which has to end in one of the problems `codes`."""

    name: str
    codes: frozenset[str]
    make: Callable[[], Job]
    heavy: bool
    """Whether the case needs the limits of the sandbox."""


class Cases(list[Case]):
    """The cases of one file."""

    def add(
        self, *codes: str, of: Iterable[Any] = ((),), heavy: bool = False
    ) -> Callable[[Callable[..., Job]], Callable[..., Job]]:
        """Registers a function that makes a job, as one case for each of the arguments in `of`."""

        def register(make: Callable[..., Job]) -> Callable[..., Job]:
            for given in of:
                arguments = given if isinstance(given, tuple) else (given,)
                name = "-".join([make.__name__, *(_short(argument) for argument in arguments)])
                self.append(Case(name, frozenset(codes), partial(make, *arguments), heavy))
            return make

        return register


def model(data: bytes) -> Job:
    """The job that inspects a model."""
    return Job("model", {"blob": digest(data)}, {digest(data): data})


def examples(declared: dict[str, Any], **files: bytes) -> Job:
    """The job that inspects an example set, with a file for each of its source fields."""
    sources = {field: digest(data) for field, data in files.items()}
    return Job("examples", {"examples": sources | declared}, {digest(data): data for data in files.values()})


def digest(data: bytes) -> str:
    """The digest of bytes in the API's form."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _short(argument: object) -> str:
    text = getattr(argument, "__name__", None) or (
        hashlib.sha256(argument).hexdigest()[:8] if isinstance(argument, bytes) else str(argument)
    )
    text = text.encode("unicode_escape").decode()
    return text if len(text) <= 40 else f"{text[:32]}~{hashlib.sha256(text.encode()).hexdigest()[:6]}"
