"""The registry of methods: one row each. A method's mathematics is a function of the same name in the engine.

Another package adds a method by an entry point of the group `caveat.methods` that names a `MethodEntry`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Literal

from caveat_spec.base import Document

ENTRY_POINTS = "caveat.methods"
Part = Literal["concepts", "pairs", "groups"]
"""Parts of an audit that ask for a method without naming it."""


class NoOptions(Document):
    """A method without options of its own; what all methods share is in the audit's `method`."""


@dataclass(frozen=True)
class MethodEntry:
    """One method that an audit can run."""

    name: str
    summary: str
    """What it answers, in one sentence."""
    module: str
    """Where its function is, under the method's name; imported when an audit runs, never by the API."""
    options: type[Document] = NoOptions
    implied_by: Part | None = None
    """The part of an audit that asks for it; null where an audit must name it in `methods`."""


METHODS = (
    MethodEntry(
        "tcav",
        "Tests at each layer whether the model is sensitive to a concept (Kim et al. 2018), with a permutation test.",
        module="caveat_worker.engine.methods.tcav",
        implied_by="concepts",
    ),
    MethodEntry(
        "intervention",
        "Measures what adding a concept to the same examples does to a target, on matched pairs.",
        module="caveat_worker.engine.methods.intervention",
        implied_by="pairs",
    ),
    MethodEntry(
        "group_comparison",
        "Compares decisions between groups of people.",
        module="caveat_worker.engine.methods.group_comparison",
        implied_by="groups",
    ),
)


@cache
def methods() -> dict[str, MethodEntry]:
    """Every method by its name: those above, then those that installed packages add."""
    added = [point.load() for point in entry_points(group=ENTRY_POINTS)]
    return {entry.name: entry for entry in (*METHODS, *added)}
