"""Every kind of problem: its statuses, its sentences and their remedies, as `tools/problems.py` finds them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.resources import files


@dataclass(frozen=True)
class Kind:
    """One kind of problem; `…` in its sentences stands for what is filled in when it happens."""

    code: str
    title: str
    statuses: tuple[int, ...]
    said: tuple[tuple[str, str], ...]
    """Sentences, each with its remedy; none where they are made as it happens."""


def kind(code: str) -> Kind | None:
    """The kind of a code, which may be a whole type (`urn:caveat:problem:CODE`); None where there is none."""
    return _kinds().get(code.strip().rpartition(":")[2])


def near(code: str) -> list[str]:
    """Codes that are written alike, the closest first."""
    return get_close_matches(code.strip().rpartition(":")[2], _kinds(), n=3, cutoff=0.5)


def codes() -> list[str]:
    """All of them, in alphabetical order."""
    return sorted(_kinds())


@cache
def _kinds() -> dict[str, Kind]:
    listed = json.loads(files("caveat_spec").joinpath("problem_codes.json").read_text(encoding="utf-8"))
    return {
        code: Kind(
            code,
            code.replace("-", " ").capitalize(),
            tuple(one["statuses"]),
            tuple((sentence, remedy) for sentence, remedy in one["said"]),
        )
        for code, one in listed.items()
    }
